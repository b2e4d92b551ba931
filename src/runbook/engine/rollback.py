"""Takes the updates of a failed run back, last first, and proves that the earlier version serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runbook.engine.execution.events import Events
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR
from runbook.engine.rollback_plan import Plan, updates_that_ran
from runbook.errors import HostError
from runbook.host.facts import DOWN, ActiveState, Unit
from runbook.host.interface import Host, HostView
from runbook.host.requesters import last_stop, somebody
from runbook.model import Event, Impact, StepStatus, Verdict
from runbook.spec.state import RunState
from runbook.spec.step import Runbook, Step

BY_ITSELF = ("reload", "stop")
"""The types of steps that end with `unit-changed` where the unit came up again, and nobody stopped it."""


class Carrier(Protocol):
    """What carries single steps out: the runner."""

    host: Host
    state: RunState
    events: Events
    before: tuple[Event, ...]
    changed: bool

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with all its tries, and tell how it ended."""


@dataclass(frozen=True)
class Undone:
    """How a roll back ended: at the step `broken`, or well. `told` says of each update where it stands now.

    `reason` is how it ended, `steps` are those of the roll back.
    """

    reason: str
    told: str
    steps: Sequence[Step[Any]] = ()
    broken: Outcome | None = None


def roll_back(carrier: Carrier, book: Runbook, failed: Outcome) -> Undone | None:
    """Roll back what the runbook's updates did, if it is to be; None where no update ran, or it is off."""
    events = (*carrier.before, *carrier.events.seen)
    ran = updates_that_ran(book, events)
    # A list may take back whatever the steps did; `auto` knows how to take updates back.
    nothing_done = not carrier.changed if isinstance(book.rollback, tuple) else not ran
    if book.rollback == "off" or nothing_done:
        return None
    if all(event.event != "rollback-started" for event in events):
        if left := _why_not(carrier, book, events, failed):
            return Undone(left, left, broken=failed)
        updates = [{"id": id_, **ran[id_]} for id_ in ran]
        carrier.events.emit("rollback-started", failed=failed.id, updates=updates)
    return _carried_out(carrier, book, failed, events)


def _carried_out(carrier: Carrier, book: Runbook, failed: Outcome, events: Sequence[Event]) -> Undone:
    """Carry out the steps of a roll back. How it ends is never taken on trust."""
    ran = updates_that_ran(book, events)
    plan = Plan.of(book, events)
    outcomes: dict[str, Outcome] = {}
    proved = False
    for text in plan.doubts:
        carrier.events.emit("notice", text=text)
    for step in plan.steps:
        if (proved and step in plan.instead) or _needless(step, plan, carrier.host):
            continue
        outcome = outcomes[str(step.id)] = carrier.step(step)
        if outcome.left_alone or (outcome.failed and step.on_failure == "abort"):
            how = "the roll back waits" if outcome.left_alone else "and the roll back failed"
            why = f"{how} at {outcome.id}: {outcome.reason}"
            return Undone(why, plan.told(ran, outcomes), plan.steps, outcome)
        proved = proved or _proves(outcome, step, book)
    told = plan.told(ran, outcomes)
    if not proved:
        why = "nothing in the runbook tells whether the earlier version serves; a step that reads, behind them, would"
        return Undone(f"{told}, but {why}", told, plan.steps, failed)
    return Undone(f"rolled back: {told}", told, plan.steps)


def _needless(step: Step[Any], plan: Plan, host: HostView) -> bool:
    """Whether a unit need not be stopped for its sockets: they are up."""
    sockets = plan.only_down.get(str(step.id), ())
    try:
        return bool(sockets) and all(host.unit(name).active_state not in DOWN for name in sockets)
    except HostError:
        return False


def _why_not(carrier: Carrier, book: Runbook, events: Sequence[Event], failed: Outcome) -> str:
    """Say why a roll back is not even begun; or nothing."""
    if unit := _stopped_by_somebody(carrier.host, book, failed):
        who = somebody(last_stop(unit.asked))
        return f"{unit.name} was stopped by {who}, which is not overridden, so nothing was rolled back"
    if working := _still_works(carrier):
        return f"the command in {working} could not be stopped, so nothing was rolled back beside it"
    if not Plan.of(book, events).steps:
        return f"there was no version before {', '.join(updates_that_ran(book, events))}, so nothing was undone"
    return ""


def _still_works(carrier: Carrier) -> str:
    """Name the unit of a command of this run that goes on: two that swap the same files leave neither version."""
    try:
        return next((unit for unit in carrier.host.running_commands() if carrier.state.id in unit), "")
    except HostError:
        return ""


def _stopped_by_somebody(host: Host, book: Runbook, failed: Outcome) -> Unit | None:
    """Give the unit that is down because somebody else wants it so, if that is why the run failed.

    A version that ends by itself is no such unit, also where somebody else had started or reloaded it before.
    """
    verdict = failed.evidence.get("found", failed.verdict)
    if verdict not in (Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED):
        return None
    step = next((step for step in book.walk() if step.id == failed.id), None)
    if step is None or (verdict == Verdict.UNIT_CHANGED and step.kind in BY_ITSELF):
        return None
    names = [name for one in step.walk() for name in one.units()]
    try:
        units = [host.unit(name) for name in dict.fromkeys(names)]
    except HostError:
        return None
    canceled = verdict == Verdict.JOB_CANCELED
    return next((unit for unit in units if _stopped(unit, canceled=canceled)), None)


def _stopped(unit: Unit, *, canceled: bool) -> bool:
    """Whether it is down, or on its way there, by a stop of somebody else's; `canceled`: a job took the run's place."""
    if (stop := last_stop(unit.asked)) and stop.own and not any(one.stops and not one.own for one in unit.asked):
        return False
    if unit.active_state is ActiveState.DEACTIVATING:
        return canceled or unit.job_type == "stop"
    return unit.active_state is ActiveState.INACTIVE or (canceled and unit.active_state in DOWN)


def _proves(outcome: Outcome, step: Step[Any], book: Runbook) -> bool:
    """Whether something was looked at and held, or the operator vouches for it.

    Of a runbook without a unit nothing serves: which version is there is all that can be proved.
    """
    reads = step.impact_here() is Impact.READ_ONLY or step.remedy() is not None
    if not reads and not ("from" in step.offers and not book.unit_names()):
        return False
    held = outcome.status in (StepStatus.OK, StepStatus.CHANGED, StepStatus.REMEDIATED)
    return held or bool(outcome.evidence.get(BY_OPERATOR))
