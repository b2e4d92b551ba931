"""The record of a run: a folder of its own, which nobody else may read.

    ID/run.json       what was asked: the file, its variables, who, when, on which boot
    ID/runbook.yaml   the runbook as it was read
    ID/events.jsonl   every event, each on disk before what it announces counts as done
    ID/output/        what commands printed, and how they ended

Whoever writes the events holds a lock on that file, so that anybody can see whether a run is under way. It is one
that can be asked about without being taken (F_OFD_GETLK, fcntl(2)): with flock(2), a look at the moment at which a
run begins would keep it from beginning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from runbook.errors import NotBegun
from runbook.events import Event, EventName, RecordLost

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
"""Letters and digits that are not taken for one another when an id is read aloud."""

SPARE = 8192
"""Bytes that are kept free on the disk, for the record to be able to say that it cannot grow any more."""

TRANSIENT_EVENTS = frozenset({EventName.STEP_WAITING, EventName.NOTICE})
"""Events that nothing rests on: they are written, and not waited for."""


@dataclass(frozen=True)
class RunHeader:
    """What was asked of a run. `env` are the variables of its surroundings that the runbook names.

    `withheld` are the variables of the runbook, and of the surroundings, whose values hold a secret: they are kept
    nowhere. `began` is in seconds since the epoch; `boot` the id of the boot it began on.
    """

    id: str
    file: str
    cwd: str
    scope: str
    user: str
    began: float
    boot: str
    version: str
    sets: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    fail_on_remediation: bool = False


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    id: str
    folder: Path

    @property
    def outputs(self) -> Path:
        """Where the commands' output goes: to files, so that this program's end is not theirs."""
        return self.folder / "output"

    @property
    def events(self) -> Path:
        """Where the events go, a line each."""
        return self.folder / "events.jsonl"

    @property
    def header(self) -> Path:
        """Where it stands what was asked."""
        return self.folder / "run.json"

    @property
    def runbook(self) -> Path:
        """The runbook as it was read."""
        return self.folder / "runbook.yaml"

    @property
    def spare(self) -> Path:
        """Room that is given back when there is no other. A record without it is not whole."""
        return self.folder / "spare"

    def measure(self) -> int:
        """Return the length of the events up to the end of the last complete line; 0 if they cannot be read."""
        with contextlib.suppress(OSError), open_file(self.events) as file:
            return _find_whole_length(file.fileno())
        return 0

    def write_header(self, header: RunHeader, text: str) -> None:
        """Put on disk what was asked: a folder without a header is no run. Raises NotBegun, and leaves nothing then."""
        try:
            replace_file(self.runbook, text.encode())
            replace_file(self.spare, b"\0" * SPARE)
            replace_file(self.header, json.dumps(asdict(header), indent=1).encode() + b"\n")
            _sync(self.folder.parent)
        except OSError as error:
            self.remove()
            raise _folder_error(self.folder.parent, error) from error

    def remove(self) -> None:
        """Let it be gone, the header first: what is left if that is cut short is no run any more."""
        with contextlib.suppress(OSError):
            self.header.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Whether a program is writing its events at this moment."""
        with contextlib.suppress(OSError):
            with open_file(self.events) as file:
                asked = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _lock(fcntl.F_RDLCK))
            return bool(struct.unpack(_LOCK, asked)[0] != fcntl.F_UNLCK)
        return False


