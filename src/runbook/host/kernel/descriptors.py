# ruff: noqa: PTH110, PTH115, PTH116, PTH208 - pathlib cannot use the descriptor of a folder
"""Finds which processes hold which sockets, by the descriptor tables in /proc (proc_pid_fd(5)).

The kernel has no other way to ask. So every descriptor of every process is read, each time: a socket is often held by
several processes, and any of them may be foreign. Nearly all of the time is the kernel's, for one readlink(2) for each
descriptor, during which Python's lock is free: threads share the work. If one socket is looked for and one of its
holders is known, a cheaper comparison rules most processes out first (kcmp.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from runbook.errors import HostError
from runbook.host.kernel import kcmp, processes

TABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

THREADS = min(4, len(os.sched_getaffinity(0)))  # how many threads share a scan of all processes, at most
MAX_LIKELY = 16  # how many likely processes are read, at most, to find one that holds the socket, for the comparison
PIDS_PER_THREAD = 100  # for fewer processes a thread costs more than it saves

NUMBERS = tuple(b"%d" % number for number in range(65))
"""The names of the descriptors in a table without a gap. As bytes, which Python passes on as they are."""


@dataclass
class DescriptorScan:
    """Which processes hold which of the sockets."""

    holders: dict[int, set[int]] = field(default_factory=dict)
    hidden: int = 0
    """How many processes could not be read; at least 1 if /proc hides the others (its mount option hidepid=)."""


def scan_holders(inodes: Collection[int], likely: Sequence[int] = ()) -> DescriptorScan:
    """Find every process that holds one of these sockets in its descriptor table.

    Processes in `likely` are read first: that is faster, and no less certain.

    Links are read, never followed: a stat(2) through a descriptor on a dead NFS mount would hang.

    Threads share one table unless they requested another (unshare(2), CLONE_FILES), and to read each thread costs many
    times as much. So their tables are read only if a socket was found nowhere else, or if the first thread, whose table
    /proc/PID/fd shows, has exited. A further holder that only such a table shows, of a socket that others hold openly,
    is missed; the next read after the port was freed finds it.
    """
    wanted = _links(inodes)
    scan = DescriptorScan(hidden=0 if os.path.exists("/proc/1") else 1)
    if not wanted:
        return scan
    pids: Sequence[int] = list(processes.list_pids())
    # Two sockets would take two comparisons for each descriptor, and no less time than one readlink(2).
    if len(wanted) == 1 and (place := _find_descriptor(likely, wanted)):
        pids = kcmp.filter_candidates(pids, place)
    for part in _scan_in_threads(pids, wanted):
        scan.holders.update(part.holders)
        scan.hidden += part.hidden
    if set(inodes).difference(*scan.holders.values()):
        for pid in processes.list_pids():
            with contextlib.suppress(OSError):
                if held := _held(f"/proc/{pid}/fd", wanted)[0] | _held_by_threads(pid, wanted):
                    scan.holders.setdefault(pid, set()).update(held)
    return scan


def holds_any_socket(pid: int, inodes: Collection[int]) -> bool:
    """True if a process holds one of these sockets, in any thread's table. False if it cannot be read."""
    wanted = _links(inodes)
    with contextlib.suppress(OSError):
        return bool(_held(f"/proc/{pid}/fd", wanted)[0] or _held_by_threads(pid, wanted))
    return False


def _links(inodes: Collection[int]) -> dict[bytes, int]:
    return {b"socket:[%d]" % inode: inode for inode in inodes}


def _find_descriptor(likely: Sequence[int], wanted: Mapping[bytes, int]) -> kcmp.KnownDescriptor | None:
    """Find a descriptor that is the socket."""
    for pid in likely[:MAX_LIKELY]:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    link = os.readlink(b"/proc/%d/fd/%s" % (pid, descriptor.encode()))
                    if link in wanted:
                        return kcmp.KnownDescriptor(pid, int(descriptor), link)
    return None


def _scan_in_threads(pids: Sequence[int], wanted: Mapping[bytes, int]) -> list[DescriptorScan]:
    """Read all of the processes, each thread its share. Raises HostError rather than return less than all."""
    count = max(1, min(THREADS, len(pids) // PIDS_PER_THREAD))
    shares = [pids[first::count] for first in range(count)]
    found: list[DescriptorScan] = []
    helpers, mine = [], shares[:1]
    for share in shares[1:]:
        helper = threading.Thread(target=lambda share=share: found.append(_scan(share, wanted)))
        try:
            helper.start()
            helpers.append(helper)
        except RuntimeError:  # No more threads are allowed here.
            mine.append(share)
    found += [_scan(share, wanted) for share in mine]
    for helper in helpers:
        helper.join()
    if len(found) != len(shares):
        raise HostError("cannot look through all processes: a thread of this program ended early")
    return found


def _scan(pids: Sequence[int], wanted: Mapping[bytes, int]) -> DescriptorScan:
    scan = DescriptorScan()
    for pid in pids:
        try:
            held, count = _held(f"/proc/{pid}/fd", wanted)
            if not count:
                held = _held_by_threads(pid, wanted)
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has exited.
        except PermissionError:
            scan.hidden += _may_hold(pid)
        except OSError:
            scan.hidden += 1  # No descriptor or memory is left.
        else:
            if held:
                scan.holders[pid] = held
    return scan


def _held(table: str, wanted: Mapping[bytes, int]) -> tuple[set[int], int]:
    """Return which of the sockets a table holds, and how many descriptors are in it. Raises OSError."""
    folder = os.open(table, TABLE)
    try:
        # Since Linux 6.2 that is the number of descriptors; before, it is 0. Mostly they have no gap, and their names
        # are known: to list them is a fifth of the work.
        count = os.fstat(folder).st_size
        if 0 < count < len(NUMBERS) and (held := _held_by_number(folder, count, wanted)) is not None:
            return held, count
        held = set[int]()
        descriptors = os.listdir(folder)
        for descriptor in descriptors:
            try:
                link = os.readlink(descriptor.encode(), dir_fd=folder)
            except FileNotFoundError:
                continue  # closed meanwhile
            if link in wanted:
                held.add(wanted[link])
        return held, len(descriptors)
    finally:
        os.close(folder)


def _held_by_number(folder: int, count: int, wanted: Mapping[bytes, int]) -> set[int] | None:
    """Read the descriptors from 0 to `count`; None if these may not be all. A gap shows soonest at the top."""
    try:
        links = [os.readlink(name, dir_fd=folder) for name in NUMBERS[count - 1 :: -1]]
    except FileNotFoundError:
        return None
    # A gap that was filled before it was reached hides descriptors above it: then there are more, or there were.
    with contextlib.suppress(FileNotFoundError):
        os.readlink(NUMBERS[count], dir_fd=folder)
        return None
    return {wanted[link] for link in wanted.keys() & links} if os.fstat(folder).st_size == count else None


def _held_by_threads(pid: int, wanted: Mapping[bytes, int]) -> set[int]:
    held: set[int] = set()
    # Each thread adds a link to the two that any folder has.
    if os.stat(f"/proc/{pid}/task").st_nlink == 3:  # noqa: PLR2004
        return held
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            held |= _held(f"/proc/{pid}/task/{thread}/fd", wanted)[0]
    return held


def _may_hold(pid: int) -> bool:
    """True if a process that could not be read may hold a socket: a kernel thread or a zombie does not."""
    stat = processes.read_stat(pid)
    if stat is None:
        # With hidepid=1 the folder is listed, but not even its stat can be read.
        return os.path.exists(f"/proc/{pid}")
    return stat.is_alive and not stat.flags & processes.PF_KTHREAD
