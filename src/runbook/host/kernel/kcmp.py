# ruff: noqa: PTH115, PTH116, PTH208 - pathlib is slow, and there are thousands of processes
"""Rules out processes that do not hold an open file, by kcmp(2): the kernel compares two descriptors and names nothing.

That takes less than half the time of a readlink(2), for which the kernel formats the name of each descriptor. It needs
one process that is known to hold the file, and it only ever rules a process out. A process that is not ruled out, for
whatever reason, is read as if nothing had been compared.

While a process is in execve(2), the kernel makes comparisons with it wait, perhaps for ever: execve closes descriptors,
and one of them may be on a dead NFS mount. So a thread compares, and is abandoned if it makes no progress.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runbook.host.kernel.look_limit import LookLimit

STALL_TIMEOUT = 0.5  # seconds without a process compared after which the comparison is abandoned
MAX_DESCRIPTORS = 64  # of a process that is compared; if it has more, their number may change too often meanwhile

_KCMP_FILE = 0  # linux/kcmp.h
# The number of kcmp(2), for which the C library has no function; None on other architectures.
_NUMBER = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine) if sys.maxsize > 1 << 32 else None
_syscall = ctypes.CDLL(None).syscall


class KnownDescriptor(NamedTuple):
    """Where a file is known to be: a descriptor of a process, and its link in /proc."""

    pid: int
    descriptor: int
    link: bytes

    @property
    def is_current(self) -> bool:
        """True if the file is still there."""
        try:
            return os.readlink(b"/proc/%d/fd/%d" % (self.pid, self.descriptor)) == self.link
        except OSError:
            return False


class _Comparison(threading.Thread):
    """Compares one file with the descriptors of many processes, in a thread of its own."""

    def __init__(self, pids: Sequence[int], place: KnownDescriptor) -> None:
        super().__init__(name="compare", daemon=True)
        self._pids = pids
        self._place = place
        self.candidates: list[int] = []  # the processes that are not ruled out
        self.count = 0
        self.is_abandoned = False

    def run(self) -> None:
        for pid in self._pids if _comparable(self._place) else ():
            if self.is_abandoned:
                return
            if not _rules_out(self._place, pid):
                self.candidates.append(pid)
            self.count += 1


_stuck: list[_Comparison] = []  # comparisons that were abandoned. While one of them waits in the kernel none is begun


def filter_candidates(pids: Sequence[int], place: KnownDescriptor, limit: LookLimit) -> Sequence[int]:
    """Return those of the processes that may hold the file of `place`; all of them if nothing could be compared.

    Raises LookLimitExceeded.
    """
    _stuck[:] = filter(_Comparison.is_alive, _stuck)
    if _NUMBER is None or _stuck:
        return pids
    comparison = _Comparison(pids, place)
    try:
        comparison.start()
    except RuntimeError:  # No more threads are allowed here.
        return pids
    while comparison.is_alive():
        before = comparison.count
        comparison.join(STALL_TIMEOUT)
        comparison.is_abandoned = limit.is_over
        limit.check()
        if comparison.is_alive() and comparison.count == before:
            comparison.is_abandoned = True
            _stuck.append(comparison)
            return pids
    # The comparison is valid only if the known descriptor has been the file all the time.
    return comparison.candidates if comparison.count == len(pids) and place.is_current else pids


def _comparable(place: KnownDescriptor) -> bool:
    """True if the kernel permits the comparison, and PIDs mean the same to it as in /proc."""
    try:
        return os.readlink("/proc/self") == str(os.getpid()) and _compare(place, place.pid, (place.descriptor,)) == [0]
    except OSError:
        return False


def _rules_out(place: KnownDescriptor, pid: int) -> bool:
    """True if it is certain that no descriptor of a process is the file."""
    table = b"/proc/%d/fd" % pid
    try:
        # Since Linux 6.2 that is the number of descriptors. Mostly they have no gap, and need not be listed.
        count = os.stat(table).st_size
        if not 0 < count <= MAX_DESCRIPTORS:
            return False
        *results, above = _compare(place, pid, range(count + 1))
        # A gap that was filled before it was reached hides descriptors above it: then there are more, or there were.
        if -1 in results or above != -1 or os.stat(table).st_size != count:
            results = _compare(place, pid, map(int, os.listdir(table)))
    except OSError:
        return False
    # 0: the same file. -1: no such descriptor, or no permission to compare it.
    return bool(results) and min(results) > 0


def _compare(place: KnownDescriptor, pid: int, descriptors: Iterable[int]) -> list[int]:
    holder, its = place.pid, place.descriptor
    return [_syscall(_NUMBER, holder, pid, _KCMP_FILE, its, one) for one in descriptors]
