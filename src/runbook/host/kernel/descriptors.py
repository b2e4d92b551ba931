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
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runbook.errors import HostError, LookLimitExceeded
from runbook.host.kernel import accounts, kcmp, processes
from runbook.host.kernel.look_limit import LookLimit

TABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

THREADS = min(4, len(os.sched_getaffinity(0)))  # how many threads share a scan of all processes, at most
MAX_LIKELY = 16  # how many likely processes are read, at most, to find one that holds the socket, for the comparison
CHECK_EVERY = 256  # descriptors of one table, after which the time is checked
MAX_LARGE = 1000  # how many processes with large tables are considered for a message
PIDS_PER_THREAD = 100  # for fewer processes a thread costs more than it saves

NUMBERS = tuple(b"%d" % number for number in range(65))
"""The names of the descriptors in a table without a gap. As bytes, which Python passes on as they are."""


@dataclass
class DescriptorScan:
    """Which processes hold which of the sockets."""

    holders: dict[int, set[int]] = field(default_factory=dict)
    hidden: int = 0
    """How many processes could not be read; at least 1 if /proc hides the others (its mount option hidepid=)."""


def scan_holders(inodes: Collection[int], likely: Sequence[int] = (), limit: LookLimit | None = None) -> DescriptorScan:
    """Find every process that holds one of these sockets in its descriptor table.

    Processes in `likely` are read first: that is faster, and no less certain. Raises LookLimitExceeded and HostError.

    Links are read, never followed: a stat(2) through a descriptor on a dead NFS mount would hang.

    Threads share one table unless they requested another (unshare(2), CLONE_FILES), and to read each thread costs many
    times as much. So their tables are read only if a socket was found nowhere else, or if the first thread, whose table
    /proc/PID/fd shows, has exited. A further holder that only such a table shows, of a socket that others hold openly,
    is missed; the next read after the port was freed finds it.
    """
    search = _Search(_links(inodes), limit or LookLimit())
    scan = DescriptorScan(hidden=0 if os.path.exists("/proc/1") else 1)
    if not search.links:
        return scan
    try:
        return _scan_all(search, likely, scan)
    except LookLimitExceeded:
        raise LookLimitExceeded(_describe_large_tables(search.limit.large_tables)) from None


def find_held_sockets(pid: int, inodes: Collection[int], limit: LookLimit | None = None) -> set[int]:
    """Return which of these sockets a process holds, in any thread's table; none if it cannot be read.

    Raises LookLimitExceeded.
    """
    search = _Search(_links(inodes), limit or LookLimit())
    with contextlib.suppress(OSError):
        return search.read_table(pid, f"/proc/{pid}/fd")[0] | search.read_thread_tables(pid)
    return set()


def _scan_all(search: _Search, likely: Sequence[int], scan: DescriptorScan) -> DescriptorScan:
    pids: Sequence[int] = list(processes.list_pids())
    # Two sockets would take two comparisons for each descriptor, and no less time than one readlink(2).
    if len(search.links) == 1 and (place := search.find_descriptor(likely)):
        pids = kcmp.filter_candidates(pids, place, search.limit)
    for part in _scan_in_threads(pids, search):
        scan.holders.update(part.holders)
        scan.hidden += part.hidden
    if set(search.links.values()).difference(*scan.holders.values()):
        search.limit.large_tables.clear()
        for pid in processes.list_pids():
            with contextlib.suppress(OSError):
                if inodes := search.read_table(pid, f"/proc/{pid}/fd")[0] | search.read_thread_tables(pid):
                    scan.holders.setdefault(pid, set()).update(inodes)
    return scan


def _describe_large_tables(tables: Counter[int]) -> str:
    """Return the message of a look that took too long, with the user who has most of the descriptors."""
    why = "the open files of all processes cannot be read in time"
    owners = {pid: processes.read_uid(pid) for pid, _ in tables.most_common(MAX_LARGE)}
    if not owners:
        return why
    read = Counter[int]()
    for pid, uid in owners.items():
        read[uid] += tables[pid]
    ((uid, _),) = read.most_common(1)
    count = [*owners.values()].count(uid)
    processes_of_user = "1 process" if count == 1 else f"{count} processes"
    who = accounts.find_local_user_name(uid)
    return f"{why}; {processes_of_user} of user {who} had more than {CHECK_EVERY} each (ps -fu {uid} shows them)"


def list_sockets(pid: int, limit: LookLimit) -> set[int]:
    """Return the inodes of all sockets that a process holds; none if they cannot be read. Raises LookLimitExceeded."""
    return {int(link[8:-1]) for link in _iterate_links(pid, limit) if link.startswith(b"socket:[")}


def has_open(pid: int, files: re.Pattern[bytes], limit: LookLimit | None = None) -> bool:
    """True if the link of one of the process's descriptors matches. False if they cannot be read.

    Raises LookLimitExceeded.
    """
    return any(files.fullmatch(link) for link in _iterate_links(pid, limit or LookLimit()))


def _iterate_links(pid: int, limit: LookLimit) -> Iterator[bytes]:
    """Yield the link of each descriptor of the process's table, as far as it can be read. Raises LookLimitExceeded."""
    with contextlib.suppress(OSError):
        for at, descriptor in enumerate(os.listdir(f"/proc/{pid}/fd")):
            if not at % CHECK_EVERY:
                limit.check()
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(b"/proc/%d/fd/%s" % (pid, descriptor.encode()))


