"""What a boot takes of what a run had done: files outlast it, a unit that was started or stopped need not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR, ResumeState
from runbook.engine.execution.stream import MASK, Sink
from runbook.engine.launch import (
    RunRequest,
    find_secret_values,
    open_events,
    refuse_running_commands,
    supersede,
    take_locks,
)
from runbook.engine.rollback_plan import list_rollback_steps
from runbook.engine.runner import Runner
from runbook.engine.summary import resume_command
from runbook.errors import HostError, NotBegun, UsageError
from runbook.events import Event, Payload, RunAbandoned, RunFinished, RunSuperseded, StepFinished, StepRerun
from runbook.host.facts import DOWN
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import StepStatus, SystemClock
from runbook.records import history as records
from runbook.records import store
from runbook.records.history import RunRecord
from runbook.records.lock import find_canonical_names
from runbook.spec.state import RunState
from runbook.spec.step import Runbook, Step


def find_undone_by_boot(view: HostView, steps: Iterable[Step[Any]], done: ResumeState, boot: str) -> dict[str, str]:
    """Say, for steps that ended on an earlier boot, what of it this one has taken. Raises HostError.

    All that was done counts, and all that was begun: where one step started a unit and a later one stopped it, it is to
    be down. What failed, or was passed over by the operator, is not done again, but what it was to leave counts too.
    """
    known = {str(step.id): step for step in steps}
    held = {name for name, outcome in done.finished.items() if outcome.status in (StepStatus.OK, StepStatus.CHANGED)}
    tried = {name for name, outcome in done.finished.items() if outcome.failed} | done.skipped_by_operator
    names = [name for name in done.finished if name in held | tried]
    begun = [known[name] for name in (*names, *(done.in_progress - done.finished.keys())) if name in known]
    found: dict[str, str] = {}
    for at, step in enumerate(begun):
        name = str(step.id)
        if name in held and done.boot_of_step.get(name, boot) != boot and done.find_kept_outcome(step):
            said = [why for unit in step.units() if (why := _describe_undone_by_boot(view, unit, begun[at:]))]
            found |= {name: "; ".join(said)} if said else {}
    return found


def _describe_undone_by_boot(view: HostView, name: str, steps: list[Step[Any]]) -> str:
    """Say that a unit is not what the first of these steps made of it, and what all of them leave."""
    unit = view.unit(name)
    made = steps[0].predict(unit)
    left = made
    for step in steps[1:]:
        if unit.name in {view.unit(one).name for one in step.units()}:
            left = step.predict(left)
    is_down, was_down, should = (one.active_state in DOWN for one in (unit, made, left))
    if is_down == was_down or was_down != should:
        return ""
    if is_down and unit.inactive_enter_monotonic:
        return ""  # It has run since then, and failed, or somebody stopped it: for the checks to judge.
    return f"{unit.name} is {unit.describe()} since the machine was booted"


@dataclass(frozen=True)
class ResumeOptions:
    """What an operator says of the steps of a run that is gone on with."""

    rerun: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


def resume_run(
    past: RunRecord,
    book: Runbook,
    order: RunRequest,
    said: ResumeOptions,
    host: Host,
    waiter: Waiter,
    sinks: Iterable[Sink],
) -> RunFinished:
    """Go on with a run that was cut short or left alone. Raises as `begin` does, and NotBegun where it cannot be."""
    require_resumable(past)
    sinks = tuple(sinks)
    with ExitStack() as held:
        units = find_canonical_names(host, book.unit_names())
        locks = take_locks(units, book, order, host, waiter, sinks, held)
        past = records.find_run(past.id)  # Whoever had the lock may have superseded it.
        require_resumable(past)
        refuse_running_commands(units, host, past.id)
        locks.write_holder(past.id, order.user)
        events = open_events(past.folder, sinks, find_secret_values(book, order.env), held)
        if past.reload().events != past.events:
            raise NotBegun(f"cannot resume {past.id}: somebody else has gone on with it in this moment")
        state = RunState(past.id, book.folder, book.env, past.folder.outputs)
        decided = _make_operator_events(past, book, said)
        before = (*past.events, *(Event.of(SystemClock().now(), past.id, payload) for payload in decided))
        done = _load_resume_state(past, before)
        try:
            unknown = _find_unknown_step(book, done, before, host, state) or _find_withheld_result(book, done)
            done.undone_by_boot = find_undone_by_boot(
                host, (*book.walk(), *list_rollback_steps(book, before)), done, store.boot_id()
            )
        except HostError as error:
            raise NotBegun(f"cannot resume {past.id}: {error.message}", hint=error.hint) from error
        except ValueError as error:
            why = f"its record is of another version of this program, {past.header.version}"
            raise NotBegun(f"cannot resume {past.id}: {why}", hint="runbook apply begins anew") from error
        if unknown:
            name, why = unknown
            raise NotBegun(
                f"cannot resume {past.id}: {why}",
                hint=f"look what it left, then: {resume_command(past.id)} --rerun {name}, or --skip {name}",
            )
        for payload in decided:
            events.emit(payload)
        runner = Runner(book, host, waiter, events, state, order.fail_on_remediation, order.notices, done, before)
        # Its program may have been killed before it had closed all that it took the place of.
        runner.on_started = lambda: supersede(units, past.id, until=past.header.began)
        return runner.run()


def abandon(past: RunRecord) -> None:
    """Give a run up for good. Raises NotBegun where it is under way, or needs no giving up."""
    require_resumable(past)
    with ExitStack() as held:
        open_events(past.folder, (), (), held).emit(RunAbandoned())


def require_resumable(past: RunRecord) -> None:
    """Raise NotBegun with the reason where a run cannot be gone on with."""
    why = ""
    closing = past.closing_event.payload if past.closing_event is not None else None
    if past.is_running:
        why = "it is under way"
    elif isinstance(closing, RunSuperseded):
        why = f"a later run, {closing.by}, has acted on {closing.unit} since"
    elif closing is not None:
        why = "it was abandoned"
    elif past.incomplete_reason and past.finished_event is None:
        why = f"its record is not whole ({past.incomplete_reason}): what it did in the end is not known"
    elif past.incomplete_reason:
        why = f"its record is not whole ({past.incomplete_reason})"
    elif not past.is_resumable:
        why = f"it has ended: {past.status}"
    if why:
        hint = "runbook apply begins anew" if not past.is_running else f"runbook show --follow {past.id} watches it"
        raise NotBegun(f"cannot resume {past.id}: {why}", hint=hint)


def restore_environment(past: RunRecord, env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment that a run which is gone on with knows: what it was begun with, and its secrets anew.

    Raises NotBegun where a secret is missing.
    """
    for name in past.header.withheld:
        if name in past.header.sets:
            raise NotBegun(
                f"cannot resume {past.id}: --set {name} held a secret, which was not kept",
                hint="runbook apply begins anew",
            )
        if name not in env:
            raise NotBegun(
                f"cannot resume {past.id}: {name} is not set",
                hint="it holds a secret, which was not kept: set it as it was for the run",
            )
    return {**env, **past.header.env}


