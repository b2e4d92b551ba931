"""Runs journalctl as a child until a deadline, and yields the journal's entries one by one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from runbook.errors import HostError
from runbook.host.queries import JournalQuery
from runbook.util.wording import describe_error

QueryT = TypeVar("QueryT", bound=JournalQuery[Any])

INVOCATION = "_SYSTEMD_INVOCATION_ID"

FIELDS = ("MESSAGE", "_PID", "_STREAM_ID", INVOCATION)  # what is read of an entry, besides its cursor and its time
PATH = "/usr/bin:/bin"  # where journalctl is searched for
FOLDERS = (Path("/var/log/journal"), Path("/run/log/journal"))  # of journald: on disk, and in memory (Storage=)
READ_BYTES = 64 * 1024  # bytes of one read
MAX_ENTRY = 1024 * 1024  # bytes of an entry as JSON; a longer one is skipped


class Journalctl:
    """Reads until a moment of CLOCK_MONOTONIC. `own`: the units belong to the caller's own manager."""

    def __init__(self, until: float, *, own: bool = False) -> None:
        self._until = until
        self._own = own
        self._child: subprocess.Popen[bytes] | None = None
        self._aborted = False

    def abort(self) -> None:
        """Kill the child while another thread reads from it. May be called at any moment."""
        self._aborted = True
        if self._child is not None:
            self._child.kill()

    @property
    def is_over(self) -> bool:
        """True if the time is over, or the reader was aborted."""
        return self._aborted or time.monotonic() >= self._until

    def sync(self) -> None:
        """Make journald write what it was sent up to now: it may not have read a unit's last message yet.

        Only root may request that. If it takes longer than half of the time, the entries written so far are used.
        """
        if os.geteuid() != 0 or self.is_over:
            return
        seconds = (self._until - time.monotonic()) / 2
        with contextlib.suppress(HostError, subprocess.TimeoutExpired), self._start("--sync") as child:
            try:
                child.wait(max(0.0, seconds))
            finally:
                child.kill()

    def entries(self, *arguments: str, fields: Iterable[str] = FIELDS) -> Generator[dict[str, Any]]:
        """Yield the entries that match the arguments, until the time is over. Raises HostError."""
        # Units may have journals of their own (LogNamespace=).
        spaces = ["--namespace=*"] if any(True for folder in FOLDERS for _ in folder.glob("*.*/")) else []
        options = ("--quiet", "--no-pager", "--all", "--output=json", f"--output-fields={','.join(fields)}", *spaces)
        child = self._start(*options, *arguments)
        assert child.stdout is not None
        with child, child.stdout as pipe:
            try:
                for line in self._split(pipe.fileno()):
                    yield json.loads(line)
                if not self.is_over and child.wait() != 0:
                    why = describe_unreadable(own=self._own)
                    raise HostError(why or f"journalctl exited with status {child.returncode}")
            finally:
                child.kill()  # The caller may stop before the last entry.

    def unit_matches(self, unit: str) -> tuple[str, ...]:
        """Return the matches for the entries that journald itself attributes to a unit's processes, by their cgroup.

        The invocation alone is no proof: journald reads it from the unit's manager, and any user's own manager may
        claim that of a system service. A user's unit may have the name of a system unit, or that of another user's.
        """
        return (f"_UID={os.getuid()}", f"_SYSTEMD_USER_UNIT={unit}") if self._own else (f"_SYSTEMD_UNIT={unit}",)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        program = shutil.which("journalctl", path=PATH)
        if program is None:
            raise HostError("there is no journalctl on this machine")
        try:
            self._child = subprocess.Popen(  # noqa: S603 - no argument comes from a user: invocations, cursors, names
                [program, *arguments],
                env={"LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C at a terminal is for this program. Not a new session: `Subreaper` kills children that have one.
                process_group=0,
            )
        except OSError as error:
            raise HostError(f"cannot run journalctl: {describe_error(error)}") from None
        if self._aborted:  # abort() was called before there was a child to kill.
            self._child.kill()
        return self._child

    def _split(self, pipe: int) -> Iterator[bytes]:
        """Yield lines until the time is over. A line that is longer than MAX_ENTRY is skipped."""
        rest = b""
        skipping = False
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not self.is_over:
            if not poll.poll(max(0.0, self._until - time.monotonic()) * 1000):
                return
            if not (piece := os.read(pipe, READ_BYTES)):
                return
            *lines, rest = (rest + piece).split(b"\n")
            if lines and skipping:
                del lines[0]
                skipping = False
            yield from lines
            if len(rest) > MAX_ENTRY:
                rest, skipping = b"", True


class JournalReader(Generic[QueryT]):
    """Answers a query from the journal until a moment of CLOCK_MONOTONIC."""

    def __init__(self, query: QueryT, until: float) -> None:
        self._query = query
        self._reader = Journalctl(until, own=query.of_user)

    def abort(self) -> None:
        """End the read in another thread. May be called at any moment."""
        self._reader.abort()

    def read_all(self, *arguments: str, fields: Iterable[str]) -> list[dict[str, Any]]:
        """Sync the journal, and return all entries that match. Raises HostError if the time is over before the last."""
        self._reader.sync()
        entries = list(self._reader.entries(*arguments, fields=fields))
        if self._reader.is_over:
            raise HostError("no answer in time")
        return entries

    def manager_matches(self, unit: str) -> tuple[str, ...]:
        """Return the matches for what the unit's own manager logs of it."""
        if self._query.of_user:
            return f"_UID={os.getuid()}", f"USER_UNIT={unit}"
        return "_PID=1", f"UNIT={unit}"

    @property
    def invocation_field(self) -> str:
        """The field in which that manager names the invocation of the unit."""
        return f"{'USER_' if self._query.of_user else ''}INVOCATION_ID"


def message_texts(message: object) -> Iterator[str]:
    """Yield the messages of an entry: a text, a list of numbers for bytes that are not UTF-8, or a list of these."""
    if isinstance(message, str):
        yield message
    elif isinstance(message, list) and message and all(isinstance(part, int) for part in message):
        yield bytes(message).decode(errors="replace")
    elif isinstance(message, list):
        for part in message:
            yield from message_texts(part)


def parse_pid(entry: Mapping[str, Any]) -> int:
    """Return the PID of the process that wrote an entry; 0 if the entry does not name one."""
    pid = entry.get("_PID")
    return int(pid) if isinstance(pid, str) and pid.isdecimal() else 0


def describe_unreadable(*, own: bool) -> str:
    """Return why the caller may not read all of the journal; empty if there is no reason known."""
    # On disk, the entries of a user's own processes have a file of their own.
    names = ["system.journal", *([f"user-{os.getuid()}.journal"] if own else [])]
    files = [file for folder in FOLDERS for name in names for file in folder.glob(f"*/{name}")]
    if not files:
        return "there is no journal on this machine (Storage= in journald.conf)"
    if not any(os.access(file, os.R_OK) for file in files):
        return "this user may not read all of it; root may, and the group systemd-journal"
    return ""
