"""Check; if a check fails, fix, and check again. If a fix would certainly be refused, none begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runbook.engine.execution.attempt import BUS_RETRY_INTERVAL, check_once
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.predicted_host import PredictedHost
from runbook.engine.execution.replay import ResumeState
from runbook.engine.execution.stream import EventStream
from runbook.errors import BusLost, BusTimeout, HostError, RunbookError
from runbook.events import FixStarted, UnitStartedAgain
from runbook.host.facts import UP, ActiveState, JobVerb
from runbook.host.interface import Host, Waiter
from runbook.host.ownership.describe import describe_untracked
from runbook.model import Deadline, FindingState, StepStatus, Verdict, Wake
from runbook.spec.state import RunState
from runbook.spec.step import Remedy, Step

RESTART_TIMEOUT = 60.0  # seconds for starting a unit again after a failed fix
UP_OR_STARTING = (*UP, ActiveState.ACTIVATING)  # the states of a unit that is up or starting


class StepRunner(Protocol):
    """The part of the runner that carries out single steps."""

    host: Host
    waiter: Waiter
    events: EventStream
    state: RunState
    resume_state: ResumeState

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with its retries, and return its outcome."""

    def prepare(self, step: Step[Any]) -> Step[Any] | None:
        """Return a step with its templates filled as far as possible; None if its `when` is false or not known."""


def remediate(runner: StepRunner, step: Step[Any], remedy: Remedy) -> Outcome:
    """Carry out the checks and fixes of a step, at most `rounds` times, and return its outcome."""

    def ended(status: StepStatus, verdict: Verdict, reason: str, *, rounds: int, left_alone: bool = False) -> Outcome:
        assert step.id is not None
        facts = {"rounds": rounds, **({"found": str(wrong.verdict)} if wrong is not None else {})}
        return Outcome(step.id, step.kind, status, verdict, reason, evidence=facts, still_starting=left_alone)

    assert step.id is not None
    begun = runner.resume_state.take_fix_round(step.id)
    because = begun.because if begun else ""
    wrong = None if begun else _find_first_failure(runner, remedy.checks)
    if begun is None and wrong is None:
        return ended(StepStatus.OK, Verdict.HOLDS, "every check holds; nothing was changed", rounds=0)
    if wrong is not None and wrong.still_starting:
        return ended(StepStatus.FAILED, Verdict.STILL_STARTING, wrong.reason, rounds=0, left_alone=True)
    if wrong is not None and _is_foreign_change(wrong):
        reason = f"no fix was begun, for something else acts on the unit: {wrong.reason}"
        return ended(StepStatus.FAILED, Verdict.NOT_FIXED, reason, rounds=0)
    try:
        # A resumed round continues: its refusals were checked when it began.
        refusal = "" if begun else find_certain_refusal(runner, remedy.fixes)
        up_before = [*begun.units_up] if begun else _find_units_up(runner, remedy.fixes)
    except HostError as error:
        refusal = f"what the fix would find is not known: {error.message}"
    if refusal:
        return ended(StepStatus.FAILED, Verdict.NOT_FIXED, f"no fix was begun: {refusal}", rounds=0)
    for number in range(begun.number if begun else 1, remedy.rounds + 1):
        if begun is None or number > begun.number:
            assert wrong is not None
            because = str(wrong.verdict)
            runner.resume_state.begin_fix_round(step.id)
            runner.events.emit(
                FixStarted(id=step.id, round=number, rounds=remedy.rounds, because=because, up=up_before)
            )
        broken = _find_first_failure(runner, remedy.fixes)
        if broken is not None and broken.still_starting:
            return ended(StepStatus.FAILED, Verdict.STILL_STARTING, broken.reason, rounds=number, left_alone=True)
        if broken is not None:
            if _is_foreign_change(broken):
                wrong = broken  # This is the reason of the end, whatever the reason of the fix was.
            now = "" if _is_foreign_change(broken) else _restart_units(runner, up_before)
            reason = f"{broken.kind}: {broken.reason}; {now}" if now else f"{broken.kind}: {broken.reason}"
            return ended(StepStatus.FAILED, Verdict.NOT_FIXED, reason, rounds=number)
        wrong = _find_first_failure(runner, remedy.checks)
        if wrong is None:
            return ended(StepStatus.REMEDIATED, Verdict.FIXED, f"{because} was fixed", rounds=number)
        if wrong.still_starting:
            return ended(StepStatus.FAILED, Verdict.STILL_STARTING, wrong.reason, rounds=number, left_alone=True)
    assert wrong is not None
    tried = "once" if remedy.rounds == 1 else f"{remedy.rounds} times"
    return ended(
        StepStatus.FAILED,
        Verdict.NOT_FIXED,
        f"fixed {tried}, and {wrong.kind} still finds {wrong.verdict}: {wrong.reason}",
        rounds=remedy.rounds,
    )


def find_certain_refusal(runner: StepRunner, fixes: Sequence[Step[Any]]) -> str:
    """Return why a fix would certainly be refused, or an empty text. Each is checked as if those before it were done.

    Only fixes that change something and would run are checked. Raises HostError.
    """
    names = dict.fromkeys(name for fix in fixes for name in fix.units())
    if any(runner.host.unit(name).need_daemon_reload for name in names):
        # A start uses the files as they are now: a mistake in them must be found before anything is stopped.
        runner.host.daemon_reload()
    view = PredictedHost(runner.host)
    for fix in fixes:
        try:
            ready = runner.prepare(fix)
        except RunbookError as error:
            return f"{fix.kind} would fail: {error.message}"
        if ready is None or ready.only_reads() or ready.remedy() is not None:
            continue
        finding = check_once(ready, view, runner.waiter, runner.state)
        if finding.state is FindingState.FAILS and fix.on_failure == "abort":
            return f"{fix.kind} would fail: {finding.reason}"
        view.assume_done(ready)
    return ""


def _find_first_failure(runner: StepRunner, steps: Sequence[Step[Any]]) -> Outcome | None:
    for step in steps:
        outcome = runner.step(step)
        if outcome.still_starting or (outcome.failed and step.on_failure == "abort"):
            return outcome
    return None


def _is_foreign_change(outcome: Outcome) -> bool:
    """True if another requester acts on the unit: its change is not overridden."""
    return outcome.verdict in (Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED, Verdict.UNIT_MASKED)


def _find_units_up(runner: StepRunner, fixes: Sequence[Step[Any]]) -> list[str]:
    names = dict.fromkeys(name for fix in fixes for name in fix.units())
    return [name for name in names if runner.host.unit(name).active_state in UP_OR_STARTING]


def _restart_units(runner: StepRunner, units: list[str]) -> str:
    """Start the units that the failed fix stopped. Return what is running now."""
    return "; ".join(_restart_unit(runner, name) for name in units)


def _restart_unit(runner: StepRunner, name: str) -> str:
    deadline = Deadline.after(runner.host.clock, RESTART_TIMEOUT)
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
            if ref is None or runner.host.job(ref) is not None or deadline.expired:
                unit = runner.host.unit(name)
                return f"{unit.name} is {unit.describe()}"
            runner.waiter.wait(Wake(units=frozenset({name})), deadline)
        except (BusLost, BusTimeout) as error:
            # A systemd that is busy for a while must not be the reason why the unit stays down.
            if deadline.expired:
                return f"{name} could not be started again: {error.message}"
            runner.waiter.wait(Wake(within=BUS_RETRY_INTERVAL), deadline)
        except HostError as error:
            return f"{name} could not be started again: {error.message}"