def _load_resume_state(past: RunRecord, before: Iterable[Event]) -> ResumeState:
    """Fold what earlier parts did. Raises NotBegun for a record of another version that cannot be understood."""
    try:
        return ResumeState.from_events(before, past.header.boot)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotBegun(
            f"cannot resume {past.id}: its record cannot be understood; runbook {past.header.version} wrote it",
            hint="runbook apply begins anew",
        ) from error


def _find_withheld_result(book: Runbook, done: ResumeState) -> tuple[str, str] | None:
    """Name a step whose result a later one uses, and which was not kept as it was: a secret stood in it."""
    for name, outcome in done.finished.items():
        for what, text in outcome.template_facts().items():
            if MASK in text and f"steps.{name}.{what}" in book.text:
                return name, f"{name} gave a secret, which was not kept, and a later step uses steps.{name}.{what}"
    return None


def _make_operator_events(past: RunRecord, book: Runbook, said: ResumeOptions) -> list[Payload]:
    """Return the events for the options of the operator. Raises UsageError if there is no such step."""
    known = {str(step.id): step for step in (*book.walk(), *list_rollback_steps(book, past.events))}
    for name in (*said.rerun, *said.skip):
        if name not in known:
            raise UsageError(f"no step has the id `{name}`", hint=f"runbook show {past.id} lists them")
    reason = "skipped, as the operator said"
    skipped = [
        Outcome(name, known[name].kind, StepStatus.SKIPPED, None, reason, evidence={BY_OPERATOR: True})
        for name in said.skip
    ]
    return [*(StepRerun(id=name) for name in said.rerun), *(StepFinished(**one.facts()) for one in skipped)]


def _find_unknown_step(
    book: Runbook, done: ResumeState, before: Iterable[Event], host: Host, state: RunState
) -> tuple[str, str] | None:
    """Name a step of which nobody knows how far it came, and say why; None where all is known."""
    for step in (*book.walk(), *list_rollback_steps(book, before)):
        name = str(step.id)
        if done.is_in_progress(name) and step.remedy() is None:
            cut = done.peek_partial(name)
            if why := step.resume(host, cut.state_for(step, state), stopped=cut.stopped):
                return name, why
    return None
