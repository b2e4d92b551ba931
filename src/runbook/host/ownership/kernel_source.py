"""The kernel of this machine as the judgement's source: processes, sockets and descriptors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from runbook.errors import LookLimitExceeded
from runbook.host.cgroups import parse_cgroup_path
from runbook.host.holders import Listener, PortUse, Process
from runbook.host.kernel import (
    accounts,
    cgroupfs,
    descriptors,
    in_flight,
    multicast,
    processes,
    protected,
    signals,
    sock_diag,
)
from runbook.host.loop import Loop
from runbook.host.ownership.network import is_entering_netns
from runbook.model import Port, ProcessId

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
        self._forget()

    @cached_property
    def _me(self) -> signals.OwnProcess:
        return signals.OwnProcess.read()

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        self._forget()
        with self._bounded():
            listeners = self._sockets.list_listeners(port)
        self._loop.record_sockets(port, frozenset(listener.inode for listener in listeners))
        return listeners

    def list_uses(self, port: Port) -> tuple[PortUse, ...]:
        self._forget()
        with self._bounded():
            return self._sockets.list_uses(port)

    has_sockets_in_flight = staticmethod(in_flight.has_sockets_in_flight)
    is_multicast = staticmethod(multicast.is_multicast)

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        self._forget()
        with self._bounded():
            return () if is_entering_netns(pid) else sock_diag.list_netns_listeners(pid, port, self._limit)

    def list_cgroup_pids(self, path: str) -> tuple[int, ...]:
        with self._bounded():
            if path not in self._cgroups:
                self._cgroups[path] = cgroupfs.list_cgroup_pids(path, self._limit)
        return self._cgroups[path]

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> descriptors.DescriptorScan:
        with self._bounded():
            return descriptors.scan_holders(inodes, likely, self._limit)

    def find_held_sockets(self, pid: int, inodes: Collection[int]) -> set[int]:
        with self._bounded():
            return descriptors.find_held_sockets(pid, inodes, self._limit)

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

    def describe_virtual_machine(self, process: Process) -> str:
        if process.id not in self._machines:
            with self._bounded():
                self._machines[process.id] = protected.find_machine_protection(process, self._has_open)
        return self._machines[process.id]

    def describe_giver(self, process: Process, sockets: tuple[Listener, ...]) -> str:
        # In another user namespace, root has another number.
        apart = process.user_namespace != self._me.user_namespace
        if apart or not sockets or any(one.uid in (0, process.uid) for one in sockets):
            return ""
        first = sockets[0]
        user = f"user {accounts.find_user_name(first.uid)}"
        if not first.cgroup_id:
            return user
        path = self.find_cgroup(first.cgroup_id)
        return f"{user} in {(parse_cgroup_path(path).unit or path) if path else 'a cgroup that cannot be found'}"

    def is_created_in(self, socket: Listener, cgroup: str) -> bool:
        return cgroupfs.is_inside(cgroup, socket.cgroup_id)

    def find_cgroup(self, number: int) -> str:
        if number not in self._paths:
            with self._bounded():
                self._paths[number] = cgroupfs.find_cgroup(number, self._limit)
        return self._paths[number]

    def find_protection(self, process: Process) -> str:
        return signals.find_protection(process, me=self._me) or self.describe_virtual_machine(process)

    def _has_open(self, pid: int, files: re.Pattern[bytes]) -> bool:
        return descriptors.has_open(pid, files, self._limit)

    def _forget(self) -> None:
        self._processes: dict[int, Process | None] = {}
        self._machines: dict[ProcessId, str] = {}
        self._cgroups: dict[str, tuple[int, ...]] = {}
        self._paths: dict[int, str] = {}  # of cgroups, by their ids
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
