"""Whose is the port: the judgement this program exists for.

systemd says which invocation of the unit is under way; the kernel says which sockets listen and which processes
hold them. Each holder is put into one role, by facts that are kept as evidence:

    in the unit's cgroup?  ── yes ── of the current invocation? ── yes ── current
            │ no                              └─ no ───────────────────── leftover
            ├─ the unit's main process, or a descendant of it (PAM moves
            │  what `su` starts into a login's scope) ─────────────────── current
            ├─ systemd itself, for a .socket that triggers the unit ───── socket-unit
            ├─ a service, another manager's service, a container ──────── other-unit
            ├─ a login's session, a scope, a slice, nothing ───────────── orphan
            └─ may not be looked at ───────────────────────────────────── unknown

Nothing here guesses: what cannot be told is `unknown`, and `unknown` never passes. When it is in doubt whose a
process is, the role is one that must not be ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from runbook.host.cgroups import Kind, Place, unit_of
from runbook.host.facts import ActiveState, Holder, Listener, PortOwnership, Process, Role, Unit
from runbook.model import Port, Verdict

LOOKS = 5
"""How often a look is repeated when the sockets changed under it; a port that still changes is unknown."""

_PROTOCOLS = {"Stream": "tcp", "Datagram": "udp"}
"""The kinds of `Listen` of a socket unit (org.freedesktop.systemd1(5)) that have port numbers."""

MOST_ANCESTORS = 64
"""A line of parents longer than this is not followed further."""

START_SLACK = 0.05
"""Seconds by which a process may seem older than its invocation: /proc counts in ticks of 10 ms."""


class Scan(Protocol):
    """Which processes hold which sockets, and how many processes could not be looked into."""

    @property
    def holders(self) -> dict[int, set[int]]: ...

    @property
    def hidden(self) -> int: ...


class Kernel(Protocol):
    """The kernel's side of the judgement."""

    def listeners(self, port: Port) -> tuple[Listener, ...]:
        """Every socket that listens on the port."""

    def listeners_of(self, pid: int, port: Port) -> tuple[Listener, ...]:
        """The same in the network namespace of a process."""

    def in_cgroup(self, path: str) -> tuple[int, ...]:
        """Every process of a cgroup and all below it."""

    def holders(self, inodes: Collection[int]) -> Scan:
        """Every process that holds one of these sockets."""

    def read(self, pid: int) -> Process | None:
        """One look at a process; None when it is gone."""

    def contained(self, process: Process) -> str:
        """Say that a process is in other namespaces than this program, as in a container; else nothing."""

    def spared_by(self, process: Process) -> str:
        """Why this process may never be ended, or nothing."""


LiveState = Callable[[str], ActiveState | None]
"""Tells the state of a unit of the same manager; None where the manager does not know it."""

LookUp = Callable[[str], Unit]
"""Looks at another unit of the same manager."""

