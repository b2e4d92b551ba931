"""One run at a time for a unit: a file for each unit, locked with flock(2) until the run ends.

    /run/runbook/system/UNIT         for units of the system manager: owned by root, and only root locks them
    $XDG_RUNTIME_DIR/runbook/UNIT    for units of a user manager

A user who can read a file can lock it. So the files have mode 0600: otherwise every user could block root's runs.

Only the kernel's lock counts. It ends with the process that has it, however that exits. The line of JSON in the file
describes the run, and is used only if the kernel names the same process (/proc/locks). A file is never removed: a
process that had it open would have a lock that no other process finds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from runbook.errors import HostError, Locked, NotBegun
from runbook.events import REPORT_INTERVAL, Notice, Payload, Waiting
from runbook.host.interface import SHARED_READ_AGE, HostView, Waiter
from runbook.host.systemd.addresses import find_runtime_folder
from runbook.model import Deadline, ProcessId, Wake, frozen
from runbook.records.store import open_file
from runbook.util.timespan import format_span
from runbook.util.wording import describe_error

SYSTEM = Path("/run")  # the folder in which the locks of the system manager are created
RETRY_INTERVAL = 0.5  # seconds between two attempts to lock. The exit of the holder causes an attempt too
NO_HOLDER_TRIES = 5  # attempts if the kernel names no holder of the lock: it was released at this moment
MAX_LOCK_LINE = 4096  # bytes of the line that describes the holder of a lock

_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LockHolder(NamedTuple):
    """The run that has the lock of a unit, as far as it is known."""

    unit: str
    pid: int = 0
    run: str = ""
    user: str = ""
    since: float = 0.0  # in seconds since the epoch

    def __str__(self) -> str:
        who = [f"PID {self.pid}"] if self.pid else []
        who += [f"user {self.user}"] if self.user else []
        since = f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}" if self.since else ""
        return (f"run {self.run}" if self.run else "another run") + (f" ({', '.join(who)})" if who else "") + since

    def data(self) -> dict[str, Any]:
        """Return it for an event, without what is not known."""
        known = {"pid": self.pid, "run": self.run, "user": self.user, "since": self.since}
        return {"unit": self.unit, **{name: value for name, value in known.items() if value}}


class Locks(contextlib.ExitStack):
    """The locks of one run, released by `close`."""

    def __init__(self) -> None:
        super().__init__()
        self._files: list[int] = []

    def add(self, fd: int) -> None:
        """Add a file that was locked."""
        self._files.append(fd)
        self.callback(os.close, fd)
        os.ftruncate(fd, 0)  # The line of the previous holder is out of date.

    def write_holder(self, run: str, user: str) -> None:
        """Write the holder into the files. If the disk is full, the locks are valid without it."""
        line = json.dumps({"pid": os.getpid(), "run": run, "user": user, "since": round(time.time(), 3)})
        for fd in self._files:
            with contextlib.suppress(OSError):
                os.pwrite(fd, f"{line}\n".encode(), 0)


@frozen
class Locker:
    """Takes the locks of units of one scope."""

    scope: str  # "system" or "user"
    view: HostView
    waiter: Waiter
    max_wait: float = 0.0  # seconds to wait for other runs
    on_wait: Callable[[Payload], object] = lambda _: None  # gets the events about a wait

    def take(self, units: Iterable[str]) -> Locks:
        """Lock units, given by systemd's own names, in one order, so that two runs never wait for each other.

        Raises Locked after `max_wait`, NotBegun if a lock is not possible, and Interrupted.
        """
        deadline = Deadline.after(self.view.clock, self.max_wait)
        with contextlib.ExitStack() as undo:
            locks = undo.enter_context(Locks())
            for unit in sorted(set(units)):
                locks.add(self._lock_unit(unit, deadline))
            undo.pop_all()
        return locks

    def _lock_unit(self, unit: str, deadline: Deadline) -> int:
        reported, tries, next_report = "", 0, 0.0
        while True:
            fd = _open(self.scope, unit)
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    undo.pop_all()
                    return fd
                except BlockingIOError:
                    holder = _holder(unit, os.fstat(fd), os.pread(fd, MAX_LOCK_LINE, 0))
                except OSError as error:
                    raise NotBegun(f"cannot lock {unit}: {describe_error(error)}") from error
            tries += holder is None
            if deadline.expired and (holder is not None or tries >= NO_HOLDER_TRIES):
                raise self._locked(holder or LockHolder(unit))
            if holder is not None and not deadline.expired:
                now, left = self.view.clock.monotonic(), deadline.remaining
                if str(holder) != reported:
                    reported, next_report = str(holder), now
                    text = f"{unit} is locked by {reported}; waiting for it, at most {format_span(left)}"
                    self.on_wait(Notice(text=text))
                if now >= next_report:
                    next_report = now + REPORT_INTERVAL
                    # Without user and time, which the notice contains.
                    reason = f"{unit} is locked by {holder._replace(user='', since=0.0)}"
                    waited, left = round(self.max_wait - left, 3), round(left, 3)
                    self.on_wait(Waiting(name="lock", reason=reason, seconds=waited, left=left))
            self.waiter.wait(Wake(processes=self._process(holder), within=RETRY_INTERVAL), deadline)

    def _process(self, holder: LockHolder | None) -> frozenset[ProcessId]:
        process = self.view.find_process(holder.pid) if holder is not None and holder.pid else None
        return frozenset({process.id} if process is not None else ())

    def _locked(self, holder: LockHolder) -> Locked:
        waited = f"; waited {format_span(self.max_wait)} for it" if self.max_wait else ""
        watch = f"runbook show --follow {holder.run} watches it; " if holder.run else ""
        return Locked(
            f"cannot begin: {holder.unit} is locked by {holder}{waited}",
            hint=f"{watch}--lock-wait 10min waits until it has ended",
        )


def find_lock_holders(units: Iterable[str], scope: str) -> tuple[LockHolder, ...]:
    """Return the holders of the locks of units, without taking a lock.

    For a file that may not be read, this is what the kernel shows to every user: the process and its user.
    """
    found = []
    base, parts, _ = _lock_location(scope)
    for unit in sorted(set(units)):
        path, line = base.joinpath(*parts, unit), b""
        with contextlib.suppress(OSError):
            with contextlib.suppress(PermissionError), open_file(path) as file:
                line = file.read(MAX_LOCK_LINE)
            found.append(_holder(unit, path.lstat(), line))
    return tuple(holder for holder in found if holder is not None)


def _lock_location(scope: str) -> tuple[Path, tuple[str, ...], int]:
    """Return where the locks of a scope are: an existing folder, the folders below it, and the UID of the owner."""
    if scope == "system":
        return SYSTEM, ("runbook", "system"), 0
    return find_runtime_folder(), ("runbook",), os.geteuid()


def _open(scope: str, unit: str) -> int:
    """Open the file of a unit, and create it if it is missing. Raises NotBegun."""
    base, parts, owner = _lock_location(scope)
    if os.geteuid() != owner:
        raise NotBegun(
            f"cannot lock {unit}: only root may lock the units of the system's manager",
            hint="run it as root: sudo runbook …",
        )
    path = base
    with contextlib.ExitStack() as undo:
        try:
            folder = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, folder)
            for part in parts:
                path /= part
                folder = _open_folder(folder, part, path, owner)
                undo.callback(os.close, folder)
            path /= unit
            fd = os.open(unit, os.O_RDWR | os.O_CREAT | _OPEN, 0o600, dir_fd=folder)
        except OSError as error:
            raise _lock_error(unit, path, error) from error
    try:
        status = os.fstat(fd)
        if status.st_uid != owner:
            raise _unsafe_error(path, f"is of user {status.st_uid}")
        if not stat.S_ISREG(status.st_mode):
            raise _unsafe_error(path, "is not a regular file")
        if stat.S_IMODE(status.st_mode) != 0o600:  # noqa: PLR2004 - earlier versions created it with mode 0644
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_folder(above: int, name: str, path: Path, owner: int) -> int:
    """Open a folder above the locks, and create it if it is missing. Raises NotBegun if other users can write to it."""
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=above)
        made = True
    fd = os.open(name, _FOLDER, dir_fd=above)
    if made:
        os.fchmod(fd, 0o755)  # mkdir() applies the umask.
    status = os.fstat(fd)
    if status.st_uid != owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(fd)
        why = f"is of user {status.st_uid}" if status.st_uid != owner else "may be written by others"
        raise _unsafe_error(path, why)
    return fd


def _lock_error(unit: str, path: Path, error: OSError) -> NotBegun:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return _unsafe_error(path, "is not a regular file in a folder")
    return NotBegun(f"cannot lock {unit}: {path}: {describe_error(error)}", hint=f"see ls -ld {path.parent}")


def _unsafe_error(path: Path, why: str) -> NotBegun:
    return NotBegun(f"cannot lock {path.name}: {path} {why}", hint=f"ls -ld {path} shows its owner; move it away")


def _holder(unit: str, file: os.stat_result, line: bytes) -> LockHolder | None:
    """Return the holder of the lock of a file that contains `line`; None if there is none that this process can see."""
    lockers, alike = _lockers(file)
    with contextlib.suppress(ValueError, TypeError, KeyError):
        known = json.loads(line)
        if known["pid"] in (lockers or alike):
            return LockHolder(unit, int(known["pid"]), str(known["run"]), str(known["user"]), float(known["since"]))
    if not lockers:
        return None
    # It has not written its line yet, or this process may not read it.
    pid = min(lockers)
    return LockHolder(unit, pid, user=_user_of(pid))


def _lockers(file: os.stat_result) -> tuple[set[int], set[int]]:
    """Return the PIDs that have an flock(2) lock on a file (proc_locks(5)), and on any file with its inode number.

    The inode number alone is not unique: every tmpfs counts from one, and every user has a tmpfs. But the device in
    /proc/locks can differ from that of stat(2): btrfs has one for each subvolume, overlayfs one for each layer. For
    these file systems a PID with the same inode number counts if the file itself names it.
    """
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    found: set[int] = set()
    alike: set[int] = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF
            _, kind, _, _, pid, place, *_ = line.split()
            if kind == "FLOCK" and place.rpartition(":")[2] == str(file.st_ino):
                alike.add(int(pid))
                if place == f"{device}:{file.st_ino}":
                    found.add(int(pid))
    return found - {0}, alike - {0}


def _user_of(pid: int) -> str:
    try:
        uid = Path(f"/proc/{pid}").stat().st_uid
        return pwd.getpwuid(uid).pw_name
    except OSError:
        return ""
    except KeyError:
        return str(uid)


def find_canonical_names(view: HostView, spelled: Iterable[str]) -> tuple[str, ...]:
    """Return systemd's own names of units, each once, so that an alias gets the lock of its unit. Raises NotBegun."""
    try:
        return tuple(sorted({view.unit(name, max_age=SHARED_READ_AGE).name for name in spelled}))
    except HostError as error:
        raise NotBegun(f"cannot begin: {error.message}", hint=error.hint) from error
