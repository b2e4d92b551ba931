"""Keep a unit, and the units that would start it, stopped while its files are replaced; then release them.

check ──a unit is up──► stop it ──► wait ──► the command ──► release ──► wait ──► report
             ▲                                    │
             └────── it was started again ◄───────┘
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runbook.actions.job_refusal import START_VERBS
from runbook.actions.job_step import JobStep
from runbook.checks.start_limit import has_start_limit
from runbook.errors import BusLost, HostError
from runbook.host.facts import DOWN, UP, ActiveState, JobRef, JobResult, JobVerb
from runbook.host.interface import Host, HostView
from runbook.host.ownership.describe import describe_untracked
from runbook.host.requesters import UNKNOWN_REQUESTER, describe_requester, find_last_start
from runbook.model import Finding, FindingState, Verdict, Wake, fails, not_yet, to_do
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import Step

DOWN_OR_STOPPING = (*DOWN, ActiveState.DEACTIVATING)

STOP_JOB_RESULTS = (JobResult.DONE, JobResult.GONE, JobResult.CANCELED)
"""Results of a stop job after which the unit is read: another start, for example, cancels a stop."""


@dataclass
class Quiesce:
    """What is kept stopped, and what was up before. It is recorded, so that a resumed run can release it."""

    unit: str = ""  # the unit; empty if nothing was stopped
    was_up: bool = False  # True if it was up before
    triggers: list[str] = field(default_factory=list)  # the units that would start it, and were up: sockets, timers, …
    stop_jobs: dict[str, JobRef] = field(default_factory=dict)  # the last stop job of each unit
    start_requester: str = ""  # who started one of them again meanwhile, in words; empty if none was
    start_jobs: dict[str, JobRef] = field(default_factory=dict)  # the start jobs of the release
    start_errors: list[str] = field(default_factory=list)  # why units could not be started
    released: bool = False
    next_move: str = ""  # what `apply` is to do: `stop`, `release`, `start again`, or nothing

    @property
    def is_active(self) -> bool:
        """True if anything was stopped."""
        return bool(self.unit)

    # What is next

    def check_stop(self, view: HostView, name: str, finding: Finding, *, has_begun: bool) -> Finding:
        """Keep the unit down before the command, and while it runs once it `has_begun`; `finding` is the command's."""
        self.next_move = ""
        if finding.state is FindingState.NOT_YET and not has_begun:
            return finding  # Whether there is anything to do is still being read.
        if not has_begun and not self.is_active and (unit := view.unit(name)).is_untracked:
            # For systemd there is nothing to stop, and the files would be replaced under a running process.
            why = f"{describe_untracked(unit)}; it cannot be kept stopped for the update, so nothing was started"
            remedy = "a `kill-orphan` before this step reloads, and then kills that process"
            return fails(Verdict.UPDATE_FAILED, f"{why}; {remedy}", **finding.evidence)
        stopping = _find_pending_units(view, self.stop_jobs)
        if not stopping and not self.find_stop_refusal(view) and (up := find_up(view, name)):
            # Before anything is stopped: a closed socket does not open again while its service runs.
            unstoppable = [] if has_begun or self.is_active else [one for one in up if not view.unit(one).can_stop]
            if unstoppable:
                why = f"cannot stop {unstoppable[0]} for the update: its file forbids that (RefuseManualStop=)"
                return fails(Verdict.UPDATE_FAILED, why, **finding.evidence)
            self.next_move = "stop"
            then = f"then {finding.reason}"
            if has_begun:
                then = f"which {_find_start_requester(view, up, self.stop_jobs)} started meanwhile"
            return to_do(finding.verdict, f"stop {', '.join(up)}, {then}", **finding.evidence)
        units = frozenset({name, *self.triggers, *view.unit(name).triggered_by})
        if stopping and not has_begun:
            return not_yet(finding.verdict, f"waiting for {', '.join(stopping)} to stop", Wake(units=units))
        if finding.wake is not None:
            return replace(finding, wake=finding.wake._replace(units=finding.wake.units | units))
        return finding

    def check_release(self, view: HostView, finding: Finding) -> Finding:
        """Release what is kept stopped before the step ends with `finding`."""
        if not self.is_active:
            return finding
        is_failure = finding.state is FindingState.FAILS
        if not self.released and (units := self.units_to_start(is_failure=is_failure)):
            self.next_move = "start again" if is_failure else "release"
            return to_do(finding.verdict, f"start {', '.join(units)} again", **finding.evidence)
        if starting := _find_pending_units(view, self.start_jobs):
            wake = Wake(units=frozenset(starting))
            return not_yet(finding.verdict, f"waiting for {', '.join(starting)} to start", wake, **finding.evidence)
        still_down = [name for name in self.start_jobs if view.unit(name).active_state in DOWN]
        if not is_failure and (self.start_errors or still_down):
            return fails(Verdict.JOB_FAILED, f"{finding.reason}, but {self.describe(view)}", **finding.evidence)
        return self.add_summary(view, finding)

    def add_summary(self, view: HostView, finding: Finding) -> Finding:
        """Add to a finding what became of the units that were kept stopped."""
        return replace(finding, reason=f"{finding.reason}; {self.describe(view)}") if self.is_active else finding

    def apply(self, host: Host, name: str, run: RunState) -> bool:
        """Make the next move; false if there is none."""
        match self.next_move:
            case "stop":
                self.request_stops(host, name)
            case "release" | "start again":
                self.release(host, run, is_failure=self.next_move == "start again")
        return bool(self.next_move)

    # The jobs

    def request_stops(self, host: Host, name: str) -> None:
        """Request the stop of all that is up. The units that would start the unit come first."""
        unit = host.unit(name)
        if not self.is_active:
            self.unit, self.was_up = name, unit.active_state not in DOWN_OR_STOPPING
        for one in find_up(host, name):
            if one != name and one not in self.triggers:
                self.triggers.append(one)
            if one in self.stop_jobs:
                self.start_requester = _find_start_requester(host, [one], self.stop_jobs)
            self.stop_jobs[one] = host.enqueue_job(JobVerb.STOP, one)

    def find_stop_refusal(self, view: HostView) -> str:
        """Return what could not be stopped; empty if all could."""
        for name, ref in self.stop_jobs.items():
            result = view.job(ref)
            if result not in (None, *STOP_JOB_RESULTS) and view.unit(name).active_state not in DOWN:
                return f"cannot stop {name} for the update: its stop job ended `{result}`"
        return ""

    def units_to_start(self, *, is_failure: bool) -> list[str]:
        """Return the units to start again: those that would start the unit; and the unit itself, if the update failed.

        After a successful update the unit stays down for the step that starts it. Sockets come first: systemd refuses
        one whose service runs already, and a timer may start that at once.
        """
        sockets_first = sorted(self.triggers, key=lambda name: not name.endswith(".socket"))
        return [*sockets_first, *([self.unit] if is_failure and self.was_up else [])]

    def release(self, host: Host, run: RunState, *, is_failure: bool) -> None:
        """Request the start of all units that are to be started again.

        The unit was up, and the update stopped it: its start limit must not keep it down.
        """
        units = self.units_to_start(is_failure=is_failure)
        verbs = dict.fromkeys(units, JobVerb.START)
        if self.unit in units and self._still_stops(host):
            # A start would replace the stop job, and systemd refuses a socket until the stop is over. A restart
            # continues the stop, and the jobs that are requested after it wait for its first half.
            verbs[self.unit] = JobVerb.RESTART
            units = [self.unit, *(name for name in units if name != self.unit)]
        for name in units:
            if name in self.start_jobs:
                continue
            try:
                if name == self.unit:
                    _clear_limit(host, run, name)
                self.start_jobs[name] = host.enqueue_job(verbs[name], name)
            except BusLost:
                raise  # The request may be repeated.
            except HostError as error:
                # A unit that cannot be started must not keep the others down.
                self.start_errors.append(error.message)
        self.released = True

    def _still_stops(self, view: HostView) -> bool:
        try:
            return view.unit(self.unit).active_state is ActiveState.DEACTIVATING
        except BusLost:
            raise
        except HostError:
            return False

    def describe(self, view: HostView) -> str:
        """Return what became of the units that were kept stopped."""
        if not self.start_jobs and not self.start_errors:
            restart = f", and stopped again when {self.start_requester} started it" if self.start_requester else ""
            return f"{self.unit} was kept stopped meanwhile{restart}"
        starting = _find_pending_units(view, self.start_jobs)
        verbs = {name: "is to start" if name in starting else "was started" for name in self.start_jobs}
        now = [f"{name} {verb} again and is {view.unit(name).describe()}" for name, verb in verbs.items()]
        return "; ".join((*now, *self.start_errors))


