"""Whose is the port: the judgement this program exists for.

systemd says which invocation of the unit is under way; the kernel says which sockets listen and which processes
hold them. Each holder has one role (roles.py), and from all of them follows what the port is (conclusion.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from runbook.host.cgroups import Kind, unit_of
from runbook.host.facts import Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Process, Role
from runbook.host.ownership.roles import Roles, listens
from runbook.host.ownership.sources import Kernel, Manager, witness_inside
from runbook.host.ownership.verdict import Found, changing
from runbook.model import Port, Verdict

LOOKS = 5
"""How often a look is repeated when the sockets changed under it; a port that still changes is unknown."""


@dataclass(frozen=True)
class Judge:
    """Judges the ports of one unit, as it stands at this moment."""

    unit: Unit
    kernel: Kernel
    manager: Manager
    own_network: bool = False
    """Whether the unit's processes are in another network namespace than this program."""
    manager_uid: int | None = None
    """None for the system's manager, else the user whose manager runs the unit."""

    def judge(self, port: Port) -> PortOwnership:
        """Say who listens on `port`. The sockets are read before and after the holders, until both agree."""
        if self.unit.network_namespace_path and not self.unit.main_pid:
            # Whoever else is in that namespace may hold the port there.
            why = f"{self.unit.name} has a network namespace of its own, which cannot be looked into while it is down"
            return PortOwnership(port, Verdict.OWNER_UNKNOWN, why)
        if self.own_network and not witness_inside(self.unit, self.manager):
            why = f"{self.unit.name} has a network of its own, and is down: nothing of it holds a port there"
            return PortOwnership(port, Verdict.NOT_LISTENING, why)
        for _ in range(LOOKS):
            listeners = self.listeners(port)
            if not listeners:
                return PortOwnership(port, Verdict.NOT_LISTENING, f"nobody listens on port {port}")
            mine = self.kernel.in_cgroup(self.unit.control_group) if self.unit.control_group else ()
            likely = sorted(mine, key=lambda pid: pid != self.unit.main_pid)
            scan = self.kernel.holders({listener.inode for listener in listeners}, likely)
            holders = self._holders(listeners, scan.holders)
            again = self.listeners(port)
            if {listener.inode for listener in again} != {listener.inode for listener in listeners}:
                continue
            seen = {listener for holder in holders for listener in holder.sockets}
            opened = self._opened_by_manager(listeners) if scan.hidden else ()
            unseen = tuple(listener for listener in listeners if listener not in (*seen, *opened))
            found = Found(port, self.unit, self.manager_uid, listeners, holders, unseen, scan.hidden, opened)
            return found.conclusion()
        return changing(port)

    def leftovers(self) -> tuple[Holder, ...]:
        """Give the processes of earlier invocations in the unit's cgroup, whether they hold a port or not."""
        if not self.unit.control_group:
            return ()
        found = []
        for pid in self.kernel.in_cgroup(self.unit.control_group):
            process = self.kernel.read(pid)
            if process is not None and not process.dead and self._roles.in_unit(process, unit_of(process.cgroup)):
                holder = self.holder(process, ())
                found += [holder] if holder.role is Role.LEFTOVER else []
        return tuple(found)

    def listeners(self, port: Port) -> tuple[Listener, ...]:
        """List the sockets in the unit's own network: a port number of the host says nothing about another."""
        if not self.own_network:
            return self.kernel.listeners(port)
        inside = self.kernel.listeners_of(witness_inside(self.unit, self.manager), port)
        # Its socket unit listens in the host's network all the same, and hands the sockets over.
        handed = {address for one in self._roles.open_sockets for _, address in one.listen}
        return (*inside, *(one for one in self.kernel.listeners(port) if str(one) in handed)) if handed else inside

    def _opened_by_manager(self, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
        """Give those that a user's manager made for the unit's own socket units.

        Its user may not look into it (it has a capability more). But the kernel tells everyone in which cgroup a
        socket was made, and there, in the manager's own, is nobody else who makes any.
        """
        if self.manager_uid is None or not (mine := self._roles.open_sockets):
            return ()
        group = self.manager.unit("init.scope").control_group_id
        wanted = sum(map(listens, mine), Counter())
        made = [one for one in listeners if group and one.cgroup_id == group and one.uid == self.manager_uid]
        return tuple(one for one in made if (one.protocol, str(one)) in wanted)

    def _holders(self, listeners: tuple[Listener, ...], held: dict[int, set[int]]) -> tuple[Holder, ...]:
        holders = []
        for pid, inodes in sorted(held.items()):
            process = self.kernel.read(pid)
            if process is None or process.dead:
                continue  # It ended meanwhile; if its socket lives on, somebody else holds it or it is unseen.
            sockets = tuple(listener for listener in listeners if listener.inode in inodes)
            holders.append(self.holder(process, sockets))
        return self._handed_over(self._kept_for_us(tuple(holders)))

    def _kept_for_us(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """See that a manager which holds what the unit holds too keeps it for the unit (FileDescriptorStoreMax=)."""
        ours = {socket.inode for holder in holders if holder.role is Role.CURRENT for socket in holder.sockets}

        def kept(holder: Holder) -> bool:
            manages = holder.process.pid == 1 or unit_of(holder.process.cgroup).kind is Kind.MANAGER
            return manages and {socket.inode for socket in holder.sockets} <= ours

        why = f"it keeps the sockets for {self.unit.name}"
        return tuple(replace(holder, role=Role.SOCKET_UNIT, why=why) if kept(holder) else holder for holder in holders)

    def _handed_over(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """See that the service which a socket unit triggers serves for it: it was given these very sockets.

        One that listens by itself, on sockets of its own, is another unit like any other: the two are rivals then.
        """
        open_for_us = {
            socket.inode for holder in holders if holder.role is Role.SOCKET_UNIT for socket in holder.sockets
        }

        def judged(holder: Holder) -> Holder:
            given = {socket.inode for socket in holder.sockets} <= open_for_us
            if holder.role is not Role.OTHER_UNIT or holder.unit not in self.unit.triggers or not given:
                return holder
            behind = replace(self, unit=self.manager.unit(holder.unit))
            return behind.holder(holder.process, holder.sockets)

        return tuple(map(judged, holders)) if self.unit.name.endswith(".socket") else holders

    def holder(self, process: Process, sockets: tuple[Listener, ...]) -> Holder:
        """Say whose a process is that holds these sockets."""
        role, unit, why, spared, ended_by, stop = self._roles.of(process, sockets)
        if role in (Role.ORPHAN, Role.LEFTOVER):
            spared = self.kernel.spared_by(process) or spared
        return Holder(process, role, unit, why, sockets, spared, ended_by, stop)

    @property
    def _roles(self) -> Roles:
        return Roles(self.unit, self.kernel, self.manager, self.manager_uid)
