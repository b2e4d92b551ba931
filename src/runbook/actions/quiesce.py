"""Holds a unit stopped, and what would start it, while its files are swapped; and lets all of it go again.

look ──something is up──► stop it ──► wait ──► the command ──► let go ──► wait ──► say so
          ▲                                        │
          └──────── somebody started it ◄──────────┘
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runbook.actions.job_step import STARTS, JobStep
from runbook.checks.start_limit import limited
from runbook.errors import BusLost, HostError
from runbook.host.facts import DOWN, UP, ActiveState, JobRef, JobResult, JobVerb
from runbook.host.interface import Host, HostView
from runbook.host.ownership.describe import lost
from runbook.host.requesters import last_start, somebody
from runbook.model import Finding, State, Verdict, Wake, fails, not_yet, to_do
from runbook.spec.state import RunState
from runbook.spec.step import Runbook, Step

STOPPING = (*DOWN, ActiveState.DEACTIVATING)

STOPPED = (JobResult.DONE, JobResult.GONE, JobResult.CANCELED)
"""Ends of a stop job after which the unit itself tells how it is: canceled is what somebody's start makes of it."""


@dataclass
class Hold:
    """What is held, and what was up before: to be read by whoever lets it go.

    `triggers` are the units that would start the unit and were up: sockets, timers, paths. `stops` and `starts`
    are the jobs that were asked for, by unit; `started` is what somebody else started in between, `starter` who did, in
    words. `up` is noted
    before the first of them. `move` is what was found to be next: `stop`, `let go`, `start again`, or nothing.
    """

    unit: str = ""
    up: bool = False
    triggers: list[str] = field(default_factory=list)
    stops: dict[str, JobRef] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    starter: str = ""
    starts: dict[str, JobRef] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    released: bool = False
    move: str = ""

    @property
    def taken(self) -> bool:
        """Whether anything was touched."""
        return bool(self.unit)

    @property
    def names(self) -> frozenset[str]:
        """All that is held."""
        return frozenset({self.unit, *self.triggers} if self.taken else ())

    # What is next

    def keep_down(self, view: HostView, name: str, finding: Finding, *, began: bool) -> Finding:
        """Hold the unit down before the command, and while it runs once it `began`; `finding` is where that stands."""
        self.move = ""
        if finding.state is State.NOT_YET and not began:
            return finding  # Whether there is anything to do is being asked.
        if not began and not self.taken and (unit := view.unit(name)).lost:
            # There is nothing to stop for systemd, and the files would be swapped under what runs.
            why = f"{lost(unit)}; it cannot be held stopped for the update, so nothing was begun"
            mend = "a `kill-orphan` before this step reloads, and then ends what runs"
            return fails(Verdict.UPDATE_FAILED, f"{why}; {mend}", **finding.evidence)
        stopping = self.stopping(view)
        if not stopping and not self.refusal(view) and (up := awake(view, name)):
            if not began and not self.taken and (never := next((one for one in up if not view.unit(one).can_stop), "")):
                # Before anything is touched: a socket that is closed does not open again while its service runs.
                why = f"cannot stop {never} for the update: its file forbids that (RefuseManualStop=)"
                return fails(Verdict.UPDATE_FAILED, why, **finding.evidence)
            self.move = "stop"
            then = f"which {_starter(view, up, self.stops)} started meanwhile" if began else f"then {finding.reason}"
            return to_do(finding.verdict, f"stop {', '.join(up)}, {then}", **finding.evidence)
        held = self.names | {name, *view.unit(name).triggered_by}
        if stopping and not began:
            return not_yet(finding.verdict, f"waiting for {', '.join(stopping)} to stop", Wake(units=held))
        if finding.wake is not None:
            return replace(finding, wake=replace(finding.wake, units=finding.wake.units | held))
        return finding

    def release(self, view: HostView, finding: Finding) -> Finding:
        """Let go of what is held before all ends as `finding` says."""
        failed = finding.state is State.FAILS
        if not self.taken:
            return finding
        if not self.released and (owed := self.owed(failed=failed)):
            self.move = "start again" if failed else "let go"
            return to_do(finding.verdict, f"start {', '.join(owed)} again", **finding.evidence)
        if starting := self.starting(view):
            wake = Wake(units=frozenset(starting))
            return not_yet(finding.verdict, f"waiting for {', '.join(starting)} to start", wake, **finding.evidence)
        if not failed and (self.troubles or self.down(view)):
            return fails(Verdict.JOB_FAILED, f"{finding.reason}, but {self.told(view)}", **finding.evidence)
        return self.telling(view, finding)

    def telling(self, view: HostView, finding: Finding) -> Finding:
        """Add to a finding what became of what was held, if anything was."""
        return replace(finding, reason=f"{finding.reason}; {self.told(view)}") if self.taken else finding

    def act(self, host: Host, name: str, run: RunState) -> bool:
        """Make the move that was found to be next; false if there is none."""
        match self.move:
            case "stop":
                self.stop(host, name)
            case "let go" | "start again":
                self.let_go(host, run, failed=self.move == "start again")
        return bool(self.move)

    # The jobs

    def stop(self, host: Host, name: str) -> None:
        """Ask for the stop of all that is up. What would start the unit comes first."""
        unit = host.unit(name)
        if not self.taken:
            self.unit, self.up = name, unit.active_state not in STOPPING
        for one in awake(host, name):
            if one != name and one not in self.triggers:
                self.triggers.append(one)
            if one in self.stops:
                self.starter = _starter(host, [one], self.stops)
                self.started += [one] if one not in self.started else []
            self.stops[one] = host.begin_job(JobVerb.STOP, one)

    def stopping(self, view: HostView) -> list[str]:
        """Give what is on its way down."""
        return [name for name, ref in self.stops.items() if view.job(ref) is None]

    def refusal(self, view: HostView) -> str:
        """Say what could not be stopped, or nothing."""
        for name, ref in self.stops.items():
            result = view.job(ref)
            if result not in (None, *STOPPED) and view.unit(name).active_state not in DOWN:
                return f"cannot stop {name} for the update: its stop job ended `{result}`"
        return ""

    def owed(self, *, failed: bool) -> list[str]:
        """Give what is to be started again: what would start the unit; and the unit itself, if the update failed.

        After an update that went well the unit stays down for the step that starts it. Sockets come first: one whose
        service runs already is refused, and a timer may start that at once.
        """
        sockets_first = sorted(self.triggers, key=lambda name: not name.endswith(".socket"))
        return [*sockets_first, *([self.unit] if failed and self.up else [])]

    def let_go(self, host: Host, run: RunState, *, failed: bool) -> None:
        """Ask for the start of all that is owed.

        The unit was up, and it was the update that took it down: its start limit must not be what keeps it down.
        """
        owed = self.owed(failed=failed)
        verbs = dict.fromkeys(owed, JobVerb.START)
        if self.unit in owed and self._still_stops(host):
            # A start would take the place of the stop that goes on, and systemd refuses a socket until that is over.
            # A restart goes on with it, and what is asked for after it waits for its first half.
            verbs[self.unit] = JobVerb.RESTART
            owed = [self.unit, *(name for name in owed if name != self.unit)]
        for name in owed:
            if name not in self.starts:
                try:
                    if name == self.unit:
                        _clear_limit(host, run, name)
                    self.starts[name] = host.begin_job(verbs[name], name)
                except BusLost:
                    raise  # It may be asked again.
                except HostError as error:
                    # One that cannot be started must not keep the others down.
                    self.troubles.append(error.message)
        self.released = True

    def _still_stops(self, view: HostView) -> bool:
        try:
            return view.unit(self.unit).active_state is ActiveState.DEACTIVATING
        except BusLost:
            raise
        except HostError:
            return False

    def starting(self, view: HostView) -> list[str]:
        """Give what is on its way up."""
        return [name for name, ref in self.starts.items() if view.job(ref) is None]

    def down(self, view: HostView) -> list[str]:
        """Give what was to be started, and is not up."""
        return [name for name in self.starts if view.unit(name).active_state in DOWN]

    def told(self, view: HostView) -> str:
        """Say what is running now, of what was held."""
        if not self.starts and not self.troubles:
            interrupted = f", and stopped again when {self.starter or 'somebody'} started it" if self.started else ""
            return f"{self.unit} was held stopped meanwhile{interrupted}"
        going_on = self.starting(view)
        now = [
            f"{name} {'is to start' if name in going_on else 'was started'} again and is {view.unit(name).describe()}"
            for name in self.starts
        ]
        return "; ".join((*now, *self.troubles))


