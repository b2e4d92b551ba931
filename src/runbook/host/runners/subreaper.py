"""What a command that was only asked something leaves behind: processes that went where no signal finds them.

A process that calls setsid(2) is no more in its command's group, and when its parent ends it would be init's.
While commands are asked, this program takes init's place for all that descends from it (PR_SET_CHILD_SUBREAPER,
prctl(2)): what loses its parent comes to it, and is ended with the last command that runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from runbook.host.kernel import processes

REAP_TIMEOUT = 0.4
"""Seconds that ending them may take; what sits in the kernel is left to init."""

_PR_SET_CHILD_SUBREAPER = 36


class Subreaper:
    """Ends what came to this program while commands were asked, and nothing that was there before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._children: frozenset[int] = frozenset()
        self._sessions: frozenset[int] = frozenset()

    @contextlib.contextmanager
    def adopt_orphans(self) -> Iterator[None]:
        """Catch them while this lasts. Several threads may be in it; the last one out ends the strays."""
        with self._lock:
            if not self._users:
                self._children = frozenset(_children())
                self._sessions = frozenset({os.getsid(0), *filter(None, map(_session, self._children))})
                _adopt(True)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._kill_orphans()
                    _adopt(False)

    def _kill_orphans(self) -> None:
        until = time.monotonic() + REAP_TIMEOUT
        # What is killed hands its own children on.
        while (strays := self._find_orphans()) and time.monotonic() < until:
            for pid in strays:
                # It is a child of this program's: until it is waited for, its PID is its own.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)

    def _find_orphans(self) -> list[int]:
        """List children that came from a command: one in a session of its own, which none of the others is in."""
        found = []
        for pid in _children():
            session = _session(pid)
            if pid not in self._children and session is not None and session not in self._sessions:
                found.append(pid)
        return found


def _children() -> set[int]:
    me = os.getpid()
    try:
        found: set[int] = set()
        for thread in Path("/proc/self/task").iterdir():
            found.update(map(int, (thread / "children").read_text().split()))
    except OSError:
        # A thread that has just ended, or a kernel without CONFIG_PROC_CHILDREN.
        return {pid for pid in processes.list_pids() if (stat := processes.read_stat(pid)) and stat.ppid == me}
    return found


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _adopt(whether: bool) -> None:
    # Where it is not to be had, strays stay init's.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0)
