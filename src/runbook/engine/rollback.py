"""Takes the updates of a failed run back, last first, and proves that the earlier version serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR
from runbook.engine.execution.stream import EventStream
from runbook.engine.rollback_plan import RollbackPlan, find_updates_that_ran
from runbook.errors import HostError
from runbook.events import Event, EventName, Notice, RollbackStarted
from runbook.host.facts import DOWN, ActiveState, JobVerb, Unit
from runbook.host.interface import Host, HostView
from runbook.host.requesters import describe_requester, find_last_stop
from runbook.model import StepStatus, Verdict
from runbook.spec.state import RunState
from runbook.spec.step import ReplacesVersion, Runbook, Step


class StepRunner(Protocol):
    """What carries single steps out: the runner."""

    host: Host
    state: RunState
    events: EventStream
    earlier_events: tuple[Event, ...]
    changed: bool

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with all its tries, and tell how it ended."""


@dataclass(frozen=True)
class RollbackResult:
    """How a roll back ended: at the step `broken`, or well. `told` says of each update where it stands now.

    `reason` is how it ended, `steps` are those of the roll back.
    """

    reason: str
    updates_now: str
    steps: Sequence[Step[Any]] = ()
    failed_step: Outcome | None = None


def roll_back(runner: StepRunner, book: Runbook, failed: Outcome) -> RollbackResult | None:
    """Roll back what the runbook's updates did, if it is to be; None where no update ran, or it is off."""
    events = (*runner.earlier_events, *runner.events.emitted)
    ran = find_updates_that_ran(book, events)
    # A list may take back whatever the steps did; `auto` knows how to take updates back.
    nothing_done = not runner.changed if isinstance(book.rollback, tuple) else not ran
    if book.rollback == "off" or nothing_done:
        return None
    if all(event.event != EventName.ROLLBACK_STARTED for event in events):
        if left := _find_obstacle(runner, book, events, failed):
            return RollbackResult(left, left, failed_step=failed)
        updates = [{"id": id_, **ran[id_]} for id_ in ran]
        runner.events.emit(RollbackStarted(failed=failed.id, updates=updates))
    return _run_plan(runner, book, failed, events)


def _run_plan(runner: StepRunner, book: Runbook, failed: Outcome, events: Sequence[Event]) -> RollbackResult:
    """Carry out the steps of a roll back. How it ends is never taken on trust."""
    ran = find_updates_that_ran(book, events)
    plan = RollbackPlan.build(book, events)
    outcomes: dict[str, Outcome] = {}
    proved = False
    for text in plan.warnings:
        runner.events.emit(Notice(text=text))
    for step in plan.steps:
        if (proved and step in plan.fallback_checks) or _is_unneeded(step, plan, runner.host):
            continue
        outcome = outcomes[str(step.id)] = runner.step(step)
        if outcome.still_starting or (outcome.failed and step.on_failure == "abort"):
            how = "the roll back waits" if outcome.still_starting else "and the roll back failed"
            why = f"{how} at {outcome.id}: {outcome.reason}"
            return RollbackResult(why, plan.describe_updates(ran, outcomes), plan.steps, outcome)
        proved = proved or _proves(outcome, step, book)
    told = plan.describe_updates(ran, outcomes)
    if not proved:
        why = "nothing in the runbook tells whether the earlier version serves; a step that reads, behind them, would"
        return RollbackResult(f"{told}, but {why}", told, plan.steps, failed)
    return RollbackResult(f"rolled back: {told}", told, plan.steps)


def _is_unneeded(step: Step[Any], plan: RollbackPlan, host: HostView) -> bool:
    """Whether a unit need not be stopped for its sockets: they are up."""
    sockets = plan.only_if_down.get(str(step.id), ())
    try:
        return bool(sockets) and all(host.unit(name).active_state not in DOWN for name in sockets)
    except HostError:
        return False


def _find_obstacle(runner: StepRunner, book: Runbook, events: Sequence[Event], failed: Outcome) -> str:
    """Say why a roll back is not even begun; or nothing."""
    if unit := _find_foreign_stop(runner.host, book, failed):
        who = describe_requester(find_last_stop(unit.job_requests))
        return f"{unit.name} was stopped by {who}, which is not overridden, so nothing was rolled back"
    if working := _find_running_command(runner):
        return f"the command in {working} could not be stopped, so nothing was rolled back beside it"
    if not RollbackPlan.build(book, events).steps:
        return f"there was no version before {', '.join(find_updates_that_ran(book, events))}, so nothing was undone"
    return ""


def _find_running_command(runner: StepRunner) -> str:
    """Name the unit of a command of this run that goes on: two that swap the same files leave neither version."""
    try:
        return next((unit for unit in runner.host.list_running_commands() if runner.state.id in unit), "")
    except HostError:
        return ""


def _find_foreign_stop(host: Host, book: Runbook, failed: Outcome) -> Unit | None:
    """Give the unit that is down because somebody else wants it so, if that is why the run failed.

    A version that ends by itself is no such unit, also where somebody else had started or reloaded it before.
    """
    verdict = failed.evidence.get("found", failed.verdict)
    if verdict not in (Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED):
        return None
    step = next((step for step in book.walk() if step.id == failed.id), None)
    if step is None:
        return None
    if verdict == Verdict.UNIT_CHANGED and not step.only_reads() and step.remedy() is None:
        return None  # A step that acts ends so if the unit came up again: it was not stopped.
    names = [name for one in step.walk() for name in one.units()]
    try:
        units = [host.unit(name) for name in dict.fromkeys(names)]
    except HostError:
        return None
    canceled = verdict == Verdict.JOB_CANCELED
    return next((unit for unit in units if _is_foreign_stop(unit, canceled=canceled)), None)


def _is_foreign_stop(unit: Unit, *, canceled: bool) -> bool:
    """Whether it is down, or on its way there, by a stop of somebody else's; `canceled`: a job took the run's place."""
    if (
        (stop := find_last_stop(unit.job_requests))
        and stop.is_own
        and not any(one.is_stop and not one.is_own for one in unit.job_requests)
    ):
        return False
    if unit.active_state is ActiveState.DEACTIVATING:
        return canceled or unit.job_type == JobVerb.STOP
    return unit.active_state is ActiveState.INACTIVE or (canceled and unit.active_state in DOWN)


def _proves(outcome: Outcome, step: Step[Any], book: Runbook) -> bool:
    """Whether something was looked at and held, or the operator vouches for it.

    Of a runbook without a unit nothing serves: which version is there is all that can be proved.
    """
    reads = step.only_reads() or step.remedy() is not None
    if not reads and not (isinstance(step, ReplacesVersion) and not book.unit_names()):
        return False
    held = outcome.status in (StepStatus.OK, StepStatus.CHANGED, StepStatus.REMEDIATED)
    return held or bool(outcome.evidence.get(BY_OPERATOR))
