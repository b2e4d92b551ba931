"""Looks who has just asked systemd for a job: systemctl waits for the end of what it asked for, and can be found.

As root it talks to systemd over a socket of its own, so that no bus knows of it; and systemd keeps no word of who asked
(252, 257). So the processes are looked at, in the moment in which the job is announced. Of 50
restarts of a service that is back within milliseconds 49 were found, of 50 calls of busctl, which does not wait, 8.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.holders import Process
from runbook.host.kernel import processes, protected
from runbook.host.kernel.ancestry import find_ancestors
from runbook.host.requesters import MAX_NAMED, JobRequest, Requester, name_program, requests_job
from runbook.model import ProcessId
from runbook.util.wording import shorten

PROGRAMS = ("systemctl", "busctl")
"""What asks for jobs, and tells on its command line for which."""

MAX_SCAN = 0.25
"""Seconds that a look may take: fifteen thousand processes. Then nobody is named: it may not have seen all."""

SCAN_SHARE = 0.1
"""So much of the time may go to looks, with `LONGEST` beforehand; whoever asks meanwhile is not looked for."""

MAX_REQUESTER_AGE = 10.0
"""Seconds within which root's systemctl asks, once it was started; one that is older waits for something else."""

MAX_JOBS_PER_UNIT = 16
"""So many jobs of a unit are remembered."""


class ProcSource(Protocol):
    """What is needed of /proc."""

    def list_pids(self) -> Iterable[int]:
        """List the processes."""

    def read_name(self, pid: int) -> str:
        """Give the name of one."""

    def read_owned(self, pid: int, uid: int, may: Callable[[Process], bool]) -> Process | None:
        """Look at one, if it is of this user, and `may` says so before its command line is read."""

    def read_brief(self, pid: int) -> Process | None:
        """Look at one, briefly."""

    def read_login_user(self, pid: int) -> str:
        """Name the user from whose login one came."""

    def uptime(self) -> float:
        """Give the time by the clock of `Process.started`."""


@dataclass(frozen=True)
class UnitNames:
    """The names under which a unit may be asked for, and those of the units that take it along."""

    names: frozenset[str]
    propagating: frozenset[str] = frozenset()


