"""Kills what a query's command leaves behind: processes that left the command's process group.

A process that calls setsid(2) is no longer in its command's group, and when its parent exits it becomes a child of
init. While commands run as queries, this program is the subreaper of its descendants (PR_SET_CHILD_SUBREAPER,
prctl(2)): it becomes the parent of orphans instead, and kills them when the last of these commands has ended.
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

REAP_TIMEOUT = 0.4  # seconds for the killed processes to exit; a process in uninterruptible sleep is left to init
_PR_SET_CHILD_SUBREAPER = 36


class Subreaper:
    """Kills the orphans that became children of this program while commands ran, and no earlier child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._children: frozenset[int] = frozenset()
        self._sessions: frozenset[int] = frozenset()

    @contextlib.contextmanager
    def adopt_orphans(self) -> Iterator[None]:
        """Adopt orphans inside the context. Several threads may be inside; the last to leave kills the orphans."""
        with self._lock:
            if not self._users:
                self._children = frozenset(_children())
                # A command starts in a session of its own, so its orphans are in none of these.
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
        # The children of a killed orphan become orphans themselves.
        while (orphans := self._find_orphans()) and time.monotonic() < until:
            for pid in orphans:
                # A child of this program: until it is waited for, its PID is not used again.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)

    def _find_orphans(self) -> list[int]:
        """Return the children that a command left: new ones, in a session that no earlier child is in."""
        new = {pid: _session(pid) for pid in _children() if pid not in self._children}
        return [pid for pid, session in new.items() if session is not None and session not in self._sessions]


def _children() -> set[int]:
    try:
        threads = Path("/proc/self/task").iterdir()
        return {int(pid) for thread in threads for pid in (thread / "children").read_text().split()}
    except OSError:
        # A thread has just ended, or the kernel has no CONFIG_PROC_CHILDREN.
        me = os.getpid()
        return {pid for pid in processes.list_pids() if (stat := processes.read_stat(pid)) and stat.ppid == me}


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _adopt(enable: bool) -> None:
    # If the kernel refuses, orphans become children of init, as without this program.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(enable), 0, 0, 0)
