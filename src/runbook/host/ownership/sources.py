"""What the judgement on ports asks of the two witnesses, the kernel and systemd."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Listener, Process
from runbook.model import Port


class HolderScan(Protocol):
    """Which processes hold which sockets, and how many processes could not be looked into."""

    @property
    def holders(self) -> dict[int, set[int]]: ...

    @property
    def hidden(self) -> int: ...


class KernelSource(Protocol):
    """The kernel's side of the judgement."""

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        """Every socket that listens on the port."""

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        """The same in the network namespace of a process."""

    def list_cgroup_pids(self, path: str) -> tuple[int, ...]:
        """Every process of a cgroup and all below it."""

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> HolderScan:
        """Every process that holds one of these sockets; who is `likely` to is asked first."""

    def read_process(self, pid: int) -> Process | None:
        """One look at a process; None when it is gone."""

    def describe_container(self, process: Process) -> str:
        """Say that a process is in other namespaces than this program, as in a container; else nothing."""

    def describe_container_keeper(self, process: Process) -> str:
        """Say that a process keeps a container, or passes on its port; else nothing."""

    def find_protection(self, process: Process) -> str:
        """Why this process may never be ended, or nothing."""


class ManagerSource(Protocol):
    """systemd's side: the manager that runs the unit."""

    def unit(self, name: str) -> Unit:
        """Look at a unit."""

    def read_loaded_state(self, name: str) -> ActiveState | None:
        """Tell the state of a unit; None where the manager does not know it."""

    def find_unit_of_invocation(self, invocation: str) -> Unit | None:
        """Look at the unit of an invocation; None where that is over."""

    def list_open_sockets(self) -> Collection[str]:
        """Name the socket units that are up."""
