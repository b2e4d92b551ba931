"""What it means who holds a port: one verdict from the roles of all its holders, the worst first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from runbook.host.facts import Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Role
from runbook.host.ownership import describe
from runbook.model import Port, Verdict

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class PortFacts:
    """The sockets that listen on a port, who holds them, and what could not be seen.

    `unseen` are sockets without a holder that was seen; `hidden` processes could not be looked into; `opened` are
    those that the unit's manager made for the unit's own socket units, by the kernel's word and not by their holders.
    `manager_uid` is None for the system's manager, else the user whose manager runs the unit.
    """

    port: Port
    unit: Unit
    manager_uid: int | None
    listeners: tuple[Listener, ...]
    holders: tuple[Holder, ...]
    unseen: tuple[Listener, ...]
    hidden: int
    manager_sockets: tuple[Listener, ...] = ()

    def decide(self) -> PortOwnership:
        """Say whose the port is."""
        roles = {holder.role for holder in self.holders}
        unit, port = self.unit.name, self.port
        ours = [h for h in self.holders if h.role is Role.CURRENT]
        others = [h for h in self.holders if h.role not in (Role.CURRENT, Role.SOCKET_UNIT)]

        def judged(verdict: Verdict, reason: str) -> PortOwnership:
            return PortOwnership(port, verdict, reason, self.listeners, self.holders, self.unseen)

        if ours and others and roles & {Role.OTHER_UNIT, Role.ORPHAN, Role.LEFTOVER}:
            return judged(Verdict.PORT_SHARED, f"port {port} is held by {unit} and by {self._describe_holders(others)}")
        if Role.OTHER_UNIT in roles:
            them = [h for h in others if h.role is Role.OTHER_UNIT]
            return judged(
                Verdict.OTHER_UNIT_HOLDS_PORT,
                f"port {port} is held by {self._describe_holders(them)}" + self.unit.describe_alternative(them[0].unit),
            )
        if Role.UNKNOWN in roles or self.unseen:
            return judged(Verdict.OWNER_UNKNOWN, self._describe_unknown())
        if Role.ORPHAN in roles:
            return judged(
                Verdict.ORPHAN_HOLDS_PORT, f"port {port} is held by {self._describe_holders(others)}: not this unit"
            )
        if Role.LEFTOVER in roles and self.unit.is_untracked:
            told = f"port {port} is held by {self._describe_holders(others)}; {describe.describe_untracked(self.unit)}"
            return judged(Verdict.LEFTOVER_HOLDS_PORT, told)
        if Role.LEFTOVER in roles:
            told = f"port {port} is held by {self._describe_holders(others)}, left over from an earlier run"
            if any(self.unit.is_running and holder.process.pid == self.unit.main_pid for holder in others):
                # `systemctl status` says otherwise.
                told += f"; systemd took it for the main process of {unit}, but it is older than this start"
            return judged(Verdict.LEFTOVER_HOLDS_PORT, told)
        if self.hidden and not self._are_created_by_unit(ours):
            return judged(Verdict.OWNER_UNKNOWN, self._describe_unseen(self.listeners))
        if port.address in WILDCARDS and not any(listener.address in WILDCARDS for listener in self.listeners):
            where = ", ".join(str(listener) for listener in self.listeners)
            return judged(Verdict.NOT_LISTENING, f"{unit} listens on {where} only, not on {port}")
        if ours and self.unit.name.endswith(".socket"):
            return judged(
                Verdict.OWNED, f"systemd listens on port {port} for {unit}; {self._describe_holders(ours)}, serves it"
            )
        if ours:
            alone = f"PID {ours[0].process.pid}'s" if len(ours) == 1 else f"{unit}'s ({len(ours)} processes)"
            return judged(Verdict.OWNED, f"port {port} is {alone} alone")
        return judged(Verdict.OWNED, f"systemd listens on port {port} for {unit}")

    def _are_created_by_unit(self, ours: list[Holder]) -> bool:
        # Not everyone may look into every process. The kernel tells everyone, though, in which cgroup a socket
        # was made (INET_DIAG_CGROUP_ID, Linux 5.8): a second witness where the first is half blind.
        group = self.unit.control_group_id
        told = [
            one for one in self.listeners if one in self.manager_sockets or (ours and group and one.cgroup_id == group)
        ]
        return len(told) == len(self.listeners)

    def _describe_unknown(self) -> str:
        """Say of whom it cannot be told whose they are; or that nobody is to be seen at all."""
        told = [holder for holder in self.holders if holder.role is Role.UNKNOWN and holder.process.cgroup]
        if self.unseen or not told:
            return self._describe_unseen(self.unseen)
        held = f"port {self.port} is held by {self._describe_holders(told)}"
        return f"{held}, and whose that is cannot be told: {told[0].why}"

    def _describe_unseen(self, listeners: Collection[Listener]) -> str:
        return describe.describe_unseen(self.port, listeners, self.manager_uid, self.hidden)

    def _describe_holders(self, holders: Collection[Holder]) -> str:
        return describe.describe_holders(holders, self.manager_uid)


def make_changing(port: Port) -> PortOwnership:
    """Say that nothing can be said, because it is another thing at every look."""
    return PortOwnership(port, Verdict.OWNER_UNKNOWN, f"who holds port {port} changes faster than it can be looked at")