class EventWriter:
    """Appends the events of one run to its record: a sink.

    Where the record cannot grow any more the run goes on without it: `lost` is told why, once, and the record says
    at its end that it is not whole. How the run ended is written all the same if there is room for it by then.
    """

    def __init__(self, record: RunFolder, lost: Callable[[str], None]) -> None:
        self._record = record
        self._tell = lost
        self._lost = False
        self._fd = -1
        try:
            self._fd = os.open(
                record.events, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
            os.fchmod(self._fd, 0o600)
            self._end = _find_whole_length(self._fd)
            os.ftruncate(self._fd, self._end)  # A line that was cut short says nothing.
            _sync(record.folder)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError | PermissionError) and record.is_running:  # EAGAIN or EACCES, fcntl(2)
                raise NotBegun(f"cannot begin: run {record.id} is under way") from error
            raise _folder_error(record.folder, error) from error

    def __call__(self, event: Event) -> None:
        """Write one event; it is on disk when this returns."""
        if self._fd < 0 or (self._lost and event.event != EventName.RUN_FINISHED):
            return
        try:
            self._append(event)
        except OSError as error:
            self._give_up(event, error)

    def close(self) -> None:
        """Let go of the record."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, event: Event) -> None:
        data = event.to_line().encode() + b"\n"
        written = 0
        while written < len(data):
            written += os.write(self._fd, data[written:])
        if event.event not in TRANSIENT_EVENTS:
            os.fdatasync(self._fd)
        self._end += len(data)

    def _give_up(self, event: Event, error: OSError) -> None:
        told, self._lost = self._lost, True
        why = (error.strerror or str(error)).lower()
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._end)
            if not told:
                self._record.spare.unlink()
                self._append(Event.of(event.time, event.run, RecordLost(reason=why)))
        if not told:
            self._tell(f"the record of this run cannot grow any more ({why}); the run goes on, and cannot be resumed")


_LOCK = "hhqqi0q"
"""struct flock: l_type, l_whence, l_start, l_len, l_pid; from 0, of length 0, it is the whole file (fcntl(2))."""


def _lock(kind: int) -> bytes:
    return struct.pack(_LOCK, kind, os.SEEK_SET, 0, 0, 0)


def boot_id() -> str:
    """Give the id of this boot, which no other has (random(4))."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def boot_time(now: float) -> float:
    """Give the moment of this boot, in seconds since the epoch: what a process's start counts from."""
    return now - time.clock_gettime(time.CLOCK_BOOTTIME)


def new_run_id(now: float) -> str:
    """Make a run's id, which sorts by time: 20261123-0547-k3f."""
    stamp = time.strftime("%Y%m%d-%H%M", time.localtime(now))
    return f"{stamp}-{''.join(ALPHABET[byte % len(ALPHABET)] for byte in os.urandom(3))}"


def runs_folder() -> Path:
    """Give the folder of all runs: the system's for root, else the user's own (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/runbook/runs")
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "runbook" / "runs"


def create_folder(now: float) -> RunFolder:
    """Make the folder of a new run. Raises NotBegun where there is no place for it."""
    parent = runs_folder()
    try:
        for folder in (*reversed(parent.parents), parent):
            _make_parent(folder, ours=folder in (parent, parent.parent))
        while True:
            name = new_run_id(now)
            record = RunFolder(name, parent / name)
            try:
                _make(record.folder)
            except FileExistsError:
                continue  # Two runs in one minute drew the same letters.
            try:
                _make(record.outputs)
            except OSError:
                record.remove()
                raise
            return record
    except OSError as error:
        raise _folder_error(parent, error) from error


def _make_parent(folder: Path, *, ours: bool) -> None:
    """Make a folder on the way to the record, if it is not there; refuse one into which others may put things.

    What is `ours` must be of the user who runs this, and of nobody else.
    """
    with contextlib.suppress(FileExistsError):
        if not folder.is_dir():
            _make(folder)
    status = folder.stat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH if ours else stat.S_IWOTH)
    why = hint = ""
    if ours and status.st_uid != os.geteuid():
        why, hint = f"{folder} belongs to user {status.st_uid}", f"ls -ld {folder}; move it away"
    elif others and (ours or not status.st_mode & stat.S_ISVTX):
        why, hint = f"others may write in {folder}", f"see that nothing strange is in it, then chmod go-w {folder}"
    if why:
        raise NotBegun(f"cannot begin: no safe place for the run's record: {why}", hint=hint)


def _make(folder: Path) -> None:
    """Make a folder for its owner only, whatever the umask: mkdir's mode is cut by it."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)


def _folder_error(parent: Path, error: OSError) -> NotBegun:
    return NotBegun(
        f"cannot begin: no place for the run's record in {parent}: {error.strerror}",
        hint=f"df -h {parent.parent} and ls -ld {parent} tell more",
    )


def open_file(path: Path) -> BinaryIO:
    """Open a file to be read, never through a symbolic link, and never anything else than a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no file")
    return os.fdopen(fd, "rb")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file for its owner only, which is there whole, on disk, or not at all. Raises OSError.

    A symbolic link of that name is replaced, not followed.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)  # Whatever the umask.
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """See that the names in a folder are on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _find_whole_length(fd: int) -> int:
    """Give the length of a file up to the end of its last whole line."""
    size = os.fstat(fd).st_size
    end = size
    while end > 0:
        begin = max(0, end - 4096)
        at = os.pread(fd, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
