"""The verdict on a port, from the roles of all its holders: the worst role decides."""

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
    """What was read about a port."""

    port: Port
    unit: Unit  # the unit that should own the port
    manager_uid: int | None  # none for the system's manager, else the user whose manager runs the unit
    listeners: tuple[Listener, ...]
    holders: tuple[Holder, ...]
    unseen: tuple[Listener, ...]  # sockets for which no holder was found
    hidden: int  # how many processes could not be read
    manager_sockets: tuple[Listener, ...] = ()
    """Sockets that the manager created for the unit's own socket units, as the kernel reports. No holder shows it."""

    def decide(self) -> PortOwnership:
        """Decide by the first rule that applies."""
        verdict, reason = (
            self._if_shared()
            or self._if_other_unit()
            or self._if_unknown()
            or self._if_orphan()
            or self._if_leftover()
            or self._if_partly_hidden()
            or self._if_other_address()
            or self._owned()
        )
        return PortOwnership(self.port, verdict, reason, self.listeners, self.holders, self.unseen)

    @property
    def _ours(self) -> list[Holder]:
        return [holder for holder in self.holders if holder.role is Role.CURRENT]

    @property
    def _foreign(self) -> list[Holder]:
        return [holder for holder in self.holders if holder.role not in (Role.CURRENT, Role.SOCKET_UNIT)]

    @property
    def _roles(self) -> set[Role]:
        return {holder.role for holder in self.holders}

    @property
    def _held_by_foreign(self) -> str:
        return f"port {self.port} is held by {self._describe_holders(self._foreign)}"

    def _if_shared(self) -> tuple[Verdict, str] | None:
        if not self._ours or not self._roles & {Role.OTHER_UNIT, Role.ORPHAN, Role.LEFTOVER}:
            return None
        them = self._describe_holders(self._foreign)
        return Verdict.PORT_SHARED, f"port {self.port} is held by {self.unit.name} and by {them}"

    def _if_other_unit(self) -> tuple[Verdict, str] | None:
        them = [holder for holder in self.holders if holder.role is Role.OTHER_UNIT]
        if not them:
            return None
        held = f"port {self.port} is held by {self._describe_holders(them)}"
        return Verdict.OTHER_UNIT_HOLDS_PORT, held + self.unit.describe_alternative(them[0].unit)

    def _if_unknown(self) -> tuple[Verdict, str] | None:
        if Role.UNKNOWN not in self._roles and not self.unseen:
            return None
        readable = [one for one in self.holders if one.role is Role.UNKNOWN and one.process.cgroup]
        if self.unseen or not readable:
            return Verdict.OWNER_UNKNOWN, self._describe_unseen(self.unseen)
        held = f"port {self.port} is held by {self._describe_holders(readable)}"
        return Verdict.OWNER_UNKNOWN, f"{held}; whether {self.unit.name} owns it is unknown: {readable[0].why}"

    def _if_orphan(self) -> tuple[Verdict, str] | None:
        if Role.ORPHAN not in self._roles:
            return None
        return Verdict.ORPHAN_HOLDS_PORT, f"{self._held_by_foreign}: not this unit"

    def _if_leftover(self) -> tuple[Verdict, str] | None:
        if Role.LEFTOVER not in self._roles:
            return None
        if self.unit.is_untracked:
            return Verdict.LEFTOVER_HOLDS_PORT, f"{self._held_by_foreign}; {describe.describe_untracked(self.unit)}"
        reason = f"{self._held_by_foreign}, left over from an earlier invocation"
        if any(self.unit.is_running and holder.process.pid == self.unit.main_pid for holder in self._foreign):
            # `systemctl status` shows it as the main process.
            reason += f"; systemd took it for the main process of {self.unit.name}, but it is older than this start"
        return Verdict.LEFTOVER_HOLDS_PORT, reason

    def _if_partly_hidden(self) -> tuple[Verdict, str] | None:
        if not self.hidden or self._are_created_by_unit():
            return None
        return Verdict.OWNER_UNKNOWN, self._describe_unseen(self.listeners)

    def _if_other_address(self) -> tuple[Verdict, str] | None:
        is_wildcard = any(listener.address in WILDCARDS for listener in self.listeners)
        if self.port.address not in WILDCARDS or is_wildcard:
            return None
        where = ", ".join(str(listener) for listener in self.listeners)
        return Verdict.NOT_LISTENING, f"{self.unit.name} listens on {where} only, not on {self.port}"

    def _owned(self) -> tuple[Verdict, str]:
        unit, port, ours = self.unit.name, self.port, self._ours
        if ours and unit.endswith(".socket"):
            reason = f"systemd listens on port {port} for {unit}; {self._describe_holders(ours)}, serves it"
        elif ours:
            only = f"PID {ours[0].process.pid}" if len(ours) == 1 else f"{unit} ({len(ours)} processes)"
            reason = f"port {port} is held only by {only}"
        else:
            reason = f"systemd listens on port {port} for {unit}"
        return Verdict.OWNED, reason

    def _are_created_by_unit(self) -> bool:
        """True if every socket was created in the unit's cgroup, or by the manager for the unit's socket units.

        An ordinary user may not read every process. The kernel reports to every user in which cgroup a socket was
        created (INET_DIAG_CGROUP_ID, Linux 5.8), which is sufficient where processes are hidden.
        """
        group = self.unit.control_group_id if self._ours else 0
        return all(one in self.manager_sockets or (group and one.cgroup_id == group) for one in self.listeners)

    def _describe_unseen(self, listeners: Collection[Listener]) -> str:
        return describe.describe_unseen(self.port, listeners, self.manager_uid, self.hidden)

    def _describe_holders(self, holders: Collection[Holder]) -> str:
        return describe.describe_holders(holders, self.manager_uid)


def make_changing(port: Port) -> PortOwnership:
    """Make the verdict on a port that is different at every read."""
    reason = f"the processes that hold port {port} change faster than they can be read"
    return PortOwnership(port, Verdict.OWNER_UNKNOWN, reason)
