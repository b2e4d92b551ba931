"""Check; if a check fails, fix, and check again. If a fix would certainly be refused, none begins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from runbook.engine.execution.attempt import BUS_RETRY_INTERVAL, check_once, make_internal_failure
from runbook.engine.execution.long_wait import LongWait
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.predicted_host import PredictedHost
from runbook.engine.execution.replay import FixRound, ResumeState
from runbook.engine.execution.stream import EventStream
from runbook.errors import BusLost, BusTimeout, HostError, RunbookError
from runbook.events import FixStarted, Notice, UnitStartedAgain
from runbook.host.facts import UP, ActiveState, JobVerb
from runbook.host.interface import Host, HostView, Waiter
from runbook.host.ownership.describe import describe_untracked
from runbook.model import Deadline, FindingState, StepStatus, Verdict, Wake
from runbook.spec.state import RunState
from runbook.spec.step import Remedy, Step

RESTART_TIMEOUT = 60.0  # seconds for starting a unit again after a failed fix
UP_OR_STARTING = (*UP, ActiveState.ACTIVATING)  # the states of a unit that is up or starting


def let_remediations_decide(steps: Iterable[Step[Any]]) -> list[Step[Any]]:
    """Return the steps; one right before a remediation that may find the cause of its failure does not end the run.

    `on-failure: abort`, if it is written in the file, stays.
    """
    found = list(steps)
    for at, (step, following) in enumerate(itertools.pairwise(found)):
        if step.remediable and following.remedy() is not None and "on_failure" not in step.model_fields_set:
            found[at] = step.model_copy(update={"on_failure": "continue"})
    return found


def find_invocations(view: HostView, step: Step[Any]) -> dict[str, str]:
    """Return the InvocationID of each unit of a step; none if systemd does not answer."""
    try:
        return {name: view.unit(name).invocation_id for name in step.units()}
    except HostError:
        return {}


class HandedFailure(NamedTuple):
    """The failure of a step whose cause the following remediation is to find."""

    outcome: Outcome
    before: Mapping[str, str]  # the InvocationID of each of its units before it; empty if that is unknown

    def is_unfixed(self, view: HostView, remediation: Outcome) -> bool:
        """True if a remediation that did not fail leaves the failure as it is.

        It was skipped, or it found nothing wrong with the invocation from before: the old process still serves.
        """
        if remediation.status is StepStatus.SKIPPED:
            return True
        try:
            return any(known and view.unit(name).invocation_id == known for name, known in self.before.items())
        except HostError:
            return False


class StepRunner(Protocol):
    """The part of the runner that a remediation and a rollback use."""

    host: Host
    waiter: Waiter
    events: EventStream
    state: RunState
    resume_state: ResumeState
    changed: bool  # the run has changed something

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with its retries, and return its outcome. The outcome of an earlier part is kept."""

    def run_in_order(self, steps: Iterable[Step[Any]]) -> Outcome | None:
        """Carry out steps until one fails, unless it may fail. Return its outcome; None if all were carried out."""

    def prepare(self, step: Step[Any]) -> Step[Any] | None:
        """Return a step with its templates filled as far as possible; None if its `when` is false or not known.

        Raises RunbookError for a template that cannot be filled.
        """


