"""journalctl as a child that ends with its question: the journal's entries, one by one, as long as there is time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from runbook.errors import HostError
from runbook.host.kernel import processes
from runbook.util.wording import describe_error

INVOCATION = "_SYSTEMD_INVOCATION_ID"

FIELDS = ("MESSAGE", "_PID", "_STREAM_ID", INVOCATION)
"""What is read of an entry, besides its place and its time."""

JOURNALD_CGROUP = "/system.slice/systemd-journald.service"
"""Its cgroup, which is there as long as it runs."""

PATH = "/usr/bin:/bin"
"""Where journalctl is looked for."""

FOLDERS = (Path("/var/log/journal"), Path("/run/log/journal"))

READ_BYTES = 64 * 1024
"""Bytes of one read."""

MAX_ENTRY = 1024 * 1024
"""Bytes of an entry, as JSON; a longer one is passed over."""


class Journalctl:
    """Reads until a moment of CLOCK_MONOTONIC. `own` says that the units are those of the user who looks."""

    def __init__(self, until: float, *, own: bool = False) -> None:
        self._until = until
        self._own = own
        self._child: subprocess.Popen[bytes] | None = None
        self._cut = False

    def abort(self) -> None:
        """End the child under the thread that reads from it. May be called at any moment."""
        self._cut = True
        if self._child is not None:
            self._child.kill()

    @property
    def is_over(self) -> bool:
        """Whether its time is over, or it was cut."""
        return self._cut or time.monotonic() >= self._until

    def sync(self) -> None:
        """Have journald file what it was sent up to now: what a unit said a moment ago it may not have read yet.

        Only root may ask for that. Where it takes longer than half of the time, what is filed must do.
        """
        program = shutil.which("journalctl", path=PATH)
        if program is None or os.geteuid() != 0 or self.is_over:
            return
        seconds = (self._until - time.monotonic()) / 2
        with contextlib.suppress(OSError, subprocess.TimeoutExpired), self._start([program, "--sync"]) as child:
            try:
                child.wait(max(0.0, seconds))
            finally:
                child.kill()

    def entries(self, *arguments: str, fields: Iterable[str] = FIELDS) -> Generator[dict[str, Any]]:
        """Read the entries that some arguments ask for, as long as there is time. Raises HostError."""
        # Units may have journals of their own (LogNamespace=).
        spaces = ["--namespace=*"] if any(True for folder in FOLDERS for _ in folder.glob("*.*/")) else []
        options = ("--quiet", "--no-pager", "--all", "--output=json", f"--output-fields={','.join(fields)}", *spaces)
        program = shutil.which("journalctl", path=PATH)
        if program is None:
            raise HostError("there is no journalctl on this machine")
        try:
            child = self._start([program, *options, *arguments])
        except OSError as error:
            raise HostError(f"cannot run journalctl: {describe_error(error)}") from None
        assert child.stdout is not None
        with child, child.stdout as pipe:
            try:
                for line in self._split(pipe.fileno()):
                    yield json.loads(line)
                if not self.is_over and child.wait() != 0:
                    raise HostError(
                        describe_unreadable(own=self._own) or f"journalctl ended with status {child.returncode}"
                    )
            finally:
                child.kill()

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(  # noqa: S603 - no word of anybody's but an invocation, a cursor
            argv,
            env={"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C at a terminal is this program's to answer; a session of its own is for commands (`Strays`).
            process_group=0,
        )
        if self._cut:  # Before there was a child to be killed.
            self._child.kill()
        return self._child

    def _split(self, pipe: int) -> Iterator[bytes]:
        """Read lines while there is time. One that is longer than LONGEST is passed over."""
        rest = b""
        passing = False
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not self.is_over:
            if not poll.poll(max(0.0, self._until - time.monotonic()) * 1000):
                return
            piece = os.read(pipe, READ_BYTES)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            if lines and passing:
                del lines[0]
                passing = False
            yield from lines
            if len(rest) > MAX_ENTRY:
                rest, passing = b"", True


class JournalTarget(Protocol):
    """What is looked for. `of_user`: the unit is one of the user's own manager."""

    @property
    def of_user(self) -> bool:
        """Whether it is."""


TargetT = TypeVar("TargetT", bound=JournalTarget)


class JournalReader(Generic[TargetT]):
    """One look into the journal, which goes on until a moment of CLOCK_MONOTONIC."""

    def __init__(self, wanted: TargetT, until: float) -> None:
        self._wanted = wanted
        self._reader = Journalctl(until, own=wanted.of_user)

    def abort(self) -> None:
        """End it under the thread that looks. May be called at any moment."""
        self._reader.abort()

    def manager_matches(self, unit: str) -> tuple[str, ...]:
        """Give the matches for what the unit's own manager has written of it."""
        if self._wanted.of_user:
            return f"_UID={os.getuid()}", f"USER_UNIT={unit}"
        return "_PID=1", f"UNIT={unit}"

    @property
    def invocation_field(self) -> str:
        """The field in which that manager names the invocation that it writes of."""
        return f"{'USER_' if self._wanted.of_user else ''}INVOCATION_ID"


def message_texts(message: object) -> Iterator[str]:
    """Give the messages of an entry: a text, bytes that are none as a list of numbers, or several of these."""
    if isinstance(message, str):
        yield message
    elif isinstance(message, list) and message and all(isinstance(part, int) for part in message):
        yield bytes(message).decode(errors="replace")
    elif isinstance(message, list):
        for part in message:
            yield from message_texts(part)


def describe_stopped() -> str:
    """Say that nobody writes into the journal, if so."""
    group = processes.find_cgroup_mount() / JOURNALD_CGROUP.lstrip("/")
    return "systemd-journald does not run" if group.parent.is_dir() and not group.is_dir() else ""


def describe_unreadable(*, own: bool) -> str:
    """Say why the journal may show less than was written, if it may."""
    # A user's own entries have a file of their own, where journals are kept on a disk.
    names = ["system.journal", *([f"user-{os.getuid()}.journal"] if own else [])]
    files = [file for folder in FOLDERS for name in names for file in folder.glob(f"*/{name}")]
    if not files:
        return "there is no journal on this machine (Storage= in journald.conf)"
    if not any(os.access(file, os.R_OK) for file in files):
        return "this user may not read all of it; root may, and the group systemd-journal"
    return ""
