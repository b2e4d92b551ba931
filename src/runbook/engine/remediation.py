"""Check; where a check fails, fix, and check again. No half a fix: what can be foreseen is foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runbook.engine.execution.attempt import BUS_IS_AWAY, glance
from runbook.engine.execution.events import Events
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.predicted_host import Foreseen
from runbook.engine.execution.replay import Done
from runbook.errors import BusLost, BusTimeout, HostError, RunbookError
from runbook.host.facts import UP, ActiveState, JobVerb
from runbook.host.interface import Host, Waiter
from runbook.host.ownership.describe import lost
from runbook.model import Deadline, Impact, State, StepStatus, Verdict, Wake
from runbook.spec.state import RunState
from runbook.spec.step import Remedy, Step

START_AGAIN = 60.0
"""Seconds for a unit that is started again after a fix that failed."""

ON_ITS_WAY = (*UP, ActiveState.ACTIVATING)
"""What a unit reads that is up, or comes up."""


class Carrier(Protocol):
    """What carries single steps out: the runner."""

    host: Host
    waiter: Waiter
    events: Events
    state: RunState
    done: Done

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with all its tries, and tell how it ended."""

    def prepared(self, step: Step[Any]) -> Step[Any] | None:
        """Give a step with its templates filled as far as is known; None if its `when` is false or not known."""


def remediate(carrier: Carrier, step: Step[Any], remedy: Remedy) -> Outcome:
    """Carry out a step that holds checks and fixes, at most `rounds` times."""

    def ended(status: StepStatus, verdict: Verdict, reason: str, *, rounds: int, left_alone: bool = False) -> Outcome:
        assert step.id is not None
        facts = {"rounds": rounds, **({"found": str(wrong.verdict)} if wrong is not None else {})}
        return Outcome(step.id, step.kind, status, verdict, reason, evidence=facts, left_alone=left_alone)

    assert step.id is not None
    begun = carrier.done.round(step.id)
    because = begun.because if begun else ""
    wrong = None if begun else _first_wrong(carrier, remedy.checks)
    if begun is None and wrong is None:
        return ended(StepStatus.OK, Verdict.HOLDS, "every check holds; nothing was touched", rounds=0)
    if wrong is not None and wrong.left_alone:
        return ended(StepStatus.FAILED, Verdict.STILL_STARTING, wrong.reason, rounds=0, left_alone=True)
    if wrong is not None and _somebody_acts(wrong):
        reason = f"no fix was begun, for somebody else acts on the unit: {wrong.reason}"
        return ended(StepStatus.FAILED, Verdict.NOT_MENDED, reason, rounds=0)
    try:
        # What had been begun is gone on with: its refusals were foreseen then.
        refusal = "" if begun else foresee(carrier, remedy.fixes)
        up_before = [*begun.up] if begun else _units_up(carrier, remedy.fixes)
    except HostError as error:
        refusal = f"what the fix would find cannot be seen: {error.message}"
    if refusal:
        return ended(StepStatus.FAILED, Verdict.NOT_MENDED, f"no fix was begun: {refusal}", rounds=0)
    for number in range(begun.number if begun else 1, remedy.rounds + 1):
        if begun is None or number > begun.number:
            assert wrong is not None
            because = str(wrong.verdict)
            carrier.done.new_round(step.id)
            carrier.events.emit(
                "fix-started",
                id=step.id,
                round=number,
                rounds=remedy.rounds,
                because=because,
                up=up_before,
            )
        broken = _first_wrong(carrier, remedy.fixes)
        if broken is not None and broken.left_alone:
            return ended(StepStatus.FAILED, Verdict.STILL_STARTING, broken.reason, rounds=number, left_alone=True)
        if broken is not None:
            if _somebody_acts(broken):
                wrong = broken  # That is what it ends for, whatever it began for.
            now = "" if _somebody_acts(broken) else _start_again(carrier, up_before)
            reason = f"{broken.kind}: {broken.reason}; {now}" if now else f"{broken.kind}: {broken.reason}"
            return ended(StepStatus.FAILED, Verdict.NOT_MENDED, reason, rounds=number)
        wrong = _first_wrong(carrier, remedy.checks)
        if wrong is None:
            return ended(StepStatus.REMEDIATED, Verdict.MENDED, f"{because} was mended", rounds=number)
        if wrong.left_alone:
            return ended(StepStatus.FAILED, Verdict.STILL_STARTING, wrong.reason, rounds=number, left_alone=True)
    assert wrong is not None
    tried = "once" if remedy.rounds == 1 else f"{remedy.rounds} times"
    return ended(
        StepStatus.FAILED,
        Verdict.NOT_MENDED,
        f"fixed {tried}, and {wrong.kind} still finds {wrong.verdict}: {wrong.reason}",
        rounds=remedy.rounds,
    )


