"""In which network namespace a unit's sockets are, and the process through which that namespace is entered.

A port number of the host's namespace and the same number in another one are two ports.
"""

from __future__ import annotations

import os

from runbook.errors import HostError
from runbook.host.facts import Unit
from runbook.host.kernel import processes
from runbook.host.ownership.sources import ManagerSource
from runbook.model import Port, ProcessId

EXECUTORS = ("systemd", "systemd-executor")  # what a new main process runs before its execve(2) of the service
NETNS_TOOLS = ("ip", "nsenter")  # in ExecStart= they enter a namespace, and then execute the service
NETNS_TOOL_SECONDS = 5.0  # for how long such a tool counts as about to enter one: `ip monitor` never does


class UnitNetworks:
    """The network namespaces of the units of one manager."""

    def __init__(self, manager: ManagerSource) -> None:
        self._manager = manager
        self._seen_separate: set[str] = set()

    def is_separate(self, unit: Unit) -> bool:
        """True if a unit is in another network namespace than this program, by its settings or by its own action.

        `ip netns exec` in ExecStart= changes the namespace, and no setting shows it. A unit that was found so once
        counts as separate while it is down, too.
        """
        if unit.private_network or unit.network_namespace_path:
            return True
        pid = unit.main_pid
        if pid and processes.is_in_other_netns(pid):
            self._seen_separate.add(unit.name)
        return unit.name in self._seen_separate or (pid > 0 and _is_netns_tool(pid))

    def find_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        """Return the process whose network namespace a probe enters; see `HostView.find_network_process`."""
        if not self.is_separate(unit) or (port is not None and self._is_socket_activated(unit, port)):
            return None
        process = processes.read_process(unit.main_pid) if unit.main_pid else None
        if process is None:
            raise HostError(f"{unit.name} has its own network namespace, and no main process to enter it through")
        if processes.is_in_other_netns(process.pid):
            return process.id
        if is_entering_netns(process.pid):
            raise HostError(f"{process} of {unit.name} has not entered the unit's network namespace yet")
        return None  # Inside a container that forbids it, systemd does without PrivateNetwork=.

    def _is_socket_activated(self, unit: Unit, port: Port) -> bool:
        """True if a socket unit listens on a port for a unit: it does so in the manager's own namespace."""
        units = [self._manager.unit(name) for name in unit.triggered_by if name.endswith(".socket")]
        addresses = (address for one in units if one.is_running for _, address in one.listen)
        return any(address.rpartition(":")[2] == str(port.number) for address in addresses)


def is_entering_netns(pid: int) -> bool:
    """True if a new main process has yet to enter the unit's network namespace: it still is in that of this program.

    systemd reports the main process before that process has set up its namespaces. For these milliseconds its
    /proc/PID/net lists the sockets of the host, where another service may listen on the same port number.
    """
    return (read_program(pid) in EXECUTORS or _is_netns_tool(pid)) and not processes.is_in_other_netns(pid)


def _is_netns_tool(pid: int) -> bool:
    if read_program(pid) not in NETNS_TOOLS:
        return False
    stat = processes.read_stat(pid)
    return stat is not None and processes.uptime() - stat.start / processes.CLOCK_TICKS < NETNS_TOOL_SECONDS


def read_program(pid: int) -> str:
    """Return the file name of the program that a process executes; empty if that cannot be read."""
    try:
        # pathlib takes four times as long, and each check of a wait asks three times.
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115, PTH119
    except OSError:
        return ""


def find_network_pid(unit: Unit, manager: ManagerSource) -> int:
    """Return the main PID of a unit, or that of a unit which shares its namespace (JoinsNamespaceOf=); 0 if none."""
    others = (manager.unit(name) for name in unit.joins_namespace_of) if not unit.main_pid else ()
    return unit.main_pid or next((one.main_pid for one in others if one.private_network and one.main_pid), 0)
