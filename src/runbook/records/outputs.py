"""What commands printed, in the run's folder: the secrets in it are masked as soon as a command has ended.

A command writes into its file itself, so that it outlives this program: while it runs, nobody stands between.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runbook.events import Event, EventName, StepFinished, StepRetrying

CHUNK = 1024 * 1024
"""Bytes that are looked at together."""

OUTPUT_FILES = re.compile(r"\.log(\.\d+)?$")
"""The names of such files: of the last try, and of those before it."""

INPUT_FILES = re.compile(r"\.log\.(start|script)$")
"""The names of files with what a command was given, its variables among it. Its unit removes them, unless it died with
the machine; a command that runs has read them."""

RUN_END_EVENTS = (EventName.RUN_FINISHED, EventName.RUN_ABANDONED, EventName.RUN_SUPERSEDED)
"""The events after which no command of the run is to be begun."""


@dataclass(frozen=True)
class OutputMasker:
    """Masks what was printed: a sink, to stand before the record. `secrets` are values, the longest first."""

    folder: Path
    secrets: tuple[str, ...]

    def __call__(self, event: Event) -> None:
        """Mask what the step printed that this event is about; at the end of the run, all that is left of commands."""
        if event.event in RUN_END_EVENTS:
            self.mask("")
            for path in _list_files(self.folder, INPUT_FILES):
                with contextlib.suppress(OSError):
                    path.unlink()
        elif isinstance(event.payload, StepFinished | StepRetrying):
            self.mask(f"{event.payload.id}.log")

    def mask(self, begins: str) -> None:
        """Mask all files whose names begin so. One that cannot be written is as it was: nobody else may read it."""
        if not self.secrets:
            return
        for path in list_output_files(self.folder):
            if path.name.startswith(begins):
                _mask(path, self.secrets)


def list_output_files(folder: Path) -> list[Path]:
    """Give the files with what was printed, by name; no symbolic link is one."""
    return _list_files(folder, OUTPUT_FILES)


def _list_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    try:
        return [
            path for path in sorted(folder.iterdir()) if names.search(path.name) and stat.S_ISREG(path.lstat().st_mode)
        ]
    except OSError:
        return []


def _mask(path: Path, secrets: Iterable[str]) -> None:
    """Write stars over the secrets, where they stand: that needs no room on a full disk, and no second file."""
    words = [secret.encode(errors="surrogateescape") for secret in secrets]
    pattern = re.compile(b"|".join(re.escape(word) for word in words))
    most = max(len(word) for word in words)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        at = 0
        # Pieces overlap, so that none is cut in two that matters.
        while piece := os.pread(fd, CHUNK + most - 1, at):
            for found in pattern.finditer(piece):
                os.pwrite(fd, b"*" * len(found[0]), at + found.start())
            at += CHUNK
    except OSError:
        return
    finally:
        os.close(fd)
