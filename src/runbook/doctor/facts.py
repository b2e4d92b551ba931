"""The facts that the diagnosis of one unit is made from, read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from runbook.checks.exit_reason import has_exited_by_itself, is_start_limit_hit
from runbook.checks.health import HealthReport
from runbook.doctor.journal import NO_JOURNAL, JournalFacts
from runbook.doctor.ports import LOG_SOURCE, FoundPort
from runbook.host.facts import DOWN, Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role
from runbook.host.interface import HostView


@dataclass(frozen=True)
class UnitFacts:
    """What was read of a unit."""

    view: HostView
    unit: Unit
    uid: int  # the effective user of this program, for whom the commands are written
    found: tuple[FoundPort, ...]
    ports: tuple[PortOwnership, ...]  # the same ports, judged
    health: HealthReport
    journal: JournalFacts = NO_JOURNAL  # empty if the unit is healthy: then it is not read

    @cached_property
    def rivals(self) -> tuple[Holder, ...]:
        """The processes on the unit's ports that are not the unit's, each once."""
        holders = {holder.process.id: holder for port in self.ports for holder in port.foreign_holders}
        return tuple(holders.values())

    @cached_property
    def strays(self) -> tuple[Holder, ...]:
        """Those of the rivals that may be killed."""
        return tuple(holder for holder in self.rivals if holder.may_be_killed)

    @cached_property
    def leftovers(self) -> tuple[Holder, ...]:
        """The processes of earlier invocations in the unit's cgroup, whether they hold a port or not."""
        held = [holder for holder in self.rivals if holder.role is Role.LEFTOVER]
        return tuple({one.process.id: one for one in (*held, *self.view.find_leftovers(self.unit))}.values())

    @property
    def is_limit_reached(self) -> bool:
        """True if systemd refuses to start the unit."""
        return self.unit.active_state in DOWN and is_start_limit_hit(self.unit)

    def is_refused(self, holder: Holder) -> bool:
        """True if the unit's log, or the exit of its program, shows that a process keeps the unit from its port."""
        mine = {port.port for port in self.ports if holder in port.holders}
        by_log = any(LOG_SOURCE in found.sources for found in self.found if found.port in mine)
        return by_log or (self.unit.active_state in DOWN and has_exited_by_itself(self.unit))

    def runs_same_program(self, process: Process) -> bool:
        """True if a process executes the program that ExecStart= names."""
        program = next(iter(self.unit.start_arguments), "")
        name = PurePosixPath(program).name
        return bool(name) and any(PurePosixPath(word).name == name for word in (process.exe_path, *process.command[:2]))

    def held_ports(self, holder: Holder) -> str:
        """Return the ports that a process holds, for a sentence: "port 80", "ports 80 and 443"."""
        mine = [str(port.port) for port in self.ports if holder.process.id in {one.process.id for one in port.holders}]
        *most, last = mine or ["?"]
        return f"ports {', '.join(most)} and {last}" if most else f"port {last}"
