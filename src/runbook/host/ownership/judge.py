"""Whose is the port: the judgement this program exists for.

systemd says which invocation of the unit is under way; the kernel says which sockets listen and which processes
hold them. Each holder has one role (roles.py), and from all of them follows what the port is (conclusion.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Process, Role
from runbook.host.ownership.network import find_network_pid
from runbook.host.ownership.roles import RoleJudge, listen_addresses
from runbook.host.ownership.sources import KernelSource, ManagerSource
from runbook.host.ownership.verdict import PortFacts, make_changing
from runbook.model import Port, Verdict

MAX_READS = 5
"""How often a look is repeated when the sockets changed under it; a port that still changes is unknown."""


@dataclass(frozen=True)
class PortJudge:
    """Judges the ports of one unit, as it stands at this moment."""

    unit: Unit
    kernel: KernelSource
    manager: ManagerSource
    own_network: bool = False
    """Whether the unit's processes are in another network namespace than this program."""
    manager_uid: int | None = None
    """None for the system's manager, else the user whose manager runs the unit."""

    def judge_port(self, port: Port) -> PortOwnership:
        """Say who listens on `port`. The sockets are read before and after the holders, until both agree."""
        if self.unit.network_namespace_path and not self.unit.main_pid:
            # Whoever else is in that namespace may hold the port there.
            why = f"{self.unit.name} has a network namespace of its own, which cannot be looked into while it is down"
            return PortOwnership(port, Verdict.OWNER_UNKNOWN, why)
        if self.own_network and not find_network_pid(self.unit, self.manager):
            why = f"{self.unit.name} has its own network namespace and is down: it holds no port there"
            return PortOwnership(port, Verdict.NOT_LISTENING, why)
        for _ in range(MAX_READS):
            listeners = self.list_listeners(port)
            if not listeners:
                return PortOwnership(port, Verdict.NOT_LISTENING, f"nobody listens on port {port}")
            mine = self.kernel.list_cgroup_pids(self.unit.control_group) if self.unit.control_group else ()
            likely = sorted(mine, key=lambda pid: pid != self.unit.main_pid)
            scan = self.kernel.scan_holders({listener.inode for listener in listeners}, likely)
            holders = self._find_holders(listeners, scan.holders)
            again = self.list_listeners(port)
            if {listener.inode for listener in again} != {listener.inode for listener in listeners}:
                continue
            seen = {listener for holder in holders for listener in holder.sockets}
            opened = self._find_manager_sockets(listeners) if scan.hidden else ()
            unseen = tuple(listener for listener in listeners if listener not in (*seen, *opened))
            found = PortFacts(port, self.unit, self.manager_uid, listeners, holders, unseen, scan.hidden, opened)
            return found.decide()
        return make_changing(port)

    def find_leftovers(self) -> tuple[Holder, ...]:
        """Give the processes of earlier invocations in the unit's cgroup, whether they hold a port or not."""
        if not self.unit.control_group:
            return ()
        found = []
        for pid in self.kernel.list_cgroup_pids(self.unit.control_group):
            process = self.kernel.read_process(pid)
            if (
                process is not None
                and not process.dead
                and self._roles.is_in_unit(process, parse_cgroup_path(process.cgroup))
            ):
                holder = self.judge_process(process, ())
                found += [holder] if holder.role is Role.LEFTOVER else []
        return tuple(found)

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        """List the sockets in the unit's own network: a port number of the host says nothing about another."""
        if not self.own_network:
            return self.kernel.list_listeners(port)
        inside = self.kernel.list_netns_listeners(find_network_pid(self.unit, self.manager), port)
        # Its socket unit listens in the host's network all the same, and hands the sockets over.
        handed = {address for one in self._roles.list_open_sockets for _, address in one.listen}
        return (*inside, *(one for one in self.kernel.list_listeners(port) if str(one) in handed)) if handed else inside

    def _find_manager_sockets(self, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
        """Give those that a user's manager made for the unit's own socket units.

        Its user may not look into it (it has a capability more). But the kernel tells everyone in which cgroup a
        socket was made, and there, in the manager's own, is nobody else who makes any.
        """
        if self.manager_uid is None or not (mine := self._roles.list_open_sockets):
            return ()
        group = self.manager.unit("init.scope").control_group_id
        wanted = sum(map(listen_addresses, mine), Counter())
        made = [one for one in listeners if group and one.cgroup_id == group and one.uid == self.manager_uid]
        return tuple(one for one in made if (one.protocol, str(one)) in wanted)

    def _find_holders(self, listeners: tuple[Listener, ...], held: dict[int, set[int]]) -> tuple[Holder, ...]:
        holders = []
        for pid, inodes in sorted(held.items()):
            process = self.kernel.read_process(pid)
            if process is None or process.dead:
                continue  # It ended meanwhile; if its socket lives on, somebody else holds it or it is unseen.
            sockets = tuple(listener for listener in listeners if listener.inode in inodes)
            holders.append(self.judge_process(process, sockets))
        return self._mark_activated(self._mark_stored_fds(tuple(holders)))

    def _mark_stored_fds(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """See that a manager which holds what the unit holds too keeps it for the unit (FileDescriptorStoreMax=)."""
        ours = {socket.inode for holder in holders if holder.role is Role.CURRENT for socket in holder.sockets}

        def kept(holder: Holder) -> bool:
            manages = holder.process.pid == 1 or parse_cgroup_path(holder.process.cgroup).kind is CgroupKind.MANAGER
            return manages and {socket.inode for socket in holder.sockets} <= ours

        why = f"it keeps the sockets for {self.unit.name}"
        return tuple(replace(holder, role=Role.SOCKET_UNIT, why=why) if kept(holder) else holder for holder in holders)

    def _mark_activated(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
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
            return behind.judge_process(holder.process, holder.sockets)

        return tuple(map(judged, holders)) if self.unit.name.endswith(".socket") else holders

    def judge_process(self, process: Process, sockets: tuple[Listener, ...]) -> Holder:
        """Say whose a process is that holds these sockets."""
        role, unit, why, spared, ended_by, stop = self._roles.judge(process, sockets)
        if role in (Role.ORPHAN, Role.LEFTOVER):
            spared = self.kernel.find_protection(process) or spared
        return Holder(process, role, unit, why, sockets, spared, ended_by, stop)

    @property
    def _roles(self) -> RoleJudge:
        return RoleJudge(self.unit, self.kernel, self.manager, self.manager_uid)
