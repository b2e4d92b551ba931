"""The record of a run: a folder that only its owner may read.

    ID/run.json       the request: the file, its variables, the user, the time, the boot
    ID/runbook.yaml   the runbook as it was read
    ID/events.jsonl   every event, each on disk before the run goes on, but for notices and waits
    ID/output/        the output of commands, and their exit statuses

The program that writes the events holds a lock on that file, so that other programs can find out whether the run is
running. An open file description lock can be queried without taking it (F_OFD_GETLK, fcntl(2)). With flock(2), a query
at the moment when a run begins would make that run fail.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import BinaryIO

from runbook.errors import NotBegun
from runbook.events import Event, EventName, RecordLost
from runbook.model import frozen

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # letters and digits that are not confused when an ID is read aloud
RUN_ID = re.compile(rf"\d{{8}}-\d{{4}}-[{ALPHABET}]{{3}}")
SPARE = 8192  # bytes that are reserved, so that a record on a full disk can still note that it is incomplete
TRANSIENT_EVENTS = (EventName.STEP_WAITING, EventName.NOTICE)  # nothing depends on them: written without a sync


@frozen
class RunHeader:
    """The request of a run."""

    id: str
    file: str  # the path of the runbook, or "-"; of `runbook restart` the command
    cwd: str  # the folder in which commands start
    scope: str  # "system" or "user"
    user: str  # the user who requested it, behind su and sudo
    began: float  # in seconds since the epoch
    boot: str  # the ID of the boot
    version: str  # of this program
    sets: Mapping[str, str] = field(default_factory=dict)  # the values of --set
    env: Mapping[str, str] = field(default_factory=dict)  # the environment variables that the runbook names
    withheld: tuple[str, ...] = ()  # the names in `sets` and in the environment whose values contain a secret
    fail_on_remediation: bool = False
    command: str = "apply"  # `apply`, `remediate` for a run of the remediations alone, or `restart` without a file
    user_source: str = ""  # where `user` is from: `loginuid`, `sudo` or `uid`


@frozen
class RunFolder:
    """The folder of one run."""

    id: str
    path: Path

    @property
    def outputs_path(self) -> Path:
        """The folder for the output of commands. They write to files, so that they survive this program."""
        return self.path / "output"

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def header_path(self) -> Path:
        return self.path / "run.json"

    @property
    def runbook_path(self) -> Path:
        return self.path / "runbook.yaml"

    @property
    def spare_path(self) -> Path:
        """The reserved space, deleted when the disk is full. A record without it is incomplete."""
        return self.path / "spare"

    def measure(self) -> int:
        """Return the length of the events up to the end of the last complete line; 0 if they cannot be read."""
        with contextlib.suppress(OSError), open_file(self.events_path) as file:
            return _find_whole_length(file.fileno())
        return 0

    def write_header(self, header: RunHeader, text: str) -> None:
        """Write the header and the runbook; a folder without a header is not a run. If that fails, remove the folder.

        Raises NotBegun.
        """
        try:
            replace_file(self.runbook_path, text.encode())
            replace_file(self.spare_path, b"\0" * SPARE)
            replace_file(self.header_path, json.dumps(asdict(header), indent=1).encode() + b"\n")
            _sync(self.path.parent)
        except OSError as error:
            self.remove()
            raise _folder_error(self.path.parent, error) from error

    def remove(self) -> None:
        """Delete the folder, the header first: if that is interrupted, the rest is not a run any more."""
        with contextlib.suppress(OSError):
            self.header_path.unlink()
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """True if a program has the events open for writing at this moment."""
        with contextlib.suppress(OSError):
            with open_file(self.events_path) as file:
                asked = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _lock(fcntl.F_RDLCK))
            return bool(struct.unpack(_LOCK, asked)[0] != fcntl.F_UNLCK)
        return False


class EventWriter:
    """Appends the events of one run to its record: a sink.

    If the record cannot grow any more, the run continues without it. `on_loss` is called once with the reason. Then
    `record-lost` is the last event in the record but `run-finished`, which is written if there is space by then.
    """

    def __init__(self, folder: RunFolder, on_loss: Callable[[str], object]) -> None:
        self._folder = folder
        self._on_loss = on_loss
        self._lost = False
        self._fd = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(folder.events_path, flags, 0o600)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
            os.fchmod(self._fd, 0o600)
            self._end = _find_whole_length(self._fd)
            os.ftruncate(self._fd, self._end)  # An incomplete last line, of a program that was killed.
            _sync(folder.path)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError | PermissionError) and folder.is_running:  # EAGAIN or EACCES, fcntl(2)
                raise NotBegun(f"cannot begin: run {folder.id} is under way") from error
            raise _folder_error(folder.path, error) from error

    def __call__(self, event: Event) -> None:
        """Write one event. It is on disk when this returns, unless it is one of TRANSIENT_EVENTS."""
        if self._fd < 0 or (self._lost and event.event != EventName.RUN_FINISHED):
            return
        try:
            self._append(event)
        except OSError as error:
            self._give_up(event, error)

    def close(self) -> None:
        """Close the record."""
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
        was_lost, self._lost = self._lost, True
        why = (error.strerror or str(error)).lower()
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._end)
            if not was_lost:
                self._folder.spare_path.unlink()
                self._append(Event.of(event.time, event.run, RecordLost(reason=why)))
        if not was_lost:
            self._on_loss(
                f"the record of this run cannot grow any more ({why}); the run continues, but cannot be resumed"
            )


_LOCK = "hhqqi0q"
"""struct flock: l_type, l_whence, l_start, l_len, l_pid. Start 0 and length 0 mean the whole file (fcntl(2))."""


def _lock(kind: int) -> bytes:
    return struct.pack(_LOCK, kind, os.SEEK_SET, 0, 0, 0)


def boot_id() -> str:
    """Return the ID of this boot, which is unique (random(4))."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def boot_time(now: float) -> float:
    """Return the time of this boot, in seconds since the epoch. The start times of processes count from it."""
    return now - time.clock_gettime(time.CLOCK_BOOTTIME)


