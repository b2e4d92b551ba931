"""The two sources of a judgement, as interfaces: the kernel, and the manager that runs the unit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Listener, PortUse, Process
from runbook.host.kernel.descriptors import DescriptorScan
from runbook.model import Port


class KernelSource(Protocol):
    """What the kernel reports: sockets and processes."""

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        """List every socket that listens on the port, in this program's network namespace."""

    def list_uses(self, port: Port) -> tuple[PortUse, ...]:
        """List the sockets that have the port as their own and do not listen, in this program's network namespace."""

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        """List them in the network namespace of a process."""

    def list_cgroup_pids(self, path: str) -> tuple[int, ...]:
        """List the processes of a cgroup and of all cgroups below it."""

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> DescriptorScan:
        """Find every process that holds one of these sockets; processes in `likely` are read first."""

    def find_held_sockets(self, pid: int, inodes: Collection[int]) -> set[int]:
        """Return which of these sockets a process holds now; none if it cannot be read."""

    def has_sockets_in_flight(self) -> bool:
        """True if a process may be passing a socket to another: then no process has it in its descriptor table."""

    def read_process(self, pid: int) -> Process | None:
        """Read a process; None if it has exited."""

    def is_multicast(self, listener: Listener, pids: Collection[int], *, reusable: bool = False) -> bool:
        """True if a UDP socket, which these processes hold, receives multicast; `reusable`: and shares its port."""

    def describe_container(self, process: Process) -> str:
        """Return why a process counts as in a container, by its namespaces; empty if it does not."""

    def describe_virtual_machine(self, process: Process) -> str:
        """Return why a process counts as running a virtual machine; empty if it does not."""

    def describe_giver(self, process: Process, sockets: tuple[Listener, ...]) -> str:
        """Return who created all these sockets, if that is another user: "user agentops in session-9.scope".

        Empty if the process may have created one of them: a daemon does so as root, or as the user that it runs as.
        """

    def is_created_in(self, socket: Listener, cgroup: str) -> bool:
        """True if a socket was created in this cgroup, or in one above it."""

    def find_cgroup(self, number: int) -> str:
        """Return the path of the cgroup with this id; empty if it was removed."""

    def find_protection(self, process: Process) -> str:
        """Return why a process must never be killed; empty if it may be."""


class ManagerSource(Protocol):
    """What systemd reports: the manager that runs the unit."""

    def unit(self, name: str) -> Unit:
        """Read a unit."""

    def read_loaded_state(self, name: str) -> ActiveState | None:
        """Return the state of a unit; None if it is not loaded."""

    def find_unit_of_invocation(self, invocation: str) -> Unit | None:
        """Return the unit whose current invocation this is; None if there is none."""

    def list_main_pids(self) -> Mapping[int, str] | None:
        """List the main processes of all services that are up, by PID, with the unit of each; None if that fails."""

    def list_open_sockets(self) -> Collection[str]:
        """List the names of all socket units that are up."""


class AddressSource(Protocol):
    """What is known of the addresses that a unit listens on, besides the sockets that it has now."""

    def find_refused(self, unit: Unit, port: Port) -> Collection[str]:
        """Return the addresses that the unit found in use, by its log; an empty text for one that it does not name."""

    def find_earlier(self, unit: Unit, port: Port) -> Collection[str]:
        """Return the addresses on which the unit listened when it was up."""


class NoAddresses:
    """An `AddressSource` of which nothing is known."""

    def find_refused(self, unit: Unit, port: Port) -> Collection[str]:
        return ()

    def find_earlier(self, unit: Unit, port: Port) -> Collection[str]:
        return ()