ByInvocation = Callable[[str], Unit | None]
"""Looks at the unit of an invocation; None where that is over."""

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class Judge:
    """Judges the ports of one unit, as it stands at this moment."""

    unit: Unit
    kernel: Kernel
    live: LiveState
    look_up: LookUp
    by_invocation: ByInvocation
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
        if self.own_network and not self.unit.main_pid:
            why = f"{self.unit.name} has a network of its own, and nobody is in it"
            return PortOwnership(port, Verdict.NOT_LISTENING, why)
        for _ in range(LOOKS):
            listeners = self._listeners(port)
            if not listeners:
                return PortOwnership(port, Verdict.NOT_LISTENING, f"nobody listens on port {port}")
            scan = self.kernel.holders({listener.inode for listener in listeners})
            holders = self._holders(listeners, scan.holders)
            again = self._listeners(port)
            if {listener.inode for listener in again} != {listener.inode for listener in listeners}:
                continue
            seen = {listener for holder in holders for listener in holder.sockets}
            unseen = tuple(listener for listener in listeners if listener not in seen)
            return self._verdict(port, listeners, holders, unseen, scan.hidden)
        return changing(port)

    def leftovers(self) -> tuple[Holder, ...]:
        """Give the processes of earlier invocations in the unit's cgroup, whether they hold a port or not."""
        if not self.unit.control_group:
            return ()
        found = []
        for pid in self.kernel.in_cgroup(self.unit.control_group):
            process = self.kernel.read(pid)
            if process is not None and self._in_unit(process, unit_of(process.cgroup)):
                holder = self.holder(process, ())
                found += [holder] if holder.role is Role.LEFTOVER else []
        return tuple(found)

    def _listeners(self, port: Port) -> tuple[Listener, ...]:
        """List the sockets in the unit's own network: a port number of the host says nothing about another."""
        if not self.own_network:
            return self.kernel.listeners(port)
        inside = self.kernel.listeners_of(self.unit.main_pid, port)
        # Its socket unit listens in the host's network all the same, and hands the sockets over.
        handed = {address for name in self._socket_units for _, address in self.look_up(name).listen}
        return (*inside, *(one for one in self.kernel.listeners(port) if str(one) in handed)) if handed else inside

    @property
    def _socket_units(self) -> list[str]:
        return [name for name in (self.unit.name, *self.unit.triggered_by) if name.endswith(".socket")]

    def _holders(self, listeners: tuple[Listener, ...], held: dict[int, set[int]]) -> tuple[Holder, ...]:
        holders = []
        for pid, inodes in sorted(held.items()):
            process = self.kernel.read(pid)
            if process is None:
                continue  # It ended meanwhile; if its socket lives on, somebody else holds it or it is unseen.
            sockets = tuple(listener for listener in listeners if listener.inode in inodes)
            holders.append(self.holder(process, sockets))
        return self._kept_for_us(tuple(holders))

    def _kept_for_us(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """See that a manager which holds what the unit holds too keeps it for the unit (FileDescriptorStoreMax=)."""
        ours = {socket.inode for holder in holders if holder.role is Role.CURRENT for socket in holder.sockets}

        def kept(holder: Holder) -> bool:
            manages = holder.process.pid == 1 or unit_of(holder.process.cgroup).kind is Kind.MANAGER
            return manages and {socket.inode for socket in holder.sockets} <= ours

        why = f"it keeps the sockets for {self.unit.name}"
        return tuple(replace(holder, role=Role.SOCKET_UNIT, why=why) if kept(holder) else holder for holder in holders)

    def holder(self, process: Process, sockets: tuple[Listener, ...]) -> Holder:
        """Say whose a process is that holds these sockets."""
        role, unit, why, spared = self._role(process, sockets)
        if role in (Role.ORPHAN, Role.LEFTOVER):
            spared = self.kernel.spared_by(process)
        return Holder(process, role, unit, why, sockets, spared)

    def _role(self, process: Process, sockets: tuple[Listener, ...]) -> tuple[Role, str, str, str]:
        """Give the role, the name of where it lives, the fact that decided, and why it must live, if it must."""
        if not process.cgroup:
            return Role.UNKNOWN, "", "its cgroup may not be read", "whose it is cannot be seen"
        place = unit_of(process.cgroup)
        if self._in_unit(process, place):
            return self._of_this_unit(process)
        if (ours := self._moved(process)) is not None:
            return ours
        if process.pid == 1 or place.kind is Kind.MANAGER:
            return self._of_a_manager(process, place, sockets)
        if place.container:
            name = place.unit or process.cgroup
            return Role.OTHER_UNIT, name, "it runs in a container", f"it belongs to the container {name}"
        if contained := self.kernel.contained(process):
            return Role.OTHER_UNIT, place.unit or "a container", contained, contained
        if place.kind is Kind.SERVICE:
            return self._of_another_service(place)
        if (other := self._moved_from_another(process)) is not None:
            return other
        where = place.unit or "no unit"
        if place.kind is Kind.SESSION:
            return Role.ORPHAN, where, f"it was started in a login ({where}), by no service", ""
        return Role.ORPHAN, where, f"it is in {where}, which is no service", ""

    def _in_unit(self, process: Process, place: Place) -> bool:
        named = place.unit in {self.unit.name, *self.unit.names}
        if not self.unit.is_service or place.kind is not Kind.SERVICE or not named:
            # A slice holds other units, a manager's service those of a user: they are not its processes.
            return False
        if group := self.unit.control_group:
            return process.cgroup == group or process.cgroup.startswith(group + "/")
        # The unit is down and systemd has forgotten its cgroup: only the name is left to go by.
        return place.user_uid == self.manager_uid

    def _of_this_unit(self, process: Process) -> tuple[Role, str, str, str]:
        name = self.unit.name
        if not self.unit.runs:
            return Role.LEFTOVER, name, f"it outlived {name}, which is {self.unit.active_state}", ""
        line = self._line(process)
        # Descent first: a manager inside the unit (Delegate=) gives its own services INVOCATION_IDs of their own.
        # No leftover descends from the current main process.
        for ancestor in line:
            if ancestor.pid in (self.unit.main_pid, self.unit.control_pid):
                how = "is" if ancestor is process else "descends from"
                return Role.CURRENT, name, f"it {how} the main process, PID {ancestor.pid}", ""
        for ancestor in line:
            if ancestor.invocation_id:
                of = "its" if ancestor is process else f"its ancestor PID {ancestor.pid}'s"
                if ancestor.invocation_id == self.unit.invocation_id:
                    return Role.CURRENT, name, f"{of} INVOCATION_ID is the current one", ""
                return (
                    Role.LEFTOVER,
                    name,
                    f"{of} INVOCATION_ID is {ancestor.invocation_id}, an earlier one",
                    "",
                )
        # CLOCK_BOOTTIME runs on while the machine sleeps, systemd's monotonic stamps do not.
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        began = self.unit.inactive_exit_monotonic / 1e6 + slept
        # The oldest of the line counts: a child of a leftover is one, however late it was born.
        if min(ancestor.started for ancestor in line) >= began - START_SLACK:
            return Role.CURRENT, name, "it started after the current invocation began", ""
        return Role.LEFTOVER, name, "it started before the current invocation began", ""

    def _moved(self, process: Process) -> tuple[Role, str, str, str] | None:
        """Judge a process outside of the unit's cgroup that may be the unit's all the same.

        pam_systemd moves what `su` or PAMName= starts into a login's scope (systemd issue 6356).
        """
        if not self.unit.runs:
            return None
        name, mains = self.unit.name, {self.unit.main_pid, self.unit.control_pid} - {0}
        if process.pid == 1:
            return None
        for ancestor in self._ancestors(process):
            if ancestor.pid in mains:
                how = "is" if ancestor is process else "descends from"
                return Role.CURRENT, name, f"it {how} the main process, PID {ancestor.pid}, though in another scope", ""
        if process.invocation_id and process.invocation_id == self.unit.invocation_id:
            why = f"it has the current INVOCATION_ID of {name}, but left its cgroup"
            return Role.UNKNOWN, name, why, f"{why}; whether it serves for it cannot be told"
        return None

    def _moved_from_another(self, process: Process) -> tuple[Role, str, str, str] | None:
        """Judge a process in a login's scope, or in none, that is another live service's main process or its child."""
        for ancestor in self._ancestors(process):
            unit = self.by_invocation(ancestor.invocation_id) if ancestor.invocation_id else None
            if unit is not None and unit.runs and ancestor.pid in (unit.main_pid, unit.control_pid):
                if unit_of(ancestor.cgroup).unit == unit.name:
                    continue  # sshd and cron start logins, and what is started in a login is not theirs.
                why = f"it comes from the main process of {unit.name}, PID {ancestor.pid}"
                return Role.OTHER_UNIT, unit.name, why, f"{unit.name} is a live service"
        return None

    def _ancestors(self, process: Process) -> list[Process]:
        """Give the process and all that it descends from, nearest first, without PID 1."""
        line = [process]
        while len(line) < MOST_ANCESTORS and line[-1].ppid > 1 and (up := self.kernel.read(line[-1].ppid)) is not None:
            line.append(up)
        return line

    def _line(self, process: Process) -> list[Process]:
        """Give the process and those of its ancestors that are in the unit as well, nearest first."""
        line = [process]
        while len(line) < MOST_ANCESTORS and (parent := self.kernel.read(line[-1].ppid)) is not None:
            if parent.pid == self.unit.main_pid:
                line.append(parent)
                break
            if not self._in_unit(parent, unit_of(parent.cgroup)):
                break
            line.append(parent)
        return line

    def _of_a_manager(
        self, process: Process, place: Place, sockets: tuple[Listener, ...]
    ) -> tuple[Role, str, str, str]:
        """Judge what a manager holds: the sockets of the unit's own .socket, by their addresses, or another's.

        systemd makes the sockets in its own cgroup (seen on 252 and 257), so that tells nothing.
        """
        who = "systemd" if process.pid == 1 else f"the manager of user {process.user}"
        mine = process.pid == 1 if self.manager_uid is None else place.user_uid == self.manager_uid
        held = Counter((socket.protocol, str(socket)) for socket in sockets)
        for name in self._socket_units:
            if mine:
                listens = Counter((_PROTOCOLS.get(kind, kind), address) for kind, address in self.look_up(name).listen)
                if held <= listens:
                    return Role.SOCKET_UNIT, name, f"{who} listens for {name}", ""
        return Role.OTHER_UNIT, place.unit or "init.scope", f"{who} listens for another socket unit", f"it is {who}"

    def _of_another_service(self, place: Place) -> tuple[Role, str, str, str]:
        if place.user_uid != self.manager_uid:
            owner = "the system's manager" if place.user_uid is None else f"the manager of user {place.user_uid}"
            return (
                Role.OTHER_UNIT,
                place.unit,
                f"it is a service of {owner}",
                f"{place.unit} is a service of {owner}",
            )
        state = self.live(place.unit)
        if state in (None, ActiveState.INACTIVE, ActiveState.FAILED):
            # Nobody's by the letter; but whose it was is known, and that one's keeper is to be asked.
            gone = f"it was left over by {place.unit}, which is {state or 'not loaded'}"
            return Role.OTHER_UNIT, place.unit, gone, gone
        return Role.OTHER_UNIT, place.unit, f"{place.unit} is {state}", f"{place.unit} is a live service"

    def _verdict(
        self,
        port: Port,
        listeners: tuple[Listener, ...],
        holders: tuple[Holder, ...],
        unseen: tuple[Listener, ...],
        hidden: int,
    ) -> PortOwnership:
        roles = {holder.role for holder in holders}
        unit = self.unit.name
        ours = [h for h in holders if h.role is Role.CURRENT]
        others = [h for h in holders if h.role not in (Role.CURRENT, Role.SOCKET_UNIT)]

        def judged(verdict: Verdict, reason: str) -> PortOwnership:
            return PortOwnership(port, verdict, reason, listeners, holders, unseen)

        if ours and others and roles & {Role.OTHER_UNIT, Role.ORPHAN, Role.LEFTOVER}:
            return judged(Verdict.PORT_SHARED, f"port {port} is held by {unit} and by {_people(others)}")
        if Role.OTHER_UNIT in roles:
            them = [h for h in others if h.role is Role.OTHER_UNIT]
            return judged(Verdict.OTHER_UNIT_HOLDS_PORT, f"port {port} is held by {_people(them)}")
        if Role.UNKNOWN in roles or unseen:
            return judged(Verdict.OWNER_UNKNOWN, self._why_unknown(port, unseen))
        if Role.ORPHAN in roles:
            return judged(Verdict.ORPHAN_HOLDS_PORT, f"port {port} is held by {_people(others)}: not this unit")
        if Role.LEFTOVER in roles:
            return judged(
                Verdict.LEFTOVER_HOLDS_PORT,
                f"port {port} is held by {_people(others)}, left over from an earlier run",
            )
        if hidden and not self._made_by_unit(listeners, ours):
            return judged(Verdict.OWNER_UNKNOWN, self._why_unknown(port, listeners))
        if port.address in WILDCARDS and not any(listener.address in WILDCARDS for listener in listeners):
            where = ", ".join(str(listener) for listener in listeners)
            return judged(Verdict.NOT_LISTENING, f"{unit} listens on {where} only, not on {port}")
        if ours:
            alone = f"PID {ours[0].process.pid}'s" if len(ours) == 1 else f"{unit}'s ({len(ours)} processes)"
            return judged(Verdict.OWNED, f"port {port} is {alone} alone")
        return judged(Verdict.OWNED, f"systemd listens on port {port} for {unit}")

    def _made_by_unit(self, listeners: tuple[Listener, ...], ours: list[Holder]) -> bool:
        # Not everyone may look into every process. The kernel tells everyone, though, in which cgroup a socket
        # was made (INET_DIAG_CGROUP_ID, Linux 5.8): a second witness where the first is half blind.
        group = self.unit.control_group_id
        return bool(ours) and bool(group) and all(listener.cgroup_id == group for listener in listeners)

    def _why_unknown(self, port: Port, unseen: tuple[Listener, ...]) -> str:
        uids = sorted({listener.uid for listener in unseen})
        of = f" (made by uid {', '.join(map(str, uids))})" if uids else ""
        return f"who holds port {port}{of} cannot be seen; run it as root to see every process"


def changing(port: Port) -> PortOwnership:
    """Say that nothing can be said, because it is another thing at every look."""
    return PortOwnership(port, Verdict.OWNER_UNKNOWN, f"who holds port {port} changes faster than it can be looked at")


def _person(holder: Holder) -> str:
    service = holder.unit.endswith((".service", ".socket"))
    return f"{holder.process}, in {holder.unit}" + ("" if service else f" of user {holder.process.user}")


def _people(holders: Collection[Holder]) -> str:
    """Name holders for a sentence: "PID 74 (openclaw), in session-9.scope of user agentops"."""
    named = [_person(holder) for holder in list(holders)[:3]]
    more = len(holders) - len(named)
    return "; ".join(named) + (f" and {more} more" if more else "")