def new_run_id(now: float) -> str:
    """Return a new ID for a run; IDs sort by time: 20261123-0547-k3f."""
    stamp = time.strftime("%Y%m%d-%H%M", time.localtime(now))
    return f"{stamp}-{''.join(ALPHABET[byte % len(ALPHABET)] for byte in os.urandom(3))}"


def runs_folder() -> Path:
    """Return the folder of all runs: root's is in /var/lib, that of a user follows the XDG base directories."""
    if os.geteuid() == 0:
        return Path("/var/lib/runbook/runs")
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "runbook" / "runs"


def create_folder(now: float) -> RunFolder:
    """Create the folder of a new run. Raises NotBegun if that is not possible."""
    parent = runs_folder()
    try:
        for folder in (*reversed(parent.parents), parent):
            _make_parent(folder, ours=folder in (parent, parent.parent))
        while True:
            name = new_run_id(now)
            run_folder = RunFolder(name, parent / name)
            try:
                _make(run_folder.path)
                _make(run_folder.outputs_path)
            except FileExistsError:
                continue  # Another run of the same minute has the same ID.
            except OSError:
                run_folder.remove()
                raise
            return run_folder
    except OSError as error:
        raise _folder_error(parent, error) from error


def _make_parent(folder: Path, *, ours: bool) -> None:
    """Create a folder above the record if it is missing. Raises NotBegun if other users can write to it.

    A folder that is `ours` must belong to the user of this process.
    """
    with contextlib.suppress(FileExistsError):
        if not folder.is_dir():
            _make(folder)
    status = folder.stat()
    write_bits = stat.S_IWGRP | stat.S_IWOTH if ours else stat.S_IWOTH
    is_writable = bool(status.st_mode & write_bits)
    unsafe = "cannot begin: no safe place for the run's record"
    if ours and status.st_uid != os.geteuid():
        raise NotBegun(f"{unsafe}: {folder} belongs to user {status.st_uid}", hint=f"ls -ld {folder}; move it away")
    if is_writable and (ours or not status.st_mode & stat.S_ISVTX):
        hint = f"check its content, then chmod go-w {folder}"
        raise NotBegun(f"{unsafe}: others may write in {folder}", hint=hint)


def _make(folder: Path) -> None:
    """Create a folder with mode 0700. chmod, because the umask reduces the mode of mkdir."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)


def _folder_error(parent: Path, error: OSError) -> NotBegun:
    return NotBegun(
        f"cannot begin: no place for the run's record in {parent}: {error.strerror}",
        hint=f"see df -h {parent.parent} and ls -ld {parent}",
    )


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; not through a symbolic link, and not a pipe or a device. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(fd, "rb")


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file, so that it exists completely, on disk, or not at all. Raises OSError.

    A symbolic link of that name is replaced, not followed.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace_file_in(folder, path.name, data, mode=mode)
    finally:
        os.close(folder)


def replace_file_in(folder: int, name: str, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file in an open folder as `replace_file` does. Raises OSError."""
    fresh = f".{name}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(fresh, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)  # os.open() applies the umask.
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=folder)
        raise
    os.fsync(folder)


def _sync(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _find_whole_length(fd: int) -> int:
    """Return the length of a file up to the end of its last complete line."""
    end = os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - 4096)
        at = os.pread(fd, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
