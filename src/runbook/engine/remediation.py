"""Check; where a check fails, fix, and check again. No half a fix: what can be foreseen is foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runbook.engine.events import Events
from runbook.engine.glance import glance
from runbook.engine.outcome import Outcome
from runbook.errors import HostError
from runbook.host.facts import ActiveState, JobVerb
from runbook.host.ports import Host, Waiter
from runbook.model import Deadline, Impact, State, StepStatus, Verdict, Wake
from runbook.step import Remedy, RunState, Step

START_AGAIN = 60.0
"""Seconds for a unit that is started again after a fix that failed."""

UP = (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.RELOADING)


class Carrier(Protocol):
    """What carries single steps out: the runner."""

    host: Host
    waiter: Waiter
    events: Events
    state: RunState

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with all its tries, and tell how it ended."""


def remediate(carrier: Carrier, step: Step[Any], remedy: Remedy) -> Outcome:
    """Carry out a step that holds checks and fixes, at most `rounds` times."""

    def ended(status: StepStatus, verdict: Verdict, reason: str, *, rounds: int, left_alone: bool = False) -> Outcome:
        assert step.id is not None
        facts = {"rounds": rounds}
        return Outcome(step.id, step.kind, status, verdict, reason, evidence=facts, left_alone=left_alone)

    wrong = _first_wrong(carrier, remedy.checks)
    if wrong is None:
        return ended(StepStatus.OK, Verdict.HOLDS, "every check holds; nothing was touched", rounds=0)
    if wrong.left_alone:
        return ended(StepStatus.FAILED, Verdict.STILL_STARTING, wrong.reason, rounds=0, left_alone=True)
    refusal = foresee(carrier, remedy.fixes)
    if refusal:
        return ended(StepStatus.FAILED, Verdict.NOT_MENDED, f"{refusal}; nothing was stopped", rounds=0)
    for number in range(1, remedy.rounds + 1):
        carrier.events.emit("fix-started", id=step.id, round=number, rounds=remedy.rounds, because=str(wrong.verdict))
        up_before = _units_up(carrier, remedy.fixes)
        broken = _first_wrong(carrier, remedy.fixes)
        if broken is not None:
            now = _start_again(carrier, up_before)
            reason = f"{broken.kind}: {broken.reason}; {now}" if now else f"{broken.kind}: {broken.reason}"
            return ended(StepStatus.FAILED, Verdict.NOT_MENDED, reason, rounds=number)
        mended_by = wrong
        wrong = _first_wrong(carrier, remedy.checks)
        if wrong is None:
            reason = f"{mended_by.verdict} was mended"
            return ended(StepStatus.REMEDIATED, Verdict.MENDED, reason, rounds=number)
        if wrong.left_alone:
            return ended(StepStatus.FAILED, Verdict.STILL_STARTING, wrong.reason, rounds=number, left_alone=True)
    tried = "once" if remedy.rounds == 1 else f"{remedy.rounds} times"
    return ended(
        StepStatus.FAILED,
        Verdict.NOT_MENDED,
        f"fixed {tried}, and still {wrong.kind}: {wrong.reason}",
        rounds=remedy.rounds,
    )


def foresee(carrier: Carrier, fixes: Sequence[Step[Any]]) -> str:
    """Say which fix is bound to be refused as things stand, or nothing. Only what changes things is looked at."""
    for fix in fixes:
        if fix.impact_here() is not Impact.MUTATING or fix.remedy() is not None:
            continue
        finding = glance(fix, carrier.host, carrier.waiter, carrier.state)
        if finding.state is State.FAILS:
            return f"{fix.kind} would fail: {finding.reason}"
    return ""


def _first_wrong(carrier: Carrier, steps: Sequence[Step[Any]]) -> Outcome | None:
    for step in steps:
        outcome = carrier.step(step)
        if outcome.left_alone or (outcome.failed and step.on_failure == "abort"):
            return outcome
    return None


def _units_up(carrier: Carrier, fixes: Sequence[Step[Any]]) -> list[str]:
    names = dict.fromkeys(name for fix in fixes for name in fix.units())
    return [name for name in names if carrier.host.unit(name).active_state in UP]


def _start_again(carrier: Carrier, units: list[str]) -> str:
    """Start what the broken fix had stopped; say what is running now."""
    said = []
    for name in units:
        try:
            unit = carrier.host.unit(name)
            if unit.active_state not in UP:
                carrier.events.emit("unit-started-again", unit=name)
                ref = carrier.host.begin_job(JobVerb.START, name)
                deadline = Deadline.after(carrier.host.clock, START_AGAIN)
                while carrier.host.job(ref) is None and not deadline.passed:
                    carrier.waiter.wait(Wake(units=frozenset({name})), deadline)
                unit = carrier.host.unit(name)
            said.append(f"{unit.name} is {unit.describe()}")
        except HostError as error:
            said.append(f"{name} could not be started again: {error.message}")
    return "; ".join(said)
