"""The verdict on a port, from the roles of all its holders. The first line that applies decides:

current, beside other-unit, orphan or leftover      port-shared
other-unit                                          other-unit-holds-port
unknown, or a socket without a visible holder       owner-unknown
orphan                                              orphan-holds-port
leftover                                            leftover-holds-port
nothing but current and socket-unit                 owned, with two exceptions: see `_judge_sockets`
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field

from runbook.host.facts import Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Role
from runbook.host.ownership import describe
from runbook.model import Port, Verdict, frozen

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@frozen
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
        """Decide by the roles of the holders; if all are the unit's, by the sockets."""
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

    def _list_holders(self, role: Role) -> list[Holder]:
        return [holder for holder in self.holders if holder.role is role]

    def _judge_holders(self) -> tuple[Verdict, str] | None:
        """Return the verdict on a port that not only the unit holds; None if no other process holds it."""
        others, unknown = self._list_holders(Role.OTHER_UNIT), self._list_holders(Role.UNKNOWN)
        orphans, leftovers = self._list_holders(Role.ORPHAN), self._list_holders(Role.LEFTOVER)
        held = f"port {self.port} is held by"
        left_over = f"{self._describe_holders(leftovers)}{self._explain_leftovers(leftovers)}"
        if self._list_holders(Role.CURRENT) and (others or orphans or leftovers):
            foreign = [holder for holder in self.holders if holder.is_foreign]
            why = self._explain_leftovers(leftovers)
            return Verdict.PORT_SHARED, f"{held} {self.unit.name} and by {self._describe_holders(foreign)}{why}"
        if others:
            return Verdict.OTHER_UNIT_HOLDS_PORT, f"{held} {self._describe_holders(others)}{self._hint_at(others[0])}"
        if unknown or self.unseen:
            return Verdict.OWNER_UNKNOWN, self._explain_unknown(unknown)
        if orphans:
            more = f"; and by {left_over}" if leftovers else ""
            return Verdict.ORPHAN_HOLDS_PORT, f"{held} {self._describe_holders(orphans)}: not this unit{more}"
        return (Verdict.LEFTOVER_HOLDS_PORT, f"{held} {left_over}") if leftovers else None

    def _hint_at(self, other: Holder) -> str:
        """Return why a process counts as another unit's, if its unit does not show that, and which unit was meant."""
        why = "" if other.in_its_service or other.unit.endswith(".socket") else f": {other.why}"
        return why + self.unit.describe_alternative(other.unit)

    def _explain_unknown(self, unknown: list[Holder]) -> str:
        readable = [holder for holder in unknown if holder.process.cgroup]
        if self.unseen or not readable:
            return self._describe_unseen(self.unseen)
        why = f"whether {self.unit.name} owns it is unknown: {readable[0].why}"
        return f"port {self.port} is held by {self._describe_holders(readable)}; {why}"

    def _explain_leftovers(self, leftovers: list[Holder]) -> str:
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
        unit, port, current = self.unit.name, self.port, self._list_holders(Role.CURRENT)
        # The wildcard of IPv6 contains that of IPv4, unless it is only_v6: then it is not among these sockets.
        if port.address in WILDCARDS and not any(one.address in (port.address, "::") for one in self.listeners):
            where = ", ".join(map(str, self.listeners))
            return Verdict.NOT_LISTENING, f"{unit} listens on {where} only, not on {port}"
        if not current or unit.endswith(".socket"):
            served = f"; {self._describe_holders(current)}, serves it" if current else ""
            return Verdict.OWNED, f"systemd listens on port {port} for {unit}{served}"
        only = f"PID {current[0].process.pid}" if len(current) == 1 else f"{unit} ({len(current)} processes)"
        return Verdict.OWNED, f"port {port} is held only by {only}"

    def _are_created_by_unit(self) -> bool:
        """True if every socket was created in the unit's cgroup, or by the manager for the unit's socket units.

        An ordinary user may not read every process. The kernel reports to every user in which cgroup a socket was
        created (INET_DIAG_CGROUP_ID, Linux 5.8), which is sufficient where processes are hidden.
        """
        group = self.unit.control_group_id if self._list_holders(Role.CURRENT) else 0
        opened = frozenset(self.manager_sockets)
        return all(one in opened or (group and one.cgroup_id == group) for one in self.listeners)

    def _describe_unseen(self, listeners: Collection[Listener]) -> str:
        if self.is_kernels:
            return describe.describe_kernel_sockets(self.port, self.listeners)
        return describe.describe_unseen(self.port, listeners, self.manager_uid, self.hidden)

    def _describe_holders(self, holders: Collection[Holder]) -> str:
        return describe.describe_holders(holders, self.manager_uid)


def owner_changing(port: Port) -> PortOwnership:
    """Return the verdict on a port that is different at every read."""
    reason = f"the processes that hold port {port} change faster than they can be read"
    return PortOwnership(port, Verdict.OWNER_UNKNOWN, reason, is_incomplete=True)
