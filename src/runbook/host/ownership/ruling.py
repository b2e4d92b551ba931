"""What every rule about a process works with: the unit as it is now, both sources, and the ruling that results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Process, Role
from runbook.host.kernel import protected
from runbook.host.kernel.ancestry import MAX_ANCESTORS, is_typed_into
from runbook.host.ownership.sources import KernelSource, ManagerSource
from runbook.model import frozen


class RoleRuling(NamedTuple):
    """The role of a process, and what follows from it for an operator."""

    role: Role
    unit: str  # where the process is: the name of a service, a scope or a session, or "no unit"
    why: str  # the fact that decided
    protection: str = ""  # why the process must not be killed; empty if it may be
    stop_verb: str = "stop"  # the verb of systemctl that stops `unit`; empty if none should
    stop_command: str = ""  # the command by which a container's engine stops the container
    outlives_stop: bool = False  # True if it may run on after `unit` was stopped


def rule_other_unit(unit: str, why: str, *, stop_verb: str = "stop", stop_command: str = "") -> RoleRuling:
    """Make the ruling that a process belongs to another unit, which protects it for the same reason."""
    return RoleRuling(Role.OTHER_UNIT, unit, why, why, stop_verb, stop_command)


def _ends_descent(process: Process) -> bool:
    in_manager = parse_cgroup_path(process.cgroup).kind is CgroupKind.MANAGER
    return is_typed_into(process) or in_manager or protected.is_login_server(process)


@frozen
class UnitContext:
    """One unit at one moment, with the kernel and the manager to ask about it."""

    unit: Unit
    kernel: KernelSource
    manager: ManagerSource
    manager_uid: int | None = None  # none for the system's manager, else the user whose manager runs the unit

    def is_in_unit(self, process: Process, place: CgroupUnit) -> bool:
        """True if a process is in the unit's own cgroup, or in one below it."""
        named = place.unit in {self.unit.name, *self.unit.names}
        if not self.unit.is_service or place.kind is not CgroupKind.SERVICE or not named:
            # A slice contains other units, and user@.service those of a user: they are not its processes.
            return False
        if group := self.unit.control_group:
            return process.cgroup == group or process.cgroup.startswith(group + "/")
        # If the unit is down and systemd has released its cgroup, only the name can decide.
        return place.user_uid == self.manager_uid

    def list_open_sockets(self) -> list[Unit]:
        """List the unit's own socket units that are up. One that is down has no sockets."""
        names = (name for name in (self.unit.name, *self.unit.triggered_by) if name.endswith(".socket"))
        return [one for one in map(self.manager.unit, names) if one.is_running]

    def list_socket_units(self) -> list[Unit]:
        """List the unit's socket units, up or down. systemd links one to its service only while it is loaded."""
        stem = self.unit.name.rpartition(".")[0]
        names = dict.fromkeys(name for name in (*self.unit.triggered_by, f"{stem}.socket") if name.endswith(".socket"))
        return [one for one in map(self.manager.unit, names) if self.unit.name in (one.name, *one.triggers)]

    def list_unit_pids(self) -> tuple[int, ...]:
        """List the processes in the unit's cgroup and below."""
        return self.kernel.list_cgroup_pids(self.unit.control_group) if self.unit.control_group else ()

    @cached_property
    def oldest_start(self) -> float:
        """When the oldest process in the unit's cgroup started, in seconds of CLOCK_BOOTTIME; infinite if none is."""
        found = map(self.kernel.read_process, self.list_unit_pids())
        return min((one.started for one in found if one is not None), default=math.inf)

    def read_processes(self, pids: Iterable[int]) -> list[Process]:
        """Read the processes with these PIDs, except those that have exited."""
        return [one for one in map(self.kernel.read_process, pids) if one is not None and not one.dead]

    def list_ancestry(self, process: Process) -> list[Process]:
        """List a process and its ancestors, nearest first, without PID 1."""
        line = [process]
        while len(line) < MAX_ANCESTORS and line[-1].ppid > 1 and (parent := self.kernel.read_process(line[-1].ppid)):
            line.append(parent)
        return line

    def find_children_protection(self, process: Process) -> str:
        """Return why the descendants of a process must not be killed; empty if there is no such reason."""
        return protected.find_children_protection(process) or self.kernel.describe_virtual_machine(process)

    def list_starters(self, process: Process) -> list[Process]:
        """List the ancestors that may run a process, nearest first.

        What was typed into a shell, or started in a login over ssh, is run by nothing above that; nor does a manager
        run the processes without a parent that it adopts.
        """
        above = self.list_ancestry(process)[1:]
        return list(takewhile(lambda one: not _ends_descent(one), above))

    def list_ancestry_in_unit(self, process: Process) -> list[Process]:
        """List a process and those of its ancestors that are in the unit too, up to the main process."""
        line = [process]
        while len(line) < MAX_ANCESTORS and (parent := self.kernel.read_process(line[-1].ppid)):
            if parent.pid == self.unit.main_pid:
                return [*line, parent]
            if not self.is_in_unit(parent, parse_cgroup_path(parent.cgroup)):
                break
            line.append(parent)
        return line
