# ruff: noqa: PTH116, PTH123, PTH208 - pathlib cannot use the descriptor of a folder, and is slow in each check of a wait
"""Reads processes through /proc (proc(5)).

A read goes through one descriptor of the directory /proc/PID, which stays with the process that it was opened for. When
that process has exited, nothing more can be read through it, even if another process has the PID by then. So no read
mixes two processes.

What cannot be read is left empty. Nothing here raises for a process that has exited or is not readable. Each read is
limited: a process decides itself how long some of these files are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from runbook.host.holders import Process
from runbook.host.kernel import accounts, environ
from runbook.host.kernel.cgroupfs import is_unified
from runbook.host.kernel.process_memory import read_file, read_memory
from runbook.model import ProcessId

PF_KTHREAD = 0x0020_0000  # include/linux/sched.h
LOGINUID_UNSET = 0xFFFF_FFFF  # the content of /proc/PID/loginuid for a process that came from no login

DEAD_STATES = ("Z", "X", "x")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "X": "dead",
    "I": "idle",
}

MAX_FILE = 64 * 1024  # bytes of any file that are read; a path of a cgroup has 4096 at most
MAX_STATUS = 4096  # bytes of /proc/PID/status, which begins with the fields that are read; groups may be 700,000 bytes
MAX_COMMAND = 64 * 1024  # bytes of a command line; the rest is left out
MAX_ARGUMENTS = 1000  # arguments of a command line; the rest is left out
MAX_ENVIRON = 128 * 1024  # bytes of an environment; an entry that begins later is left out
CUT_MARK = "..."  # the end of a command line whose rest is left out


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are needed."""

    name: str
    state: str
    ppid: int
    flags: int
    threads: int
    start: int  # clock ticks since boot
    terminal: int = 0  # the device number of its controlling terminal; 0 if it has none
    session: int = 0  # the ID of its session

    @property
    def is_alive(self) -> bool:
        """True if it runs. A zombie does not, unless only its first thread has exited and others go on."""
        return self.state not in DEAD_STATES or self.threads > 1


def read_process(pid: int, most: int = MAX_COMMAND) -> Process | None:
    """Read a process once. None if it is gone; a zombie is still there.

    `most` is how many bytes of its command line, and of the names of its variables, are kept.
    """
    with _open_proc(pid) as folder:
        if folder is None or (process := _process(pid, folder, most)) is None or (stat := _stat(folder)) is None:
            return None
        # If it exited meanwhile, its fields are empty for that reason, and not because they are unreadable.
        return process if stat.is_alive else replace(process, dead=True)


def read_process_of_user(pid: int, uid: int, may: Callable[[Process], bool]) -> Process | None:
    """Read a process of a user, without its environment.

    None if it belongs to another user, if it is gone, or if `may` returns False before its command line is read. No
    name server is asked for its user.
    """
    with _open_proc(pid) as folder:
        # The folder of a process that may not be traced belongs to root, too (PR_SET_DUMPABLE, proc(5)).
        if folder is None or _owner(folder) not in (uid, 0):
            return None
        process = _process(pid, folder, None)
        if process is None or process.uid != uid or not may(process):
            return None
        return replace(process, command=_read_whole_command(process.id, folder))


def read_outline(pid: int) -> Process | None:
    """Read a process without its command line and environment."""
    with _open_proc(pid) as folder:
        return None if folder is None else _process(pid, folder, None)


def read_brief(pid: int) -> Process | None:
    """Read a process of any user, without its environment. No name server is asked for its user."""
    with _open_proc(pid) as folder:
        if folder is None or (process := _process(pid, folder, None)) is None:
            return None
        return replace(process, command=_read_whole_command(process.id, folder))


def parse_stat(text: bytes) -> Stat:
    """Parse /proc/PID/stat. The name may contain spaces and parentheses: it ends at the last one."""
    head, _, tail = text.rpartition(b")")
    rest = tail.split()
    return Stat(
        name=_text(head.partition(b"(")[2]),
        state=rest[0].decode("ascii"),
        ppid=int(rest[1]),
        flags=int(rest[6]),
        threads=int(rest[17]),
        start=int(rest[19]),
        terminal=int(rest[4]),
        session=int(rest[3]),
    )


