"""Whose a process is that holds a port: its role towards a unit, by facts that are kept as evidence.

    in the unit's cgroup?  ── yes ── of the current invocation? ── yes ── current
            │ no                              └─ no ───────────────────── leftover
            ├─ the unit's main process, or a descendant of it (PAM moves
            │  what `su` starts into a login's scope) ─────────────────── current
            ├─ systemd itself, for a .socket that triggers the unit ───── socket-unit
            │  (asked about the .socket, the service that was given
            │  its sockets is judged as that service itself would be)
            ├─ a service, another manager's service, a container ──────── other-unit
            ├─ a login's session, a scope, a slice, nothing ───────────── orphan
            └─ may not be looked at, or it cannot be told ─────────────── unknown

Nothing here guesses: what cannot be told is `unknown`, and `unknown` never passes. When it is in doubt whose a
process is, the role is one that must not be ended.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import DOWN, Unit
from runbook.host.holders import Listener, Process, Role
from runbook.host.kernel import protected
from runbook.host.kernel.ancestry import MAX_ANCESTORS
from runbook.host.ownership.describe import describe_untracked
from runbook.host.ownership.sources import KernelSource, ManagerSource

_PROTOCOLS = {"Stream": "tcp", "Datagram": "udp"}
"""The kinds of `Listen` of a socket unit (org.freedesktop.systemd1(5)) that have port numbers."""

MISTAKEN_MAIN = "which systemd took for the main process, and which started before the current invocation began"
"""By its PIDFile=, by MAINPID=, or because it found nobody else in the cgroup of a Type=forking unit."""

START_SLACK = 0.05
"""Seconds by which a process may seem older than its invocation: /proc counts in ticks of 10 ms."""


class RoleRuling(NamedTuple):
    """A role, the name of where the process lives, the fact that decided, and why it must live, if it must.

    `ended_by` is systemctl's verb that ends that unit, empty where none may; `stop` is the command of its engine.
    """

    role: Role
    unit: str
    why: str
    protection: str = ""
    stop_verb: str = "stop"
    stop_command: str = ""


@dataclass(frozen=True)
class RoleJudge:
    """Gives processes their roles towards one unit, as it stands at this moment."""

    unit: Unit
    kernel: KernelSource
    manager: ManagerSource
    manager_uid: int | None = None
    """None for the system's manager, else the user whose manager runs the unit."""

    def judge(self, process: Process, sockets: tuple[Listener, ...]) -> RoleRuling:
        """Say whose a process is that holds these sockets."""
        if not process.cgroup:
            return RoleRuling(Role.UNKNOWN, "", "its cgroup may not be read", "whose it is cannot be seen")
        place = parse_cgroup_path(process.cgroup)
        if self.is_in_unit(process, place):
            return self._judge_own_process(process)
        if (ours := self._judge_moved_own(process)) is not None:
            return ours
        if process.pid == 1 or place.kind is CgroupKind.MANAGER:
            return self._judge_manager(process, place, sockets)
        if place.container:
            name = place.unit or process.cgroup
            spared = f"it belongs to the container {place.machine or name}, which the container's engine can stop"
            return RoleRuling(Role.OTHER_UNIT, name, "it runs in a container", spared)
        contained, kept = self.kernel.describe_container(process), self.kernel.describe_container_keeper(process)
        if place.kind is not CgroupKind.SERVICE and (contained or kept):
            why, stop = contained or kept, protected.find_stop_command(self._find_line(process))
            return RoleRuling(Role.OTHER_UNIT, place.unit or "a container", why, why, "stop" if contained else "", stop)
        if contained:
            return RoleRuling(Role.OTHER_UNIT, place.unit, contained, contained)
        if place.kind is CgroupKind.SERVICE:
            return self._judge_other_service(process, place)
        if (other := self._judge_moved_other(process)) is not None:
            return other
        where = place.unit or "no unit"
        if place.kind is CgroupKind.SESSION:
            return RoleRuling(Role.ORPHAN, where, f"it was started in a login ({where}), by no service")
        return RoleRuling(Role.ORPHAN, where, f"it is in {where}, which is no service")

    @property
    def list_open_sockets(self) -> list[Unit]:
        """The unit's own socket units, as far as they are up: for one that is down nobody listens."""
        names = (name for name in (self.unit.name, *self.unit.triggered_by) if name.endswith(".socket"))
        return [one for one in map(self.manager.unit, names) if one.is_running]

    def is_in_unit(self, process: Process, place: CgroupUnit) -> bool:
        """Whether it is in the unit's own cgroup, or in one below it."""
        named = place.unit in {self.unit.name, *self.unit.names}
        if not self.unit.is_service or place.kind is not CgroupKind.SERVICE or not named:
            # A slice holds other units, a manager's service those of a user: they are not its processes.
            return False
        if group := self.unit.control_group:
            return process.cgroup == group or process.cgroup.startswith(group + "/")
        # The unit is down and systemd has forgotten its cgroup: only the name is left to go by.
        return place.user_uid == self.manager_uid

    def _judge_own_process(self, process: Process) -> RoleRuling:
        name = self.unit.name
        if self.unit.is_untracked:
            return RoleRuling(
                Role.LEFTOVER, name, describe_untracked(self.unit), describe_untracked(self.unit), stop_verb=""
            )
        if not self.unit.is_running:
            return RoleRuling(Role.LEFTOVER, name, f"it outlived {name}, which is {self.unit.active_state}")
        line, began = self._find_line_in_unit(process), self._began
        if (ruling := self._judge_by_ancestry(process, line)) is not None:
            return ruling
        # The oldest of the line counts: a child of a leftover is one, however late it was born.
        oldest = min(ancestor.started for ancestor in line)
        for ancestor in line:
            if ancestor.invocation_id:
                of = "its" if ancestor is process else f"its ancestor PID {ancestor.pid}'s"
                if ancestor.invocation_id == self.unit.invocation_id:
                    return RoleRuling(Role.CURRENT, name, f"{of} INVOCATION_ID is the current one")
                why = f"{of} INVOCATION_ID is {ancestor.invocation_id}, an earlier one"
                if oldest >= began and process.cgroup != self.unit.control_group:
                    # Delegate=: what has a sub-group may have a manager in it, which gives out INVOCATION_IDs too.
                    return self._rule_unknown(f"{why} or one of a manager inside the unit")
                return RoleRuling(Role.LEFTOVER, name, why)
        if oldest < began:
            return RoleRuling(Role.LEFTOVER, name, "it started before the current invocation began")
        # CLOCK_BOOTTIME, by which processes start, runs on while the machine sleeps; systemd's monotonic stamps do not.
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        if oldest < began + slept:
            return self._rule_unknown(
                "the machine slept, so whether it started before the current invocation is not known"
            )
        if self._has_older_process(began + slept):
            return self._rule_unknown("it started after the current invocation began, beside processes that are older")
        return RoleRuling(Role.CURRENT, name, "it started after the current invocation began")

    def _judge_by_ancestry(self, process: Process, line: list[Process]) -> RoleRuling | None:
        """Judge what is the main process, or comes from it; None for what does not.

        This comes before INVOCATION_IDs: a manager inside the unit (Delegate=) gives its own services others. No
        leftover descends from the current main process; but systemd may take a leftover for that.
        """
        name = self.unit.name
        for ancestor in line:
            if ancestor.pid not in (self.unit.main_pid, self.unit.control_pid):
                continue
            is_it = f"it {'is' if ancestor is process else 'descends from'}"
            # A bare environment tells nothing; but what an earlier one left in this cgroup was born before its end.
            ended = self.unit.previous_end_monotonic / 1e6 - START_SLACK
            if self._is_mistaken_main(ancestor, self._began if ancestor.invocation_id else ended):
                return RoleRuling(Role.LEFTOVER, name, f"{is_it} PID {ancestor.pid}, {MISTAKEN_MAIN}")
            if not ancestor.invocation_id and ancestor.started < self._began and self._has_older_process(ended):
                return self._rule_unknown(
                    f"{is_it} PID {ancestor.pid}, which started before the current invocation began"
                )
            return RoleRuling(Role.CURRENT, name, f"{is_it} the main process, PID {ancestor.pid}")
        return None

    @property
    def _began(self) -> float:
        """What started before this (s) is older than the current invocation, however long the machine slept."""
        return self.unit.began_monotonic / 1e6 - START_SLACK

    def _is_mistaken_main(self, main: Process, began: float) -> bool:
        """Whether what systemd takes for the main process is from before the current invocation, thus before `began`.

        systemd stamps the beginning after it has made the process: on a busy machine long after. Only what the process
        itself was given is beyond that.
        """
        given = main.invocation_id != "" and main.invocation_id == self.unit.invocation_id
        return main.started < began and not given

    def _rule_unknown(self, why: str) -> RoleRuling:
        why += f"; stop {self.unit.name} to tell: what outlives that is of an earlier one"
        return RoleRuling(Role.UNKNOWN, self.unit.name, why, why)

    def _has_older_process(self, began: float) -> bool:
        """Whether processes from before the current invocation are in the unit: one born later may be theirs."""
        older = (self.kernel.read_process(pid) for pid in self.kernel.list_cgroup_pids(self.unit.control_group))
        return any(one is not None and one.started < began for one in older)

    def _judge_moved_own(self, process: Process) -> RoleRuling | None:
        """Judge a process outside of the unit's cgroup that may be the unit's all the same.

        pam_systemd moves what `su` or PAMName= starts into a login's scope (systemd issue 6356).
        """
        if not self.unit.is_running:
            return None
        name, mains = self.unit.name, {self.unit.main_pid, self.unit.control_pid} - {0}
        if process.pid == 1:
            return None
        for ancestor in self._find_line(process):
            if ancestor.pid in mains:
                how = "is" if ancestor is process else "descends from"
                if self._is_mistaken_main(ancestor, self._began):
                    # PIDFile= and MAINPID= of root may name anybody. One that lives in a service is that one's.
                    elsewhere = parse_cgroup_path(process.cgroup)
                    if elsewhere.container or elsewhere.kind in (CgroupKind.SERVICE, CgroupKind.MANAGER):
                        return None
                    return self._rule_unknown(
                        f"it {how} PID {ancestor.pid}, {MISTAKEN_MAIN}, in {elsewhere.unit or 'no unit'}"
                    )
                return RoleRuling(
                    Role.CURRENT, name, f"it {how} the main process, PID {ancestor.pid}, though in another scope"
                )
        if process.invocation_id and process.invocation_id == self.unit.invocation_id:
            why = f"it has the current INVOCATION_ID of {name}, but left its cgroup"
            return RoleRuling(Role.UNKNOWN, name, why, f"{why}; whether it serves for it cannot be told")
        return None

    def _judge_moved_other(self, process: Process) -> RoleRuling | None:
        """Judge a process in a login's scope, or in none, that is another live service's main process or its child."""
        for ancestor in self._find_line(process):
            unit = self.manager.find_unit_of_invocation(ancestor.invocation_id) if ancestor.invocation_id else None
            if unit is not None and unit.is_running and ancestor.pid in (unit.main_pid, unit.control_pid):
                if parse_cgroup_path(ancestor.cgroup).unit == unit.name:
                    continue  # sshd and cron start logins, and what is started in a login is not theirs.
                why = f"it comes from the main process of {unit.name}, PID {ancestor.pid}"
                return RoleRuling(Role.OTHER_UNIT, unit.name, why, f"{unit.name} is a live service")
        # It may have lost its parent, as what is started with `&` in a script under `su` does: in doubt it is not ours.
        unit = self.manager.find_unit_of_invocation(process.invocation_id) if process.invocation_id else None
        if (
            unit is not None
            and unit.is_service
            and unit.is_running
            and parse_cgroup_path(process.cgroup).unit != unit.name
        ):
            why = f"it has the INVOCATION_ID of {unit.name}, which is live, though it left its cgroup"
            return RoleRuling(Role.OTHER_UNIT, unit.name, why, why)
        return None

    def _find_line(self, process: Process) -> list[Process]:
        """Give the process and all that it descends from, nearest first, without PID 1."""
        line = [process]
        while (
            len(line) < MAX_ANCESTORS
            and line[-1].ppid > 1
            and (up := self.kernel.read_process(line[-1].ppid)) is not None
        ):
            line.append(up)
        return line

    def _find_line_in_unit(self, process: Process) -> list[Process]:
        """Give the process and those of its ancestors that are in the unit as well, nearest first."""
        line = [process]
        while len(line) < MAX_ANCESTORS and (parent := self.kernel.read_process(line[-1].ppid)) is not None:
            if parent.pid == self.unit.main_pid:
                line.append(parent)
                break
            if not self.is_in_unit(parent, parse_cgroup_path(parent.cgroup)):
                break
            line.append(parent)
        return line

    def _judge_manager(self, process: Process, place: CgroupUnit, sockets: tuple[Listener, ...]) -> RoleRuling:
        """Judge what a manager holds: the sockets of the unit's own .socket, by their addresses, or another's.

        systemd makes the sockets in its own cgroup (seen on 252 and 257), so that tells nothing.
        """
        who = "systemd" if process.pid == 1 else f"the manager of user {process.user}"
        mine = process.pid == 1 if self.manager_uid is None else place.user_uid == self.manager_uid
        held = Counter((socket.protocol, str(socket)) for socket in sockets)
        for one in self.list_open_sockets if mine else ():
            if held <= listen_addresses(one):
                return RoleRuling(Role.SOCKET_UNIT, one.name, f"{who} listens for {one.name}")
        if process.pid != 1 and process.name != "systemd":
            beside = f"it is in the cgroup of {who} itself, and of no service"
            return RoleRuling(Role.OTHER_UNIT, place.unit, beside, beside)
        others = (
            [one for one in map(self.manager.unit, self.manager.list_open_sockets()) if held & listen_addresses(one)]
            if mine
            else []
        )
        if others:
            why = f"{who} listens for {' and '.join(one.name for one in others)}"
            return RoleRuling(Role.OTHER_UNIT, others[0].name, why, why)
        if mine and self.unit.stored_fds:
            # FileDescriptorStoreMax=: between two invocations nobody else has them.
            return RoleRuling(Role.SOCKET_UNIT, self.unit.name, f"{who} keeps the sockets for {self.unit.name}")
        user = "" if place.user_uid is None else f" --user -M {process.user}@"
        why = f"{who} listens for another socket unit (systemctl{user} list-sockets)"
        return RoleRuling(Role.OTHER_UNIT, place.unit or "init.scope", why, why)

    def _judge_other_service(self, process: Process, place: CgroupUnit) -> RoleRuling:
        name = place.unit
        if kept := self.kernel.describe_container_keeper(process):
            return RoleRuling(Role.OTHER_UNIT, name, kept, kept, stop_verb="")
        if place.user_uid != self.manager_uid:
            owner = "the system's manager" if place.user_uid is None else f"the manager of user {place.user_uid}"
            why = f"{name} is a service of {owner}"
            return RoleRuling(Role.OTHER_UNIT, name, f"it is a service of {owner}", why)
        state = self.manager.read_loaded_state(name)
        if state in (None, *DOWN):
            if (other := self.manager.unit(name)).is_untracked:
                return RoleRuling(
                    Role.OTHER_UNIT, name, describe_untracked(other), describe_untracked(other), stop_verb=""
                )
            # Nobody's by the letter; but whose it was is known, and that one's keeper is to be asked.
            gone = f"it was left over by {name}, which is {state or 'not loaded'}"
            # A stop of what is down does nothing; kill finds its cgroup, even where its file is gone (252 and 257).
            return RoleRuling(Role.OTHER_UNIT, name, gone, gone, stop_verb="kill")
        live, is_so = f"{name} is a live service", f"{name} is {state}"
        if not (other := self.manager.unit(name)).stop_kills(process.pid, process.ppid):
            # As of cron or sshd: what they started stays, and who depends on them is hit.
            live += f", whose stop would leave this process (KillMode={other.kill_mode})"
            live += f"; if it may go, end it by hand: kill {process.pid}"
            return RoleRuling(Role.OTHER_UNIT, name, is_so, live, stop_verb="")
        return RoleRuling(Role.OTHER_UNIT, name, is_so, live)


def listen_addresses(unit: Unit) -> Counter[tuple[str, str]]:
    """Give what a socket unit listens on: protocols and addresses."""
    return Counter((_PROTOCOLS.get(kind, kind), address) for kind, address in unit.listen)
