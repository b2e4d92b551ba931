"""Finds the process that has just requested a job: systemctl waits for the end of its job, so it can be found.

As root it talks to systemd over a private socket, so no bus can identify it; and systemd does not record requesters
(252, 257). So the processes are read at the moment in which the job is announced. Of 50 restarts of a service that is
back within milliseconds, 49 were found; of 50 calls of busctl, which does not wait, 8.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.holders import Process
from runbook.host.kernel.ancestry import find_ancestors
from runbook.host.requesters import MAX_NAMED, JobRequest, Requester, name_program, requests_job
from runbook.model import ProcessId
from runbook.util.wording import shorten

PROGRAMS = ("systemctl", "busctl")  # programs that request jobs and name the unit on their command line
MAX_SCAN = 0.25  # seconds for a scan: fifteen thousand processes. A longer one names no process, as it may miss some
SCAN_SHARE = 0.1  # share of the time that scans may take, with MAX_SCAN in advance; beyond it there is no scan
MAX_REQUESTER_AGE = 10.0  # seconds from its start to the request of root's systemctl; an older one waits for its job
BATCH_SECONDS = 1.0  # for which a process counts for the other units on its command line, although it has exited
MAX_JOBS_PER_UNIT = 16  # how many jobs of a unit are kept


class ProcSource(Protocol):
    """What is needed of /proc: the functions of `kernel.processes`, which document it."""

    def list_pids(self) -> Iterable[int]: ...
    def read_name(self, pid: int) -> str: ...
    def read_process_of_user(self, pid: int, uid: int, may: Callable[[Process], bool]) -> Process | None: ...
    def read_brief(self, pid: int) -> Process | None: ...
    def read_login_user(self, pid: int) -> str: ...
    def uptime(self) -> float: ...


class UnitNames(NamedTuple):
    """The names under which a unit may be requested, and the units that propagate a stop or restart to it."""

    names: frozenset[str]
    propagating: frozenset[str] = frozenset()


class RequesterScan:
    """The jobs of units that this program did not request, and their requesters."""

    def __init__(self, proc: ProcSource, *, of_user: bool) -> None:
        self._of_user = of_user
        self._proc = proc
        self._me = os.getpid()
        self._uid = os.geteuid() if of_user else 0
        self._credit = MAX_SCAN  # seconds that scans may take now
        self._scanned_at = 0.0  # when the last scan ended
        self._missed_at: dict[str, float] = {}  # when a job of a unit last came without a complete scan
        self._jobs: dict[str, list[JobRequest]] = {}  # by unit, oldest first
        self._known: dict[str, set[ProcessId]] = {}  # the processes that were found for earlier jobs, by unit
        self._latest: list[tuple[float, Process, Requester]] = []  # those that were found lately, and when
        self._ancestors: dict[ProcessId, list[Process]] = {}  # of the candidates of the scan
        self.own_units: set[str] = set()  # the units in which a command of this run is or was running

    def requests(self, unit: str) -> tuple[JobRequest, ...]:
        """Return the jobs of a unit, oldest first."""
        return tuple(self._jobs.get(unit, ()))

    def forget(self, unit: str) -> None:
        """Forget the jobs of a unit: from here on it is what this program made of it."""
        self._jobs.pop(unit, None)

    def has_scanned(self, unit: str, job: int) -> bool:
        """True if the requester of a job was looked for already."""
        return any(one.job == job for one in self._jobs.get(unit, ()))

    def scan(self, unit: str, job: int, names: UnitNames, *, began: bool) -> None:
        """Find the requester of a job. `began`: the job was announced at this moment, and not found later."""
        now = self._proc.uptime()
        self._credit = min(MAX_SCAN, self._credit + (now - self._scanned_at) * SCAN_SHARE)
        found = self._find_requesters(unit, names, began=began) if self._credit > 0 else None
        if found is None:
            # A process that is there by now may have requested this job: it must not count for the next one.
            self._missed_at[unit] = self._proc.uptime()
        self._jobs.setdefault(unit, []).append(JobRequest(job, tuple(found or ())))
        del self._jobs[unit][:-MAX_JOBS_PER_UNIT]
        self._scanned_at = self._proc.uptime()
        self._credit -= self._scanned_at - now

    def _find_requesters(self, unit: str, names: UnitNames, *, began: bool) -> list[Requester] | None:
        """Find the processes that may have requested the job; None if there was no time to read all processes."""
        candidates = self._find_candidates(names, began=began, after=self._missed_at.get(unit, 0.0))
        if candidates is None:
            return None
        earlier = self._known.setdefault(unit, set())
        found = [one for one in candidates if one.id not in earlier]
        # A child may have been read between its fork and its exec, with the command line of its parent.
        found = [one for one in found if all(one.ppid != other.pid for other in found)]
        earlier.update(one.id for one in found)
        if not found:
            return self._find_exited(unit, names)
        if len(found) > MAX_NAMED:
            return []
        # Whether one is this run's own and another is not does not matter: either may have been first.
        requesters = list(map(self._make_requester, found))
        self._latest += [(self._proc.uptime(), *pair) for pair in zip(found, requesters, strict=True)]
        return requesters

    def _find_exited(self, unit: str, names: UnitNames) -> list[Requester]:
        """Find a process that was found for another unit just now: `systemctl stop a b` exits once both are down."""
        since, earlier = self._proc.uptime() - BATCH_SECONDS, self._known[unit]
        self._latest = [one for one in self._latest if one[0] >= since]
        latest = [(process, made) for _, process, made in self._latest if process.id not in earlier]
        found = [one for one in latest if self._names_unit(one[0], names)]
        earlier.update(process.id for process, _ in found)
        return [made for _, made in found] if len(found) == 1 else []

    def _names_unit(self, process: Process, names: UnitNames) -> bool:
        return requests_job(process.command, names.names, names.propagating, of_user=self._of_user)

    def _find_candidates(self, names: UnitNames, *, began: bool, after: float) -> list[Process] | None:
        """Read all processes; None if that takes too long.

        A user who is not root waits for polkit first, and a systemctl that waits for a password looks like one that
        waits for a job. And any user can name a program systemctl and pass it a command line that takes long to judge:
        its user is checked before its command line is read.
        """
        now = self._proc.uptime()
        since = max(after, now - MAX_REQUESTER_AGE) if began else after
        me = self._proc.read_brief(self._me)
        namespaces = (0, me.pid_namespace) if me else ()

        def may(process: Process) -> bool:
            return process.started >= since and _can_request(process, namespaces)

        found = []
        self._ancestors.clear()
        for pid in sorted(self._proc.list_pids(), reverse=True):
            if self._proc.uptime() - now > MAX_SCAN:
                return None
            process = (
                self._proc.read_process_of_user(pid, self._uid, may) if self._proc.read_name(pid) in PROGRAMS else None
            )
            if process and self._names_unit(process, names):
                found.append(process)
                if len(found) <= MAX_NAMED:  # A script that calls systemctl last exits together with it.
                    self._ancestors[process.id] = find_ancestors(self._proc.read_brief, process)
        return found

    def _make_requester(self, process: Process) -> Requester:
        line = self._ancestors.get(process.id) or find_ancestors(self._proc.read_brief, process)
        place = parse_cgroup_path(process.cgroup)
        named = ((up, name_program(up.name, up.command)) for up in line)
        starter = next((f"PID {up.pid} ({shorten(name)})" for up, name in named if name), "")
        # An ancestor before sudo or su runs as the user who logged in.
        users = (self._proc.read_login_user(process.pid), *(up.user for up in line))
        login = next((user for user in users if user not in ("", process.user)), "")
        is_own = place.unit in self.own_units or any(up.pid == self._me for up in (process, *line))
        return Requester(process.pid, process.command, process.user, login, starter, _name_unit(place), is_own)


def _can_request(process: Process, namespaces: Collection[int]) -> bool:
    """True if a process can certainly reach this manager: it is a systemctl of this machine, not of a container."""
    program = process.program
    here = not namespaces or process.pid_namespace in namespaces
    inside = parse_cgroup_path(process.cgroup).container
    # Only root can read which program a process of root runs.
    unseen = program == "" and os.geteuid() != 0
    return not process.dead and here and not inside and (unseen or program in PROGRAMS)


def _name_unit(place: CgroupUnit) -> str:
    if place.kind not in (CgroupKind.SERVICE, CgroupKind.SCOPE, CgroupKind.SESSION):
        return ""
    return place.unit if place.user_uid is None else f"{place.unit} of user {place.user_uid}"
