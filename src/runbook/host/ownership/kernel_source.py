"""The kernel of this machine as the judgement's source: processes, sockets and descriptors."""

from __future__ import annotations

from runbook.host.holders import Listener, Process
from runbook.host.kernel import descriptors, processes, signals, sock_diag
from runbook.host.loop import Loop
from runbook.host.ownership.network import is_entering_netns
from runbook.model import Port


class LocalKernel:
    """A `KernelSource`. Each read of a port's sockets is recorded in the loop, so that a wait ends when they change."""

    def __init__(self, sockets: sock_diag.SocketTable, loop: Loop) -> None:
        self._sockets = sockets
        self._loop = loop
        self._me = signals.OwnProcess.read()

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        listeners = self._sockets.list_listeners(port)
        self._loop.record_sockets(port, frozenset(listener.inode for listener in listeners))
        return listeners

    list_cgroup_pids = staticmethod(processes.list_cgroup_pids)
    scan_holders = staticmethod(descriptors.scan_holders)
    read_process = staticmethod(processes.read_process)

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        return () if is_entering_netns(pid) else sock_diag.list_netns_listeners(pid, port)

    def describe_container(self, process: Process) -> str:
        return signals.describe_container(process, self._me)

    def find_protection(self, process: Process) -> str:
        return signals.find_protection(process, me=self._me)