def parse_cgroup(text: str, *, unified: bool) -> str:
    """Return the path in systemd's hierarchy from /proc/PID/cgroup; empty if the process is not in it.

    `unified` is True if systemd uses cgroup v2, as it does on hybrid machines too (since systemd 233).
    """
    # Split at the one character that no cgroup's name may contain. str.splitlines() splits at others, too: then any
    # user who may create a cgroup could forge further lines of this file, and seem to be in any unit.
    lines = [line.split(":", 2) for line in text.split("\n") if line]
    paths = {controllers: path for _number, controllers, path in lines}
    first, second = ("", "name=systemd") if unified else ("name=systemd", "")
    return paths.get(first, paths.get(second, ""))


def read_id(pid: int) -> ProcessId | None:
    """Return the identity of the process that has this PID now; None if there is none."""
    return ProcessId(pid, stat.start) if (stat := read_stat(pid)) else None


def read_stat(pid: int) -> Stat | None:
    """Read /proc/PID/stat; None if the process is gone."""
    with _open_proc(pid) as folder:
        return None if folder is None else _stat(folder)


def read_cgroup(pid: int) -> str:
    """Return the path of a process in systemd's hierarchy of cgroups; empty if it has none, or is gone."""
    with _open_proc(pid) as folder:
        return "" if folder is None else _cgroup(folder)


def read_uid(pid: int) -> int:
    """Return the effective user of a process; -1 if it is gone."""
    with _open_proc(pid) as folder:
        return -1 if folder is None else _uid(read_file(folder, "status", MAX_STATUS))


def read_name(pid: int) -> str:
    """Return the name of a process, cut at 15 characters; empty if it is gone. The cheapest read there is."""
    try:
        # One read of one file needs no descriptor of the folder, which costs three times as much.
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return _text(file.read(64).removesuffix(b"\n"))
    except OSError:
        return ""


def read_login_user(pid: int) -> str:
    """Return the user who logged in, before any sudo or su; empty if there was no login, or it is unknown.

    pam_loginuid(8) writes it once for a login, and sudo does not change it. A kernel without audit has none.
    """
    with _open_proc(pid) as folder:
        text = b"" if folder is None else read_file(folder, "loginuid", MAX_STATUS).strip()
    return accounts.find_local_user_name(int(text)) if text.isdigit() and int(text) != LOGINUID_UNSET else ""


def is_alive(process: ProcessId) -> bool:
    """True if this very process still runs. A zombie does not."""
    stat = read_stat(process.pid)
    return stat is not None and stat.start == process.start and stat.is_alive