def _clear_limit(host: Host, run: RunState, name: str) -> None:
    """Let a unit be started however often it was; systemd shows nobody how often that is, and counts by itself."""
    unit = host.unit(name)
    if limited(unit) and unit.active_state not in UP:
        host.reset_failed(name)
        run.cleared[name] = host.clock.now()


def _starter(view: HostView, names: Sequence[str], stops: Mapping[str, JobRef]) -> str:
    """Name whoever started one of these since this program stopped it, as far as that is known."""
    numbers = {name: stops[name].number if name in stops else 0 for name in names}
    known = (last_start(view.unit(name).asked, number) for name, number in numbers.items())
    return next((somebody(one) for one in known if one is not None), "somebody")


def awake(view: HostView, name: str) -> list[str]:
    """Give what is up of a unit and what would start it, the unit last."""
    unit = view.unit(name)
    return [one.name for one in (*map(view.unit, unit.triggered_by), unit) if one.active_state not in DOWN]


def starts_later(step: Step[Any], unit: str | None, runbook: Runbook) -> bool:
    """Whether a step behind this one starts the unit that it leaves down."""
    undoing = runbook.rollback if isinstance(runbook.rollback, tuple) else ()
    for steps in (undoing, (*runbook.steps, *runbook.always)):
        walked = [inner for outer in steps for inner in outer.walk()]
        if any(one is step for one in walked):
            behind = itertools.dropwhile(lambda one: one is not step, walked)
            return any(isinstance(one, JobStep) and one.verb in STARTS and one.unit == unit for one in behind)
    return False
