"""One run at a time for a unit: a file for each unit, locked (flock(2)) for as long as a run lives.

    /run/runbook/system/UNIT         for units of the system's manager: root's, and only root locks them
    $XDG_RUNTIME_DIR/runbook/UNIT    for those of a user's own manager

Whoever may read a file may lock it: so the files are for their owner alone. Else anybody could keep root's runs from
beginning, for as long as they like.

The kernel's lock is what counts, and it ends with the program that has it, however that ends. What stands in a file,
one line of JSON, merely says who that is, and is believed where the kernel names the same process (/proc/locks). No
file is ever removed: whoever had opened it by then would hold a lock that nobody else sees.
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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runbook.errors import HostError, Locked, NotBegun
from runbook.host.interface import SHARED_READ_AGE, HostView, Waiter
from runbook.host.systemd.addresses import find_runtime_folder
from runbook.model import Deadline, ProcessId, Wake
from runbook.records.store import open_file
from runbook.util.timespan import format_span
from runbook.util.wording import describe_error

SYSTEM = Path("/run")
"""Where the folders of the system's locks are made."""

RETRY_INTERVAL = 0.5
"""Seconds between two tries while somebody else has a lock; the end of that process is heard besides."""

NO_HOLDER_TRIES = 5
"""So many tries where the kernel names nobody who has the lock: it was let go in this very moment."""

MAX_LOCK_LINE = 4096
"""Bytes of a line that says who has a lock."""

_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class LockHolder:
    """Who has the lock of a unit. `since` is in seconds since the epoch. There may be no more known than a PID."""

    unit: str
    pid: int = 0
    run: str = ""
    user: str = ""
    since: float = 0.0

    def __str__(self) -> str:
        who = [f"PID {self.pid}"] if self.pid else []
        who += [f"user {self.user}"] if self.user else []
        since = f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}" if self.since else ""
        return (f"run {self.run}" if self.run else "another run") + (f" ({', '.join(who)})" if who else "") + since

    def data(self) -> dict[str, Any]:
        """Give it as an event carries it: what is not known is left out."""
        known = {"pid": self.pid, "run": self.run, "user": self.user, "since": self.since}
        return {"unit": self.unit, **{name: value for name, value in known.items() if value}}


class Locks:
    """The locks of one run, let go when it is closed."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, unit: str, fd: int) -> None:
        """Keep a file that was locked."""
        self._files[unit] = fd
        os.ftruncate(fd, 0)  # Whoever had it last is nobody any more.

    def write_holder(self, run: str, user: str) -> None:
        """Let everybody see whose they are. Where the disk takes no more, they hold all the same."""
        line = json.dumps({"pid": os.getpid(), "run": run, "user": user, "since": round(time.time(), 3)})
        for fd in self._files.values():
            with contextlib.suppress(OSError):
                os.pwrite(fd, f"{line}\n".encode(), 0)

    def close(self) -> None:
        """Let all of them go."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()


@dataclass(frozen=True)
class Locker:
    """Takes the locks of one scope's units, and waits for them for `patience` seconds.

    `told` hears who is waited for.
    """

    scope: str
    view: HostView
    waiter: Waiter
    max_wait: float = 0.0
    on_wait: Callable[[str], None] = lambda _: None

    def take(self, units: Iterable[str]) -> Locks:
        """Lock units, known by systemd's own names; always in the same order, so that no two runs wait for each other.

        Raises Locked at once, or when the patience is over; NotBegun where there can be no lock; Interrupted.
        """
        locks = Locks()
        deadline = Deadline.after(self.view.clock, self.max_wait)
        with contextlib.ExitStack() as undo:
            undo.callback(locks.close)
            for unit in sorted(set(units)):
                locks.add(unit, self._lock_unit(unit, deadline))
            undo.pop_all()
        return locks

    def _lock_unit(self, unit: str, deadline: Deadline) -> int:
        said, tries = "", 0
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
            if holder is not None and str(holder) != said and not deadline.expired:
                said = str(holder)
                self.on_wait(f"{unit} is locked by {said}; waiting for it, at most {format_span(deadline.remaining)}")
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
    """Name whoever has the lock of one of these units, without touching any lock.

    Who may not read a file is told no more than the kernel tells everybody: the process, and its user.
    """
    found = []
    for unit in sorted(set(units)):
        path, said = _lock_folder(scope) / unit, b""
        with contextlib.suppress(OSError):
            with contextlib.suppress(PermissionError), open_file(path) as file:
                said = file.read(MAX_LOCK_LINE)
            found.append(_holder(unit, path.lstat(), said))
    return tuple(holder for holder in found if holder is not None)


