"""The judgement of a port: which unit it belongs to. It is the core of this program.

systemd reports which invocation of the unit is current; the kernel reports which sockets listen and which processes
hold them.

1. The sockets are listed in the unit's network namespace, all processes are searched for their holders, and the sockets
   are listed again: if they or their holders changed meanwhile, all is read anew, and after five reads the owner is
   unknown.
2. Each holder gets one role (roles.py). In the unit's cgroup it is current or a leftover, by its descent from the main
   process, else by INVOCATION_ID, else by its start time; if the unit is down, it is a leftover in any case.
3. Outside of that cgroup, a descendant of the main process is current, systemd stands for a socket unit, a container or
   another service is another unit, what cannot be decided is unknown, and the rest are orphans.
4. If any holder is not the unit's, the verdict follows from the roles of all (verdict.py). A holder on an address where
   it is not in the unit's way does not count (rivals.py).
5. If all holders are the unit's, it owns the port. But if processes are hidden, each socket must have been created in
   the unit's cgroup; and if a wildcard is required, the unit must listen on it and not only on addresses.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import field, replace

from runbook.errors import LookLimitExceeded
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import NO_UNIT, Holder, Listener, PortOwnership, PortUse, Process, Role, SocketState
from runbook.host.ownership.describe import describe_hand_kill, describe_unread, describe_uses
from runbook.host.ownership.inherited import find_root_giver
from runbook.host.ownership.managed import find_inherited_protection
from runbook.host.ownership.network import find_network_pid
from runbook.host.ownership.other_unit import listen_addresses
from runbook.host.ownership.rivals import Rivalry, without
from runbook.host.ownership.roles import rule_on_process
from runbook.host.ownership.ruling import RoleRuling, UnitContext
from runbook.host.ownership.sources import AddressSource, NoAddresses
from runbook.host.ownership.verdict import PortFacts, owner_changing
from runbook.model import Port, Verdict, frozen

KERNEL_SCANS = 2  # further scans that must find no process before a port counts as the kernel's
MAX_READS = 5  # how often everything is read while the sockets change; then the verdict is `owner-unknown`


@frozen
class PortJudge(UnitContext):
    """Judges the ports of one unit, as it is at this moment."""

    own_network: bool = False  # True if the unit's processes are in another network namespace than this program
    addresses: AddressSource = field(default_factory=NoAddresses)  # where the unit would listen

    def judge_port(self, port: Port, shared_with: Collection[str] = ()) -> PortOwnership:
        """Judge which processes listen on `port`. The sockets are read before and after the holders, until equal.

        If the machine cannot be read within the limit of a look, the owner is unknown.
        """
        try:
            return self._judge_port(port, shared_with)
        except LookLimitExceeded as error:
            why = f"which processes hold port {port} cannot be determined: {error.message}"
            return PortOwnership(port, Verdict.OWNER_UNKNOWN, why, is_incomplete=True)

    def _judge_port(self, port: Port, shared_with: Collection[str]) -> PortOwnership:
        if (unreadable := self._judge_unreadable(port)) is not None:
            return unreadable
        for _ in range(MAX_READS):
            listeners = self.list_listeners(port)
            if not listeners:
                return PortOwnership(port, Verdict.NOT_LISTENING, f"no process listens on port {port}")
            facts = self._read_facts(port, listeners, shared_with)
            again = self.list_listeners(port)
            is_same = {listener.inode for listener in again} == {listener.inode for listener in listeners}
            if is_same and not self._has_changed_hands(facts.holders):
                return facts.decide()
        return owner_changing(port)

    def _has_changed_hands(self, holders: tuple[Holder, ...]) -> bool:
        """True if a process that may have been handed its sockets has none of them now: it may have passed them on.

        With its exit the cgroup in which it created them is gone, so it would read as one that was handed them.
        """
        doubtful = [holder for holder in holders if holder.role is Role.UNKNOWN and holder.sockets]
        held = ((one.process.pid, {socket.inode for socket in one.sockets}) for one in doubtful)
        return not all(self.kernel.find_held_sockets(pid, inodes) for pid, inodes in held)

    def describe_uses(self, port: Port) -> str:
        """Describe which sockets that do not listen have the port, as a clause to be added; empty if none has."""
        with contextlib.suppress(LookLimitExceeded):
            return self._describe_uses(port)
        return ""

    def _describe_uses(self, port: Port) -> str:
        uses = () if self.own_network else self.kernel.list_uses(port)
        if any(map(_is_closing, uses)) and not self.addresses.find_refused(self.unit, port):
            # Any port that was served a minute ago has such connections, and most programs can listen all the same.
            uses = tuple(use for use in uses if not _is_closing(use))
        inodes = {use.socket.inode for use in uses} - {0}
        held = self.kernel.scan_holders(inodes, ()).holders if inodes else {}
        sockets = tuple(use.socket for use in uses)
        return describe_uses(self.unit, port, uses, self._judge_holders(sockets, held), self.manager_uid)

    def judge_process(self, process: Process, sockets: tuple[Listener, ...]) -> Holder:
        """Judge which unit a process that holds these sockets belongs to, and whether it may be killed."""
        ruling = rule_on_process(self, process, sockets)
        unread = self._find_unread(process) if ruling.role in (Role.ORPHAN, Role.LEFTOVER, Role.UNKNOWN) else None
        if ruling.role in (Role.ORPHAN, Role.LEFTOVER):
            inherited = find_inherited_protection(self, process) if ruling.role is Role.LEFTOVER else ""
            protection = self.kernel.find_protection(process) or inherited or ruling.protection
            ruling = ruling._replace(protection=protection or (describe_unread(unread) if unread else ""))
        if ruling.role in (Role.ORPHAN, Role.LEFTOVER, Role.OTHER_UNIT):
            ruling = self._doubt_handed(process, sockets, ruling.role) or ruling
        return Holder(process, sockets=sockets, is_unread=unread is not None, **ruling._asdict())

    def _find_unread(self, process: Process) -> Process | None:
        """Return the process or its ancestor whose environment and command line were not read; None if all were."""
        return next((one for one in self.list_ancestry(process) if one.stalled), None)

    def _doubt_handed(self, process: Process, sockets: tuple[Listener, ...], role: Role) -> RoleRuling | None:
        """Rule on a process that another process may have handed its sockets to (SCM_RIGHTS)."""
        where = parse_cgroup_path(process.cgroup).unit or NO_UNIT
        may = f"but it runs as {process.user} in {where}, and may have been handed it"
        if giver := self.kernel.describe_giver(process, sockets):
            why = f"its socket was created by {giver}, {may}"
            return RoleRuling(Role.UNKNOWN, where, why, why)
        if giver := find_root_giver(self, process, sockets, role):
            why = f"its socket was created by {giver}, {may}"
            return RoleRuling(Role.UNKNOWN, where, why, f"{why}; {describe_hand_kill(process)}", stop_verb="")
        return None

    def find_leftovers(self) -> tuple[Holder, ...]:
        """Return the processes of earlier invocations in the unit's cgroup, with or without a socket of the port."""
        found = self.read_processes(self.list_unit_pids())
        mine = [one for one in found if self.is_in_unit(one, parse_cgroup_path(one.cgroup))]
        return tuple(holder for one in mine if (holder := self.judge_process(one, ())).role is Role.LEFTOVER)

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        """List the sockets in the unit's own network namespace."""
        if not self.own_network:
            return self.kernel.list_listeners(port)
        inside = self.kernel.list_netns_listeners(find_network_pid(self.unit, self.manager), port)
        # Its socket unit listens in the manager's namespace all the same, and passes the sockets on.
        opened = {address for one in self.list_open_sockets() for _, address in one.listen}
        passed = (one for one in self.kernel.list_listeners(port) if one.endpoint in opened) if opened else ()
        return (*inside, *passed)

    def _judge_unreadable(self, port: Port) -> PortOwnership | None:
        """Judge the port of a unit that is down, if it has its own network namespace; else None."""
        name = self.unit.name
        if self.unit.network_namespace_path and not self.unit.main_pid:
            # Another process in that namespace may hold the port there.
            why = f"{name} has its own network namespace, which cannot be entered while it is down"
            return PortOwnership(port, Verdict.OWNER_UNKNOWN, why)
        if self.own_network and not find_network_pid(self.unit, self.manager):
            # The namespace of PrivateNetwork= has gone with the last process.
            why = f"{name} has its own network namespace and is down: it holds no port there"
            return PortOwnership(port, Verdict.NOT_LISTENING, why)
        return None

    def _read_facts(self, port: Port, listeners: tuple[Listener, ...], shared_with: Collection[str]) -> PortFacts:
        likely = sorted(self.list_unit_pids(), key=lambda pid: pid != self.unit.main_pid)
        scan = self.kernel.scan_holders({listener.inode for listener in listeners}, likely)
        holders = self._judge_holders(listeners, scan.holders)
        opened = self._find_manager_sockets(listeners) if scan.hidden else ()
        held = {listener for holder in holders for listener in holder.sockets}
        rivalry = Rivalry(self, port, listeners, holders, opened, self.addresses, shared_with)
        apart = rivalry.find_apart()
        near = tuple(listener for listener in listeners if listener not in apart)
        seen = held.union(opened)
        unseen = tuple(listener for listener in near if listener not in seen)
        rivals = rivalry.spare_doubtful(without(holders, apart))
        known = {holder.process.id for holder in rivals}
        bystanders = tuple(one for one in without(holders, frozenset(near)) if one.process.id not in known)
        is_kernels = not scan.hidden and self._are_kernel_sockets(near, held)
        facts = PortFacts(port, self.unit, self.manager_uid, near, rivals, unseen, scan.hidden, opened)
        return replace(facts, apart=apart, bystanders=bystanders, is_kernels=is_kernels)

    def _are_kernel_sockets(self, listeners: tuple[Listener, ...], held: Collection[Listener]) -> bool:
        """True if the kernel itself holds the sockets: root made them, and no process has them or passes them on."""
        made = bool(listeners) and all(one.uid == 0 and one not in held for one in listeners)
        ours = any(one.cgroup_id == self.unit.control_group_id for one in listeners)
        # Processes of the unit may change their PIDs faster than they can be read.
        if not made or (ours and self.list_unit_pids()) or self.kernel.has_sockets_in_flight():
            return False
        inodes = {one.inode for one in listeners}
        return not any(self.kernel.scan_holders(inodes, ()).holders for _ in range(KERNEL_SCANS))

    def _judge_holders(self, listeners: tuple[Listener, ...], held: dict[int, set[int]]) -> tuple[Holder, ...]:
        holders = []
        order = {listener.inode: at for at, listener in enumerate(listeners)}
        # If a process exited meanwhile and its socket is still open, another process or none holds it.
        for process in self.read_processes(sorted(held)):
            if self._is_managers_fork(process, held):
                continue
            sockets = tuple(listeners[at] for at in sorted(order[inode] for inode in held[process.pid]))
            holders.append(self.judge_process(process, sockets))
        return self._mark_activated(self._mark_stored_fds(tuple(holders)))

    def _is_managers_fork(self, process: Process, held: Mapping[int, set[int]]) -> bool:
        """True if a process has a manager's sockets only because the manager has just forked it, to execute a service.

        Until the execve(2), which closes them, the child has all descriptors of the manager. Since systemd 254 it is in
        the cgroup of its service from the first moment (clone3(2)), and would count as another unit with the port.
        """
        mine = held[process.pid]
        parent = self.kernel.read_process(process.ppid) if mine <= held.get(process.ppid, set()) else None
        if parent is None or not (parent.pid == 1 or parse_cgroup_path(parent.cgroup).kind is CgroupKind.MANAGER):
            return False
        is_copy = bool(process.exe) and process.exe_path == parent.exe_path
        return is_copy or not self.kernel.find_held_sockets(process.pid, mine)

    def _mark_stored_fds(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """Mark a manager that holds only sockets of the unit as storing them for it (FileDescriptorStoreMax=)."""
        ours = {socket for holder in holders if holder.role is Role.CURRENT for socket in holder.sockets}
        why = f"it keeps the sockets for {self.unit.name}"

        def marked(holder: Holder) -> Holder:
            is_manager = holder.process.pid == 1 or holder.in_manager_cgroup
            is_store = is_manager and ours.issuperset(holder.sockets)
            return replace(holder, role=Role.SOCKET_UNIT, why=why) if is_store else holder

        return tuple(map(marked, holders))

    def _mark_activated(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """Judge a service that a socket unit triggers as itself, if it was passed exactly this unit's sockets.

        A service that listens on sockets of its own is another unit like any other: a rival.
        """
        if not self.unit.name.endswith(".socket"):
            return holders
        ours = {socket for holder in holders if holder.role is Role.SOCKET_UNIT for socket in holder.sockets}

        def judged(holder: Holder) -> Holder:
            is_triggered = holder.role is Role.OTHER_UNIT and holder.unit in self.unit.triggers
            if not is_triggered or not ours.issuperset(holder.sockets):
                return holder
            service = replace(self, unit=self.manager.unit(holder.unit))
            return service.judge_process(holder.process, holder.sockets)

        return tuple(map(judged, holders))

    def _find_manager_sockets(self, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
        """Find the sockets that a user's manager created for the unit's own socket units.

        The user may not read the descriptors of the manager, which has one capability more. But the kernel reports to
        every user in which cgroup a socket was created, and in the manager's own cgroup nothing else creates any.
        """
        if self.manager_uid is None or not (mine := self.list_open_sockets()):
            return ()
        group = self.manager.unit("init.scope").control_group_id
        wanted = sum(map(listen_addresses, mine), Counter())
        made = [one for one in listeners if group and one.cgroup_id == group and one.uid == self.manager_uid]
        return tuple(one for one in made if (one.protocol, one.endpoint) in wanted)


def _is_closing(use: PortUse) -> bool:
    return use.state is SocketState.CLOSING
