"""The kernel of this machine as the judgement's source: processes, sockets and descriptors."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from runbook.errors import LookLimitExceeded
from runbook.host.holders import Listener, Process
from runbook.host.kernel import descriptors, processes, signals, sock_diag
from runbook.host.loop import Loop
from runbook.host.ownership.network import is_entering_netns
from runbook.model import Port

KEPT_BYTES = 8 * 1024 * 1024  # bytes of command lines and names of variables that one look keeps
KEPT_OF_EACH = 256  # bytes that are kept of each process, however many there are


class LocalKernel:
    """A `KernelSource`. Each read of a port's sockets is recorded in the loop, so that a wait ends when they change.

    Between two reads of the sockets, each process and each cgroup is read once. All reads together are one look: they
    share a time-out, and SIGTERM ends them.
    """

    def __init__(self, sockets: sock_diag.SocketTable, loop: Loop) -> None:
        self._sockets = sockets
        self._loop = loop
        self._limit = loop.limit_look()
        self._me = signals.OwnProcess.read()
        self._forget()

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        self._forget()
        with self._bounded():
            listeners = self._sockets.list_listeners(port)
        self._loop.record_sockets(port, frozenset(listener.inode for listener in listeners))
        return listeners

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        self._forget()
        with self._bounded():
            return () if is_entering_netns(pid) else sock_diag.list_netns_listeners(pid, port, self._limit)

    def list_cgroup_pids(self, path: str) -> tuple[int, ...]:
        with self._bounded():
            if path not in self._cgroups:
                self._cgroups[path] = processes.list_cgroup_pids(path, self._limit)
        return self._cgroups[path]

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> descriptors.DescriptorScan:
        with self._bounded():
            return descriptors.scan_holders(inodes, likely, self._limit)

    def read_process(self, pid: int) -> Process | None:
        if pid not in self._processes:
            with self._bounded():
                process = processes.read_process(pid, max(KEPT_OF_EACH, min(processes.MAX_COMMAND, self._room)))
            self._processes[pid] = process
            if process is not None:
                self._room -= sum(map(len, (*process.command, *process.environment)))
        return self._processes[pid]

    def describe_container(self, process: Process) -> str:
        return signals.describe_container(process, self._me)

    def find_protection(self, process: Process) -> str:
        return signals.find_protection(process, me=self._me)

    def _forget(self) -> None:
        self._processes: dict[int, Process | None] = {}
        self._cgroups: dict[str, tuple[int, ...]] = {}
        self._room = KEPT_BYTES

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        """Raise LookLimitExceeded or Interrupted if the look must end."""
        try:
            self._limit.check()
            yield
        except LookLimitExceeded:
            self._loop.raise_if_interrupted()
            raise