def _lock_folder(scope: str) -> Path:
    base, parts, _ = _lock_location(scope)
    return base.joinpath(*parts)


def _lock_location(scope: str) -> tuple[Path, tuple[str, ...], int]:
    """Say where the locks of a scope are: in which folder that is there, in which below it, and whose they are."""
    if scope == "system":
        return SYSTEM, ("runbook", "system"), 0
    return find_runtime_folder(), ("runbook",), os.geteuid()


def _open(scope: str, unit: str) -> int:
    """Open the file of a unit, made if it is not there. Raises NotBegun."""
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
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
            raise _unsafe_error(path, "is no plain file" if status.st_uid == owner else f"is of user {status.st_uid}")
        if stat.S_IMODE(status.st_mode) != 0o600:  # noqa: PLR2004 - earlier versions made it for all to read
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_folder(above: int, name: str, path: Path, owner: int) -> int:
    """Open a folder on the way to the locks, made if it is not there; refuse one into which others may put things."""
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=above)
        made = True
    fd = os.open(name, _FOLDER, dir_fd=above)
    if made:
        os.fchmod(fd, 0o755)  # The umask may have cut it.
    status = os.fstat(fd)
    if status.st_uid != owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(fd)
        why = f"is of user {status.st_uid}" if status.st_uid != owner else "may be written by others"
        raise _unsafe_error(path, why)
    return fd


def _lock_error(unit: str, path: Path, error: OSError) -> NotBegun:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return _unsafe_error(path, "is not what it should be")
    return NotBegun(f"cannot lock {unit}: {path}: {describe_error(error)}", hint=f"ls -ld {path.parent} tells more")


def _unsafe_error(path: Path, why: str) -> NotBegun:
    return NotBegun(f"cannot lock {path.name}: {path} {why}", hint=f"ls -ld {path} tells whose it is; move it away")


def _holder(unit: str, file: os.stat_result, line: bytes) -> LockHolder | None:
    """Say who has the lock of a file, in which a line stands; None if nobody has, as far as this program may see."""
    lockers, alike = _lockers(file)
    with contextlib.suppress(ValueError, TypeError, KeyError):
        said = json.loads(line)
        if said["pid"] in (lockers or alike):
            return LockHolder(unit, int(said["pid"]), str(said["run"]), str(said["user"]), float(said["since"]))
    if not lockers:
        return None
    # It has not said yet who it is, or may be asked by nobody else.
    pid = min(lockers)
    return LockHolder(unit, pid, user=_user_of(pid))


def _lockers(file: os.stat_result) -> tuple[set[int], set[int]]:
    """Give the PIDs of those who hold a lock of flock(2) on a file (proc_locks(5)), and on any file of its number.

    The device counts as well: each tmpfs has its files numbered from one, and everybody has a tmpfs of their own. But
    stat(2) and that table may name it differently: btrfs gives each subvolume, and overlayfs each layer, one of its
    own. So there a PID counts too that the file itself names.
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
    """Give systemd's own names of units, each once: an alias is locked as what it is an alias of. Raises NotBegun."""
    try:
        return tuple(sorted({view.unit(name, max_age=SHARED_READ_AGE).name for name in spelled}))
    except HostError as error:
        raise NotBegun(f"cannot begin: {error.message}", hint=error.hint) from error