def _links(inodes: Collection[int]) -> dict[bytes, int]:
    return {b"socket:[%d]" % inode: inode for inode in inodes}


class _Search:
    """The sockets that are looked for, and when the look must end. Its methods raise LookLimitExceeded and OSError."""

    def __init__(self, links: Mapping[bytes, int], limit: LookLimit) -> None:
        self.links = links  # the inodes, by the links to the sockets in /proc
        self.limit = limit

    def read_table(self, pid: int, table: str) -> tuple[set[int], int]:
        """Return which of the sockets a table holds, and how many descriptors are in it."""
        self.limit.check()
        folder = os.open(table, TABLE)
        try:
            # Since Linux 6.2 that is the number of descriptors; before, it is 0. Mostly they have no gap, and their
            # names are known: to list them is a fifth of the work.
            count = os.fstat(folder).st_size
            if 0 < count < len(NUMBERS) and (inodes := self._read_by_number(folder, count)) is not None:
                return inodes, count
            return self._read_listing(pid, folder)
        finally:
            os.close(folder)

    def read_thread_tables(self, pid: int) -> set[int]:
        """Return which of the sockets are in a table of a thread."""
        inodes = set[int]()
        # Each thread adds a link to the two that any folder has.
        if os.stat(f"/proc/{pid}/task").st_nlink == 3:  # noqa: PLR2004
            return inodes
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                inodes |= self.read_table(pid, f"/proc/{pid}/task/{thread}/fd")[0]
        return inodes

    def find_descriptor(self, likely: Sequence[int]) -> kcmp.KnownDescriptor | None:
        """Find a descriptor that is one of the sockets, in the first processes of `likely`."""
        for pid in likely[:MAX_LIKELY]:
            with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as table:
                for at, descriptor in enumerate(table):
                    if at % CHECK_EVERY == 0:
                        self.limit.check()
                    with contextlib.suppress(FileNotFoundError):
                        link = os.readlink(os.fsencode(descriptor.path))
                        if link in self.links:
                            return kcmp.KnownDescriptor(pid, int(descriptor.name), link)
        return None

    def _read_by_number(self, folder: int, count: int) -> set[int] | None:
        """Read the descriptors from 0 to `count`; None if these may not be all. A gap shows soonest at the top."""
        try:
            links = [os.readlink(name, dir_fd=folder) for name in NUMBERS[count - 1 :: -1]]
        except FileNotFoundError:
            return None
        # A gap that was filled before it was reached hides descriptors above it: then there are more, or there were.
        with contextlib.suppress(FileNotFoundError):
            os.readlink(NUMBERS[count], dir_fd=folder)
            return None
        if os.fstat(folder).st_size != count:
            return None
        return {self.links[link] for link in self.links.keys() & links}

    def _read_listing(self, pid: int, folder: int) -> tuple[set[int], int]:
        inodes, count = set[int](), 0
        with os.scandir(folder) as descriptors:
            for count, descriptor in enumerate(descriptors, 1):
                if count % CHECK_EVERY == 0:
                    self._note_progress(pid)
                try:
                    link = os.readlink(descriptor.name.encode(), dir_fd=folder)
                except FileNotFoundError:
                    continue  # closed meanwhile
                if link in self.links:
                    inodes.add(self.links[link])
        return inodes, count

    def _note_progress(self, pid: int) -> None:
        self.limit.large_tables[pid] += CHECK_EVERY
        self.limit.check()


def _scan_in_threads(pids: Sequence[int], search: _Search) -> list[DescriptorScan]:
    """Read all of the processes, each thread its share. Raises LookLimitExceeded or HostError if not all were read."""
    count = max(1, min(THREADS, len(pids) // PIDS_PER_THREAD))
    shares = [pids[first::count] for first in range(count)]
    scans: list[DescriptorScan] = []
    helpers, own_shares = [], shares[:1]
    for share in shares[1:]:
        helper = threading.Thread(target=lambda share=share: scans.append(_scan(share, search)))
        try:
            helper.start()
            helpers.append(helper)
        except RuntimeError:  # No more threads are allowed here.
            own_shares.append(share)
    scans += [_scan(share, search) for share in own_shares]
    for helper in helpers:
        helper.join()
    search.limit.check()
    if len(scans) != len(shares):
        raise HostError("cannot look through all processes: a thread of this program ended early")
    return scans


def _scan(pids: Sequence[int], search: _Search) -> DescriptorScan:
    scan = DescriptorScan()
    for pid in pids:
        try:
            inodes, count = search.read_table(pid, f"/proc/{pid}/fd")
            if not count:
                inodes = search.read_thread_tables(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has exited.
        except PermissionError:
            scan.hidden += _may_hold(pid)
        except OSError:
            scan.hidden += 1  # No descriptor or memory is left.
        except LookLimitExceeded:
            break  # Raised in the first thread, when all have ended.
        else:
            if inodes:
                scan.holders[pid] = inodes
    return scan


def _may_hold(pid: int) -> bool:
    """True if a process that could not be read may hold a socket: a kernel thread or a zombie does not."""
    stat = processes.read_stat(pid)
    if stat is None:
        # With hidepid=1 the folder is listed, but not even its stat can be read.
        return os.path.exists(f"/proc/{pid}")
    return stat.is_alive and not stat.flags & processes.PF_KTHREAD