def uptime() -> float:
    """Return the seconds since boot, by the clock of `Process.started`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def find_start_time(process: Process) -> float:
    """Return when a process started, in seconds since the epoch, by the clock as it is set now."""
    return time.time() - uptime() + process.started


def describe_state(process: ProcessId) -> str:
    """Describe the state of a process and where it waits: "D (uninterruptible), in nfs_wait_on_request"; "gone".

    A process that is traced (ptrace(2)) continues only when its tracer lets it.
    """
    with _open_proc(process.pid) as folder:
        stat = None if folder is None else _stat(folder)
        if folder is None or stat is None or stat.start != process.start:
            return "gone"
        state = f"{stat.state} ({STATES.get(stat.state, 'unknown')})"
        where = _text(read_file(folder, "wchan", MAX_STATUS)).strip()
        tracer = re.search(rb"^TracerPid:\t([1-9]\d*)", read_file(folder, "status", MAX_STATUS), re.MULTILINE)
    if tracer and (by := read_stat(pid := int(tracer[1]))):
        state += f", by PID {pid} ({by.name})"
    # The kernel writes "0" for a process that does not wait, and for readers without permission.
    return f"{state}, in {where}" if where not in ("", "0") else state


def read_ancestor_ids(pid: int) -> tuple[ProcessId, ...]:
    """List its parent, the parent of that, and so on to PID 1, nearest first."""
    line: list[ProcessId] = []
    stat = read_stat(pid)
    while stat is not None and stat.ppid > 0:
        parent = read_stat(stat.ppid)
        # A parent is never younger than its child: the parent has exited, and another process has its PID now.
        if parent is None or parent.start > stat.start:
            break
        line.append(ProcessId(stat.ppid, parent.start))
        stat = parent
    return tuple(line)


def is_in_other_netns(pid: int) -> bool:
    """True if a process is in another network namespace than this one. False if that cannot be read.

    A user who may not read the namespaces of others can compare the tables: each namespace has its own files.
    """
    for name in ("ns/net", "net/dev"):
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{pid}/{name}").st_ino != os.stat(f"/proc/self/{name}").st_ino
    return False


def open_netns(process: ProcessId) -> int:
    """Open the network namespace of this very process. Raises OSError."""
    with _open_proc(process.pid) as folder:
        stat = None if folder is None else _stat(folder)
        if folder is None or stat is None or stat.start != process.start:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)


@contextlib.contextmanager
def open_process(process: ProcessId) -> Iterator[int | None]:
    """Open /proc/PID of this very process for the duration of a read; None if it is gone."""
    with _open_proc(process.pid) as folder:
        stat = None if folder is None else _stat(folder)
        yield folder if stat is not None and stat.start == process.start else None


@contextlib.contextmanager
def _open_proc(pid: int) -> Iterator[int | None]:
    """Open /proc/PID for the duration of a read; None if there is no such process."""
    try:
        folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)


def _process(pid: int, folder: int, most: int | None) -> Process | None:
    """Read a process, with `most` bytes of its command line; with None, only what the kernel has in its own memory."""
    stat = _stat(folder)
    if stat is None:
        return None
    id_, uid = ProcessId(pid, stat.start), _uid(read_file(folder, "status", MAX_STATUS))
    files = (("cmdline", most + 1), ("environ", MAX_ENVIRON + 1)) if most is not None else ()
    memory = read_memory(id_, folder, files) if files else [b"", b""]
    cmdline, variables = memory or (b"", b"")
    return Process(
        id=id_,
        ppid=stat.ppid,
        uid=uid,
        user=accounts.find_local_user_name(uid) if most is None else accounts.find_user_name(uid),
        name=stat.name,
        state=stat.state,
        cgroup=_cgroup(folder),
        command=_command(cmdline, most or 0),
        exe=_exe(folder),
        invocation_id=environ.parse_invocation_id(environ.cut(variables, MAX_ENVIRON)),
        environment=environ.parse_names(environ.cut(variables, most or 0)),
        started=stat.start / CLOCK_TICKS,
        dead=most is None and not stat.is_alive,
        kernel=bool(stat.flags & PF_KTHREAD),
        stalled=memory is None,
        has_terminal=stat.terminal != 0,
        session=stat.session,
        pid_namespace=_namespace(folder, "pid"),
        user_namespace=_namespace(folder, "user"),
    )


def _stat(folder: int) -> Stat | None:
    text = read_file(folder, "stat", MAX_FILE)
    return parse_stat(text) if text else None


def _cgroup(folder: int) -> str:
    text = read_file(folder, "cgroup", MAX_FILE + 1)
    return parse_cgroup(_text(text), unified=is_unified()) if len(text) <= MAX_FILE else ""


def _exe(folder: int) -> str:
    try:
        return _text(os.readlink(b"exe", dir_fd=folder))
    except OSError:
        return ""


def _namespace(folder: int, kind: str) -> int:
    try:
        return os.stat(f"ns/{kind}", dir_fd=folder).st_ino
    except OSError:
        return 0


def _uid(status: bytes) -> int:
    """Return the effective user, which ps(1) shows; -1 if it cannot be read."""
    match = re.search(rb"^Uid:\t\d+\t(\d+)", status, re.MULTILINE)
    return int(match[1]) if match else -1


def _owner(folder: int) -> int | None:
    try:
        return os.fstat(folder).st_uid
    except OSError:
        return None  # With hidepid= it may be hidden.


def _read_whole_command(process: ProcessId, folder: int) -> tuple[str, ...]:
    """Return the arguments; none if they are too long to be judged whole, or cannot be read."""
    (cmdline,) = read_memory(process, folder, (("cmdline", MAX_COMMAND + 1),)) or (b"",)
    is_complete = len(cmdline) <= MAX_COMMAND and cmdline.rstrip(b"\0").count(0) < MAX_ARGUMENTS
    return _command(cmdline, MAX_COMMAND) if is_complete else ()


def _command(cmdline: bytes, most: int) -> tuple[str, ...]:
    """Split the arguments. A process that sets its title leaves one text and a tail of zeros."""
    data = cmdline[:most].rstrip(b"\0")
    words = [_text(word) for word in data.split(b"\0", MAX_ARGUMENTS)[:MAX_ARGUMENTS]] if data else []
    if words and (len(cmdline) > most or data.count(0) >= MAX_ARGUMENTS):
        words[-1] += CUT_MARK
    return tuple(words)


def _text(data: bytes) -> str:
    # It is written to terminals and into JSON: bytes that are not UTF-8 are shown escaped, not dropped.
    return data.decode("utf-8", "backslashreplace")


def list_pids() -> Iterator[int]:
    """List the processes that /proc shows."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())