def _find_pending_units(view: HostView, jobs: Mapping[str, JobRef]) -> list[str]:
    """Return the units whose job has not ended."""
    return [name for name, ref in jobs.items() if view.job(ref) is None]


def _clear_limit(host: Host, run: RunState, name: str) -> None:
    """Clear the start limit of a unit. systemd does not show its counter, so it is cleared in any case."""
    unit = host.unit(name)
    if has_start_limit(unit) and unit.active_state not in UP:
        host.reset_failed(name)
        run.cleared[name] = host.clock.now()


def _find_start_requester(view: HostView, names: Sequence[str], stops: Mapping[str, JobRef]) -> str:
    """Return who started one of the units since this program stopped it, as far as that is known."""
    numbers = {name: stops[name].number if name in stops else 0 for name in names}
    requests = (find_last_start(view.unit(name).job_requests, number) for name, number in numbers.items())
    return next((describe_requester(one) for one in requests if one is not None), UNKNOWN_REQUESTER)


def find_up(view: HostView, name: str) -> list[str]:
    """Return which of a unit and the units that would start it are up, the unit last."""
    unit = view.unit(name)
    return [one.name for one in (*map(view.unit, unit.triggered_by), unit) if one.active_state not in DOWN]


def is_started_later(step: Step[Any], unit: str | None, runbook: Runbook) -> bool:
    """True if a step after this one starts the unit that this one leaves down."""
    rollback = runbook.rollback if isinstance(runbook.rollback, tuple) else ()
    for steps in (rollback, (*runbook.steps, *runbook.always)):
        flat = [inner for outer in steps for inner in outer.walk()]
        if any(one is step for one in flat):
            behind = itertools.dropwhile(lambda one: one is not step, flat)
            return any(isinstance(one, JobStep) and one.verb in START_VERBS and one.unit == unit for one in behind)
    return False
