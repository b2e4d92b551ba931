"""The output of commands, in the folder of the run: secrets in it are masked as soon as a command has exited.

A command writes to its file directly, so that it survives this program. While it runs, nothing can mask its output.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from runbook.events import Event, EventName, StepFinished, StepRetrying
from runbook.model import frozen

CHUNK = 1024 * 1024  # bytes that are read at a time
TAIL = 4096  # bytes at the end of an output that are read while its command runs
_TERMINAL_CODE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")  # of colours, titles and others
OUTPUT_FILES = re.compile(r"\.log(\.\d+)?$")  # the names of output files: of the last attempt, and of earlier ones

INPUT_FILES = re.compile(r"\.log\.(start|script)$")
"""The names of files with the input of a command, which contains its variables. Its unit removes them, unless the
machine went down; a running command has already read them."""

RUN_END_EVENTS = (EventName.RUN_FINISHED, EventName.RUN_ABANDONED, EventName.RUN_SUPERSEDED)  # no command starts then


@frozen
class OutputMasker:
    """Masks secrets in output files: a sink, called before the record is written."""

    folder: Path
    secrets: tuple[str, ...]  # their values, the longest first, as one may be a part of another

    def __call__(self, event: Event) -> None:
        """Mask the output of a step that finished; at the end of the run all outputs, and delete the inputs."""
        if event.event in RUN_END_EVENTS:
            self.mask_all()
            for path in _list_files(self.folder, INPUT_FILES):
                with contextlib.suppress(OSError):
                    path.unlink()
        elif isinstance(event.payload, StepFinished | StepRetrying):
            self._mask_files(f"{event.payload.id}.log")

    def mask_all(self) -> None:
        """Mask what all commands of the run wrote."""
        self._mask_files("")

    def _mask_files(self, prefix: str) -> None:
        """Mask the files whose names begin with a text. If one cannot be written, only its owner can read it anyway."""
        if not self.secrets:
            return
        for path in list_output_files(self.folder):
            if path.name.startswith(prefix):
                _mask(path, self.secrets)


def read_last_lines(path: str, most: int, mask: Callable[[str], str] | None = None) -> list[str]:
    """Return the last lines that a command has written so far, without empty ones; none if they cannot be read.

    Only the last TAIL bytes are read. `mask` masks the secrets in them; then a line that is not complete, in which half
    a secret could not be recognised, is left out.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, fd)
        at = max(0, os.fstat(fd).st_size - TAIL)
        text = os.pread(fd, TAIL, at).decode(errors="replace")
    if mask is not None:
        text = mask(text)
        text = text[: text.rfind("\n") + 1]
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if at and "\r" not in lines[0]:
        del lines[0]  # Its beginning was not read.
    # A progress bar overwrites its line. What is before the last carriage return is not on the screen any more.
    shown = (_TERMINAL_CODE.sub("", line.rpartition("\r")[2]).rstrip() for line in lines)
    return [line for line in shown if line][-most:]


def list_output_files(folder: Path) -> list[Path]:
    """Return the output files, sorted by name. A symbolic link is not one of them."""
    return _list_files(folder, OUTPUT_FILES)


def _list_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    try:
        return [
            path for path in sorted(folder.iterdir()) if names.search(path.name) and stat.S_ISREG(path.lstat().st_mode)
        ]
    except OSError:
        return []


def _mask(path: Path, secrets: Iterable[str]) -> None:
    """Overwrite the secrets with asterisks in place, which needs no space on a full disk, and no second file."""
    words = [secret.encode(errors="surrogateescape") for secret in secrets]
    most = max(map(len, words))
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        undo.callback(os.close, fd)
        at = 0
        # Chunks overlap, so that a secret at the border of two is found.
        while piece := os.pread(fd, CHUNK + most - 1, at):
            masked = piece
            for word in words:
                # Only words that begin in this chunk: a longer one that begins in the next may be cut off here.
                end = CHUNK + len(word) - 1
                masked = masked[:end].replace(word, b"*" * len(word)) + masked[end:]
            if masked != piece:
                os.pwrite(fd, masked, at)
            at += CHUNK