def foresee(carrier: Carrier, fixes: Sequence[Step[Any]]) -> str:
    """Say which fix is bound to be refused, or nothing. Each is looked at as if those before it were done.

    Only what changes things is looked at, and only what would run. Raises HostError.
    """
    names = dict.fromkeys(name for fix in fixes for name in fix.units())
    if any(carrier.host.unit(name).need_daemon_reload for name in names):
        # What would be started is what the files say now: better to know that before anything is stopped.
        carrier.host.daemon_reload()
    view = Foreseen(carrier.host)
    for fix in fixes:
        try:
            ready = carrier.prepared(fix)
        except RunbookError as error:
            return f"{fix.kind} would fail: {error.message}"
        if ready is None or ready.impact_here() is not Impact.MUTATING or ready.remedy() is not None:
            continue
        finding = glance(ready, view, carrier.waiter, carrier.state)
        if finding.state is State.FAILS and fix.on_failure == "abort":
            return f"{fix.kind} would fail: {finding.reason}"
        view.after(ready)
    return ""


def _first_wrong(carrier: Carrier, steps: Sequence[Step[Any]]) -> Outcome | None:
    for step in steps:
        outcome = carrier.step(step)
        if outcome.left_alone or (outcome.failed and step.on_failure == "abort"):
            return outcome
    return None


def _somebody_acts(outcome: Outcome) -> bool:
    """Whether somebody else acts on the unit: what they want of it is not undone."""
    return outcome.verdict in (Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED, Verdict.UNIT_MASKED)


def _units_up(carrier: Carrier, fixes: Sequence[Step[Any]]) -> list[str]:
    names = dict.fromkeys(name for fix in fixes for name in fix.units())
    return [name for name in names if carrier.host.unit(name).active_state in ON_ITS_WAY]


def _start_again(carrier: Carrier, units: list[str]) -> str:
    """Start what the broken fix had stopped; say what is running now."""
    return "; ".join(_up_again(carrier, name) for name in units)


def _up_again(carrier: Carrier, name: str) -> str:
    deadline = Deadline.after(carrier.host.clock, START_AGAIN)
    ref = None
    while True:
        try:
            unit = carrier.host.unit(name)
            if ref is None and unit.lost:
                return lost(unit)  # It runs, and a start would put another beside it.
            if ref is None and unit.active_state not in ON_ITS_WAY:
                carrier.events.emit("unit-started-again", unit=name)
                # It was up before the fix, which may have used up its start limit.
                carrier.host.reset_failed(name)
                carrier.state.cleared[name] = carrier.host.clock.now()
                ref = carrier.host.begin_job(JobVerb.START, name)
            if ref is None or carrier.host.job(ref) is not None or deadline.passed:
                unit = carrier.host.unit(name)
                return f"{unit.name} is {unit.describe()}"
            carrier.waiter.wait(Wake(units=frozenset({name})), deadline)
        except (BusLost, BusTimeout) as error:
            # A manager that is busy for a while must not be what leaves the unit down.
            if deadline.passed:
                return f"{name} could not be started again: {error.message}"
            carrier.waiter.wait(Wake(within=BUS_IS_AWAY), deadline)
        except HostError as error:
            return f"{name} could not be started again: {error.message}"