class RequesterScan:
    """The jobs of units that this program did not ask for, and who did."""

    def __init__(self, proc: ProcSource, *, of_user: bool) -> None:
        self._of_user = of_user
        self._proc = proc
        self._me = os.getpid()
        self._uid = os.geteuid() if of_user else 0
        self._credit = MAX_SCAN
        self._looked = 0.0
        self._missed: dict[str, float] = {}
        self._asked: dict[str, list[JobRequest]] = {}
        self._found: dict[str, set[ProcessId]] = {}
        self._own_units: set[str] = set()

    def requests(self, unit: str) -> tuple[JobRequest, ...]:
        """Give the jobs of a unit, oldest first."""
        return tuple(self._asked.get(unit, ()))

    def forget(self, unit: str) -> None:
        """Forget the jobs of a unit: from here on it is what this program made of it."""
        self._asked.pop(unit, None)

    def add_own_unit(self, name: str) -> None:
        """Know a unit in which a command of this run is at work."""
        self._own_units.add(name)

    def has_scanned(self, unit: str, job: int) -> bool:
        """Whether somebody was looked for already who asked for a job."""
        return any(one.job == job for one in self._asked.get(unit, ()))

    def scan(self, unit: str, job: int, spelled: UnitNames, *, began: bool) -> None:
        """Look who asked for a job; `began`: it was announced in this moment, and not come upon."""
        now = self._proc.uptime()
        self._credit = min(MAX_SCAN, self._credit + (now - self._looked) * SCAN_SHARE)
        found = self._find_requesters(unit, spelled, began=began) if self._credit > 0 else None
        if found is None:
            # Whoever is there by now may have asked for this one, and is not to be taken for who asked for the next.
            self._missed[unit] = self._proc.uptime()
        self._asked.setdefault(unit, []).append(JobRequest(job, tuple(found or ())))
        del self._asked[unit][:-MAX_JOBS_PER_UNIT]
        self._looked = self._proc.uptime()
        self._credit -= self._looked - now

    def _find_requesters(self, unit: str, spelled: UnitNames, *, began: bool) -> list[Requester] | None:
        """Look for whoever asked; None where there was no time to look at all."""
        candidates = self._find_candidates(spelled, began=began, after=self._missed.get(unit, 0.0))
        if candidates is None:
            return None
        earlier = self._found.setdefault(unit, set())
        found = [one for one in candidates if one.id not in earlier]
        # It may have been seen between its fork and its exec.
        found = [one for one in found if all(one.ppid != other.pid for other in found)]
        earlier.update(one.id for one in found)
        # Whether one that is this run's own stands beside a stranger's does not matter: either may have been first.
        return list(map(self._make_requester, found)) if len(found) <= MAX_NAMED else []

    def _find_candidates(self, spelled: UnitNames, *, began: bool, after: float) -> list[Process] | None:
        """Look at all processes; None where that takes too long.

        Who is not root asks polkit first, and a systemctl that waits for a password looks as if it waited for a job.
        And anybody may call a program systemctl, and give it a command line that takes long to judge: nothing of it is
        read before it is known whose it is.
        """
        now = self._proc.uptime()
        since = max(after, now - MAX_REQUESTER_AGE) if began else after
        me = self._proc.read_brief(self._me)
        namespaces = (0, me.pid_namespace) if me else ()

        def may(process: Process) -> bool:
            return process.started >= since and _can_request(process, namespaces)

        found = []
        for pid in sorted(self._proc.list_pids(), reverse=True):
            if self._proc.uptime() - now > MAX_SCAN:
                return None
            if (
                self._proc.read_name(pid) not in PROGRAMS
                or (process := self._proc.read_owned(pid, self._uid, may)) is None
            ):
                continue
            if requests_job(process.command, spelled.names, spelled.propagating, of_user=self._of_user):
                found.append(process)
        return found

    def _make_requester(self, process: Process) -> Requester:
        line = find_ancestors(self._proc.read_brief, process)
        place = parse_cgroup_path(process.cgroup)
        named = ((up, name_program(up.name, up.command)) for up in line)
        starter = next((f"PID {up.pid} ({shorten(name)})" for up, name in named if name), "")
        # Before sudo or su it was the user's own shell.
        users = (self._proc.read_login_user(process.pid), *(up.user for up in line))
        login = next((user for user in users if user not in ("", process.user)), "")
        mine = place.unit in self._own_units or any(up.pid == self._me for up in (process, *line))
        return Requester(process.pid, process.command, process.user, login, starter, _name_unit(place), mine)


def _can_request(process: Process, namespaces: Collection[int]) -> bool:
    """Whether its request is sure to reach this manager: it is a systemctl that lives here, and in no container."""
    program = PurePosixPath(process.exe.removesuffix(protected.DELETED)).name
    here = not namespaces or process.pid_namespace in namespaces
    inside = parse_cgroup_path(process.cgroup).container
    # Who is not root does not see what root's processes run; root sees that of all.
    unseen = program == "" and os.geteuid() != 0
    return not process.dead and here and not inside and (unseen or program in PROGRAMS)


def _name_unit(place: CgroupUnit) -> str:
    if place.kind not in (CgroupKind.SERVICE, CgroupKind.SCOPE, CgroupKind.SESSION):
        return ""
    return place.unit if place.user_uid is None else f"{place.unit} of user {place.user_uid}"


class LocalProc:
    """The /proc of this machine: a `ProcSource`."""

    list_pids: Callable[[], Iterable[int]] = staticmethod(processes.list_pids)
    read_name: Callable[[int], str] = staticmethod(processes.read_name)
    read_owned: Callable[[int, int, Callable[[Process], bool]], Process | None] = staticmethod(processes.read_owned)
    read_brief: Callable[[int], Process | None] = staticmethod(processes.read_brief)
    read_login_user: Callable[[int], str] = staticmethod(processes.read_login_user)

    @staticmethod
    def uptime() -> float:
        """Return the time by the clock of `Process.started`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
