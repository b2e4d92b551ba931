"""The verdict on a port, from the roles of all its holders: the worst role decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from runbook.host.facts import Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Role
from runbook.host.ownership import describe
from runbook.model import Port, Verdict

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class PortFacts:
    """What was read about a port."""

    port: Port
    unit: Unit  # the unit that should own the port
    manager_uid: int | None  # none for the system's manager, else the user whose manager runs the unit
    listeners: tuple[Listener, ...]  # the sockets of the unit and of its rivals
    holders: tuple[Holder, ...]
    unseen: tuple[Listener, ...]  # sockets for which no holder was found
    hidden: int  # how many processes could not be read
    manager_sockets: tuple[Listener, ...] = ()
    """Sockets that the manager created for the unit's own socket units, by the cgroup that the kernel reports."""
    apart: Mapping[Listener, str] = field(default_factory=dict)  # sockets not in the unit's way, and why; see `Rivalry`
    bystanders: tuple[Holder, ...] = ()  # their holders
    is_kernels: bool = False  # True if the kernel itself holds the sockets

    def decide(self) -> PortOwnership:
        """Decide by the worst role of a holder; if all holders are the unit's, by the sockets."""
        verdict, reason = self._judge_holders() or self._judge_sockets()
        if verdict in (Verdict.OWNED, Verdict.NOT_LISTENING):
            reason += describe.describe_apart(self.apart, self.bystanders, self.manager_uid)
        apart = tuple(self.apart)
        return PortOwnership(
            self.port,
            verdict,
            reason,
            self.listeners,
            self.holders,
            self.unseen,
            apart,
            self.bystanders,
            self.is_kernels,
        )

    @property
    def _ours(self) -> list[Holder]:
        return [holder for holder in self.holders if holder.role is Role.CURRENT]

    def _judge_holders(self) -> tuple[Verdict, str] | None:
        roles = {holder.role for holder in self.holders}
        foreign = [holder for holder in self.holders if holder.role not in (Role.CURRENT, Role.SOCKET_UNIT)]
        held = f"port {self.port} is held by"
        if self._ours and roles & {Role.OTHER_UNIT, Role.ORPHAN, Role.LEFTOVER}:
            why = self._describe_leftovers([holder for holder in foreign if holder.role is Role.LEFTOVER])
            return Verdict.PORT_SHARED, f"{held} {self.unit.name} and by {self._describe_holders(foreign)}{why}"
        if others := [holder for holder in foreign if holder.role is Role.OTHER_UNIT]:
            hint = self.unit.describe_alternative(others[0].unit)
            if not others[0].in_its_service and not others[0].unit.endswith(".socket"):
                hint = f": {others[0].why}{hint}"
            return Verdict.OTHER_UNIT_HOLDS_PORT, f"{held} {self._describe_holders(others)}{hint}"
        if Role.UNKNOWN in roles or self.unseen:
            readable = [one for one in foreign if one.role is Role.UNKNOWN and one.process.cgroup]
            if self.unseen or not readable:
                return Verdict.OWNER_UNKNOWN, self._describe_unseen(self.unseen)
            unknown = f"whether {self.unit.name} owns it is unknown: {readable[0].why}"
            return Verdict.OWNER_UNKNOWN, f"{held} {self._describe_holders(readable)}; {unknown}"
        if Role.ORPHAN in roles:
            return Verdict.ORPHAN_HOLDS_PORT, f"{held} {self._describe_holders(foreign)}: not this unit"
        if Role.LEFTOVER in roles:
            why = self._describe_leftovers(foreign)
            return Verdict.LEFTOVER_HOLDS_PORT, f"{held} {self._describe_holders(foreign)}{why}"
        return None

    def _describe_leftovers(self, leftovers: list[Holder]) -> str:
        if self.unit.is_untracked:
            return f"; {describe.describe_untracked(self.unit)}"
        if any(self.unit.is_running and holder.process.pid == self.unit.main_pid for holder in leftovers):
            # `systemctl status` shows it as the main process.
            return f"; systemd took it for the main process of {self.unit.name}, but it is older than this start"
        return ""

    def _judge_sockets(self) -> tuple[Verdict, str]:
        if not self.listeners:
            return Verdict.NOT_LISTENING, f"no process listens on port {self.port} for {self.unit.name}"
        if self.hidden and not self._are_created_by_unit():
            return Verdict.OWNER_UNKNOWN, self._describe_unseen(self.listeners)
        unit, port, ours = self.unit.name, self.port, self._ours
        if port.address in WILDCARDS and not any(listener.address in WILDCARDS for listener in self.listeners):
            where = ", ".join(map(str, self.listeners))
            return Verdict.NOT_LISTENING, f"{unit} listens on {where} only, not on {port}"
        if not ours or unit.endswith(".socket"):
            served = f"; {self._describe_holders(ours)}, serves it" if ours else ""
            return Verdict.OWNED, f"systemd listens on port {port} for {unit}{served}"
        only = f"PID {ours[0].process.pid}" if len(ours) == 1 else f"{unit} ({len(ours)} processes)"
        return Verdict.OWNED, f"port {port} is held only by {only}"

    def _are_created_by_unit(self) -> bool:
        """True if every socket was created in the unit's cgroup, or by the manager for the unit's socket units.

        An ordinary user may not read every process. The kernel reports to every user in which cgroup a socket was
        created (INET_DIAG_CGROUP_ID, Linux 5.8), which is sufficient where processes are hidden.
        """
        group = self.unit.control_group_id if self._ours else 0
        opened = frozenset(self.manager_sockets)
        return all(one in opened or (group and one.cgroup_id == group) for one in self.listeners)

    def _describe_unseen(self, listeners: Collection[Listener]) -> str:
        if self.is_kernels:
            return describe.describe_kernel_sockets(self.port, self.listeners)
        return describe.describe_unseen(self.port, listeners, self.manager_uid, self.hidden)

    def _describe_holders(self, holders: Collection[Holder]) -> str:
        return describe.describe_holders(holders, self.manager_uid)


def make_changing(port: Port) -> PortOwnership:
    """Make the verdict on a port that is different at every read."""
    reason = f"the processes that hold port {port} change faster than they can be read"
    return PortOwnership(port, Verdict.OWNER_UNKNOWN, reason)