@dataclass
class Remediation:
    """The checks and fixes of a step. `run` carries them out."""

    runner: StepRunner
    step: Step[Any]
    remedy: Remedy
    failed_check: Outcome | None = None  # the check that failed last: the reason of the next round, or of the end
    rounds: int = 0  # the rounds that were begun

    def run(self) -> Outcome:
        """Check; if a check fails, fix and check again, at most as often as the step permits."""
        if (resumed := self.runner.resume_state.fix_rounds.pop(self.step.step_id, None)) is not None:
            return self._run_rounds(resumed.units_up, resumed)  # Its refusals were checked when it began.
        failure = self.failed_check = self.runner.run_in_order(self.remedy.checks)
        if failure is None:
            return self._end(StepStatus.OK, Verdict.HOLDS, "every check holds; nothing was changed")
        if failure.still_starting:
            return self._end_still_starting(failure)
        if _is_change_by_another(failure):
            who = "" if failure.verdict is Verdict.UNIT_MASKED else ", because another requester acts on the unit"
            return self._end_failed(f"no fix was begun{who}: {failure.reason}")
        units = tuple(dict.fromkeys(name for fix in self.remedy.fixes for name in fix.units()))
        try:
            self._reload_changed_files(units)
            refusal = find_certain_refusal(self.runner, self.remedy.fixes)
            units_up = tuple(name for name in units if self.runner.host.unit(name).active_state in UP_OR_STARTING)
        except HostError as error:
            refusal = f"what the fix would find is not known: {error.message}"
        if refusal:
            return self._end_failed(f"no fix was begun: {refusal}")
        return self._run_rounds(units_up)

    def _reload_changed_files(self, units: Iterable[str]) -> None:
        """Reload systemd's unit files if those of a unit have changed. Raises HostError.

        A start uses the files as they are now: a mistake in them must be found before anything is stopped.
        """
        if name := next((name for name in units if self.runner.host.unit(name).need_daemon_reload), ""):
            self.runner.events.emit(Notice(text=f"the files of {name} have changed: systemd reloads its unit files"))
            self.runner.host.daemon_reload()

    def _run_rounds(self, units_up: tuple[str, ...], resumed: FixRound | None = None) -> Outcome:
        """Carry out the rounds. After an error of this program, too, what they may have stopped is started again."""
        try:
            return self._fix_in_rounds(units_up, resumed)
        except RunbookError:
            raise
        except Exception as error:
            failure = make_internal_failure(self.step, error)
            return replace(self._end_at_fix(failure, units_up), evidence=failure.evidence)

    def _fix_in_rounds(self, units_up: tuple[str, ...], resumed: FixRound | None) -> Outcome:
        """Carry out the rounds that are left, first the one that an earlier part of the run began, if any."""
        for number in range(resumed.number if resumed is not None else 1, self.remedy.rounds + 1):
            self.rounds = number
            cause = resumed.because if resumed is not None and resumed.number == number else self._begin_round(units_up)
            if (failed_fix := self.runner.run_in_order(self.remedy.fixes)) is not None:
                return self._end_at_fix(failed_fix, units_up)
            self.failed_check = self.runner.run_in_order(self.remedy.checks)
            if self.failed_check is None:
                return self._end(StepStatus.REMEDIATED, Verdict.FIXED, f"{cause} was fixed")
            if self.failed_check.still_starting:
                return self._end_still_starting(self.failed_check)
        assert self.failed_check is not None
        times = "once" if self.rounds == 1 else f"{self.rounds} times"
        check = self.failed_check
        return self._end_failed(f"fixed {times}, and {check.type_name} still finds {check.verdict}: {check.reason}")

    def _begin_round(self, units_up: tuple[str, ...]) -> str:
        """Report that a round begins, and return its cause: the verdict of the check that failed."""
        assert self.failed_check is not None
        cause, name = str(self.failed_check.verdict), self.step.step_id
        self.runner.resume_state.begin_fix_round(name)
        self.runner.events.emit(
            FixStarted(id=name, round=self.rounds, rounds=self.remedy.rounds, because=cause, up=units_up)
        )
        return cause

    def _end_at_fix(self, failed_fix: Outcome, units_up: Iterable[str]) -> Outcome:
        """Return the end at a fix that failed. The units that it may have stopped are started again."""
        if failed_fix.still_starting:
            return self._end_still_starting(failed_fix)
        reason = f"the fix stopped at its step `{failed_fix.type_name}`: {failed_fix.reason}"
        if _is_change_by_another(failed_fix):
            self.failed_check = failed_fix  # It is the reason of the end, whatever the reason of the fix was.
            return self._end_failed(reason)
        return self._end_failed(
            "; ".join((reason, *(_restart_unit(self.runner, self.step, name) for name in units_up)))
        )

    def _end_still_starting(self, outcome: Outcome) -> Outcome:
        return replace(self._end(StepStatus.FAILED, Verdict.STILL_STARTING, outcome.reason), still_starting=True)

    def _end_failed(self, reason: str) -> Outcome:
        return self._end(StepStatus.FAILED, Verdict.NOT_FIXED, reason)

    def _end(self, status: StepStatus, verdict: Verdict, reason: str) -> Outcome:
        cause = {"found": str(self.failed_check.verdict)} if self.failed_check is not None else {}
        evidence = {"rounds": self.rounds, **cause}
        return Outcome(self.step.step_id, self.step.type_name, status, verdict, reason, evidence=evidence)


def find_certain_refusal(runner: StepRunner, fixes: Sequence[Step[Any]]) -> str:
    """Return why a fix would certainly be refused, or an empty text. Each is checked as if those before it were done.

    Only fixes that change something and would run are checked. Raises HostError.
    """
    view = PredictedHost(runner.host)
    for fix in fixes:
        try:
            ready = runner.prepare(fix)
        except RunbookError as error:
            return f"{fix.type_name} would fail: {error.message}"
        if ready is None or ready.only_reads() or ready.remedy() is not None:
            continue
        finding = check_once(ready, view, runner.waiter, runner.state)
        if finding.state is FindingState.FAILS and fix.on_failure == "abort":
            return f"{fix.type_name} would fail: {finding.reason}"
        view.assume_done(ready)
    return ""


def _is_change_by_another(outcome: Outcome) -> bool:
    """True if another requester acts on the unit, or has masked it: its change is not overridden."""
    return outcome.verdict in (Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED, Verdict.UNIT_MASKED)


def _restart_unit(runner: StepRunner, step: Step[Any], name: str) -> str:
    """Start a unit if the failed fix of a step has stopped it. Return its state afterwards."""
    deadline = Deadline.after(runner.host.clock, RESTART_TIMEOUT)
    wait = LongWait(runner.events, step, f"waiting for {name} to start", deadline)
    ref = None
    while True:
        try:
            unit = runner.host.unit(name)
            if ref is None and unit.is_untracked:
                return describe_untracked(unit)  # It runs, and a start would add a second process.
            if ref is None and unit.active_state not in UP_OR_STARTING:
                runner.events.emit(UnitStartedAgain(unit=name))
                # It was up before the fix, which may have used up its start limit.
                runner.host.reset_failed(name)
                runner.state.cleared[name] = runner.host.clock.now()
                ref = runner.host.enqueue_job(JobVerb.START, name)
                wait.report()
            if ref is None or runner.host.job(ref) is not None or deadline.expired:
                unit = runner.host.unit(name)
                return f"{unit.name} is {unit.describe()}"
            wait.report_if_due()
            runner.waiter.wait(Wake(units=frozenset({name})), deadline)
        except (BusLost, BusTimeout) as error:
            # A systemd that is busy for a while must not be the reason why the unit stays down.
            if deadline.expired:
                return f"{name} could not be started again: {error.message}"
            runner.waiter.wait(Wake(within=BUS_RETRY_INTERVAL), deadline)
        except HostError as error:
            return f"{name} could not be started again: {error.message}"
