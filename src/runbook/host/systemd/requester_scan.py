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

from runbook.host.cgroups import Kind, Place, unit_of
from runbook.host.holders import Process
from runbook.host.kernel import processes, protected
from runbook.host.kernel.ancestry import ancestry
from runbook.host.requesters import MOST_NAMED, Asked, Asker, asks_for, telling
from runbook.model import ProcessId
from runbook.util.wording import shown

PROGRAMS = ("systemctl", "busctl")
"""What asks for jobs, and tells on its command line for which."""

LONGEST = 0.25
"""Seconds that a look may take: fifteen thousand processes. Then nobody is named: it may not have seen all."""

SHARE = 0.1
"""So much of the time may go to looks, with `LONGEST` beforehand; whoever asks meanwhile is not looked for."""

FRESH = 10.0
"""Seconds within which root's systemctl asks, once it was started; one that is older waits for something else."""

KEPT = 16
"""So many jobs of a unit are remembered."""


class Proc(Protocol):
    """What is needed of /proc."""

    def pids(self) -> Iterable[int]:
        """List the processes."""

    def name(self, pid: int) -> str:
        """Give the name of one."""

    def glance(self, pid: int, uid: int, may: Callable[[Process], bool]) -> Process | None:
        """Look at one, if it is of this user, and `may` says so before its command line is read."""

    def read(self, pid: int) -> Process | None:
        """Look at one, briefly."""

    def login(self, pid: int) -> str:
        """Name the user from whose login one came."""

    def uptime(self) -> float:
        """Give the time by the clock of `Process.started`."""


@dataclass(frozen=True)
class Spelled:
    """The names under which a unit may be asked for, and those of the units that take it along."""

    names: frozenset[str]
    above: frozenset[str] = frozenset()


class Callers:
    """The jobs of units that this program did not ask for, and who did."""

    def __init__(self, *, of_user: bool, proc: Proc | None = None) -> None:
        self._of_user = of_user
        self._proc: Proc = proc or _Proc()
        self._me = os.getpid()
        self._uid = os.geteuid() if of_user else 0
        self._credit = LONGEST
        self._looked = 0.0
        self._missed: dict[str, float] = {}
        self._asked: dict[str, list[Asked]] = {}
        self._found: dict[str, set[ProcessId]] = {}
        self._own_units: set[str] = set()

    def asked(self, unit: str) -> tuple[Asked, ...]:
        """Give the jobs of a unit, oldest first."""
        return tuple(self._asked.get(unit, ()))

    def forget(self, unit: str) -> None:
        """Forget the jobs of a unit: from here on it is what this program made of it."""
        self._asked.pop(unit, None)

    def starts(self, name: str) -> None:
        """Know a unit in which a command of this run is at work."""
        self._own_units.add(name)

    def knows(self, unit: str, job: int) -> bool:
        """Whether somebody was looked for already who asked for a job."""
        return any(one.job == job for one in self._asked.get(unit, ()))

    def look(self, unit: str, job: int, spelled: Spelled, *, began: bool) -> None:
        """Look who asked for a job; `began`: it was announced in this moment, and not come upon."""
        now = self._proc.uptime()
        self._credit = min(LONGEST, self._credit + (now - self._looked) * SHARE)
        found = self._askers(unit, spelled, began=began) if self._credit > 0 else None
        if found is None:
            # Whoever is there by now may have asked for this one, and is not to be taken for who asked for the next.
            self._missed[unit] = self._proc.uptime()
        self._asked.setdefault(unit, []).append(Asked(job, tuple(found or ())))
        del self._asked[unit][:-KEPT]
        self._looked = self._proc.uptime()
        self._credit -= self._looked - now

    def _askers(self, unit: str, spelled: Spelled, *, began: bool) -> list[Asker] | None:
        """Look for whoever asked; None where there was no time to look at all."""
        candidates = self._candidates(spelled, began=began, after=self._missed.get(unit, 0.0))
        if candidates is None:
            return None
        earlier = self._found.setdefault(unit, set())
        found = [one for one in candidates if one.id not in earlier]
        # It may have been seen between its fork and its exec.
        found = [one for one in found if all(one.ppid != other.pid for other in found)]
        earlier.update(one.id for one in found)
        # Whether one that is this run's own stands beside a stranger's does not matter: either may have been first.
        return list(map(self._asker, found)) if len(found) <= MOST_NAMED else []

    def _candidates(self, spelled: Spelled, *, began: bool, after: float) -> list[Process] | None:
        """Look at all processes; None where that takes too long.

        Who is not root asks polkit first, and a systemctl that waits for a password looks as if it waited for a job.
        And anybody may call a program systemctl, and give it a command line that takes long to judge: nothing of it is
        read before it is known whose it is.
        """
        now = self._proc.uptime()
        since = max(after, now - FRESH) if began else after
        me = self._proc.read(self._me)
        namespaces = (0, me.pid_namespace) if me else ()

        def may(process: Process) -> bool:
            return process.started >= since and _can_ask(process, namespaces)

        found = []
        for pid in sorted(self._proc.pids(), reverse=True):
            if self._proc.uptime() - now > LONGEST:
                return None
            if self._proc.name(pid) not in PROGRAMS or (process := self._proc.glance(pid, self._uid, may)) is None:
                continue
            if asks_for(process.command, spelled.names, spelled.above, of_user=self._of_user):
                found.append(process)
        return found

    def _asker(self, process: Process) -> Asker:
        line = ancestry(self._proc.read, process)
        place = unit_of(process.cgroup)
        named = ((up, telling(up.name, up.command)) for up in line)
        starter = next((f"PID {up.pid} ({shown(name)})" for up, name in named if name), "")
        # Before sudo or su it was the user's own shell.
        users = (self._proc.login(process.pid), *(up.user for up in line))
        login = next((user for user in users if user not in ("", process.user)), "")
        mine = place.unit in self._own_units or any(up.pid == self._me for up in (process, *line))
        return Asker(process.pid, process.command, process.user, login, starter, _place(place), mine)


def _can_ask(process: Process, namespaces: Collection[int]) -> bool:
    """Whether its request is sure to reach this manager: it is a systemctl that lives here, and in no container."""
    program = PurePosixPath(process.exe.removesuffix(protected.DELETED)).name
    here = not namespaces or process.pid_namespace in namespaces
    inside = unit_of(process.cgroup).container
    # Who is not root does not see what root's processes run; root sees that of all.
    unseen = program == "" and os.geteuid() != 0
    return not process.dead and here and not inside and (unseen or program in PROGRAMS)


def _place(place: Place) -> str:
    if place.kind not in (Kind.SERVICE, Kind.SCOPE, Kind.SESSION):
        return ""
    return place.unit if place.user_uid is None else f"{place.unit} of user {place.user_uid}"


class _Proc:
    """This machine's."""

    pids: Callable[[], Iterable[int]] = staticmethod(processes.pids)
    name: Callable[[int], str] = staticmethod(processes.name_of)
    glance: Callable[[int, int, Callable[[Process], bool]], Process | None] = staticmethod(processes.glance)
    read: Callable[[int], Process | None] = staticmethod(processes.brief)
    login: Callable[[int], str] = staticmethod(processes.login_of)

    @staticmethod
    def uptime() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
