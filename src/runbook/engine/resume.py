"""What a boot takes of what a run had done: files outlast it, a unit that was started or stopped need not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from runbook.engine.execution.events import MASK, Sink
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR, Done
from runbook.engine.launch import Order, open_events, refuse_running_commands, secrets_of, supersede, take_locks
from runbook.engine.rollback_plan import steps_of
from runbook.engine.runner import RunEnd, Runner
from runbook.engine.summary import again
from runbook.errors import HostError, NotBegun, UsageError
from runbook.host.facts import DOWN
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import Event, StepStatus, SystemClock
from runbook.records import history as records
from runbook.records import store
from runbook.records.history import ABANDONED, SUPERSEDED, Past
from runbook.records.lock import names_of
from runbook.spec.state import RunState
from runbook.spec.step import Runbook, Step


def taken(view: HostView, steps: Iterable[Step[Any]], done: Done, boot: str) -> dict[str, str]:
    """Say, for steps that ended on an earlier boot, what of it this one has taken. Raises HostError.

    All that was done counts, and all that was begun: where one step started a unit and a later one stopped it, it is to
    be down. What failed, or was passed over by the operator, is not done again, but what it was to leave counts too.
    """
    known = {str(step.id): step for step in steps}
    held = {name for name, outcome in done.finished.items() if outcome.status in (StepStatus.OK, StepStatus.CHANGED)}
    tried = {name for name, outcome in done.finished.items() if outcome.failed} | done.passed_over
    names = [name for name in done.finished if name in held | tried]
    begun = [known[name] for name in (*names, *(done.acted - done.finished.keys())) if name in known]
    found: dict[str, str] = {}
    for at, step in enumerate(begun):
        name = str(step.id)
        if name in held and done.boots.get(name, boot) != boot and done.kept(step):
            said = [why for unit in step.units() if (why := _taken(view, unit, begun[at:]))]
            found |= {name: "; ".join(said)} if said else {}
    return found


def _taken(view: HostView, name: str, steps: list[Step[Any]]) -> str:
    """Say that a unit is not what the first of these steps made of it, and what all of them leave."""
    unit = view.unit(name)
    made = steps[0].leaves(unit)
    left = made
    for step in steps[1:]:
        if unit.name in {view.unit(one).name for one in step.units()}:
            left = step.leaves(left)
    is_down, was_down, should = (one.active_state in DOWN for one in (unit, made, left))
    if is_down == was_down or was_down != should:
        return ""
    if is_down and unit.inactive_enter_monotonic:
        return ""  # It has run since then, and failed, or somebody stopped it: for the checks to judge.
    return f"{unit.name} is {unit.describe()} since the machine was booted"


@dataclass(frozen=True)
class Resumption:
    """What an operator says of the steps of a run that is gone on with."""

    rerun: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


def go_on(
    past: Past, book: Runbook, order: Order, said: Resumption, host: Host, waiter: Waiter, sinks: Iterable[Sink]
) -> RunEnd:
    """Go on with a run that was cut short or left alone. Raises as `begin` does, and NotBegun where it cannot be."""
    resumable(past)
    sinks = tuple(sinks)
    with ExitStack() as held:
        units = names_of(host, book.unit_names())
        locks = take_locks(units, book, order, host, waiter, sinks, held)
        past = records.find(past.id)  # Whoever had the lock may have superseded it.
        resumable(past)
        refuse_running_commands(units, host, past.id)
        locks.tell(past.id, order.user)
        events = open_events(past.record, sinks, secrets_of(book, order.env), held)
        if past.again().events != past.events:
            raise NotBegun(f"cannot resume {past.id}: somebody else has gone on with it in this moment")
        state = RunState(past.id, book.folder, book.env, past.record.outputs)
        decided = _decided(past, book, said)
        before = (*past.events, *decided)
        done = _done(past, before)
        try:
            unknown = _unknown(book, done, before, host, state) or _withheld(book, done)
            done.taken = taken(host, (*book.walk(), *steps_of(book, before)), done, store.boot_id())
        except HostError as error:
            raise NotBegun(f"cannot resume {past.id}: {error.message}", hint=error.hint) from error
        except ValueError as error:
            why = f"its record is of another version of this program, {past.header.version}"
            raise NotBegun(f"cannot resume {past.id}: {why}", hint="runbook apply begins anew") from error
        if unknown:
            name, why = unknown
            raise NotBegun(
                f"cannot resume {past.id}: {why}",
                hint=f"look what it left, then: {again(past.id)} --rerun {name}, or --skip {name}",
            )
        for event in decided:
            events.emit(event.event, **event.data)
        runner = Runner(book, host, waiter, events, state, order.fail_on_remediation, order.notices, done, before)
        # Its program may have been killed before it had closed all that it took the place of.
        runner.on_begun = lambda: supersede(units, past.id, until=past.header.began)
        return runner.run()


def abandon(past: Past) -> None:
    """Give a run up for good. Raises NotBegun where it is under way, or needs no giving up."""
    resumable(past)
    with ExitStack() as held:
        open_events(past.record, (), (), held).emit(ABANDONED)


def resumable(past: Past) -> None:
    """Raise NotBegun with the reason where a run cannot be gone on with."""
    why = ""
    if past.under_way:
        why = "it is under way"
    elif past.closed is not None and past.closed.event == SUPERSEDED:
        by, unit = (past.closed.data.get(name, "") for name in ("by", "unit"))
        why = f"a later run, {by}, has acted on {unit} since"
    elif past.closed is not None:
        why = "it was abandoned"
    elif past.lost and past.end is None:
        why = f"its record is not whole ({past.lost}): what it did in the end is not known"
    elif past.lost:
        why = f"its record is not whole ({past.lost})"
    elif not past.unfinished:
        why = f"it has ended: {past.status}"
    if why:
        hint = "runbook apply begins anew" if not past.under_way else f"runbook show --follow {past.id} watches it"
        raise NotBegun(f"cannot resume {past.id}: {why}", hint=hint)


def surroundings(past: Past, env: Mapping[str, str]) -> dict[str, str]:
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


def _done(past: Past, before: Iterable[Event]) -> Done:
    """Fold what earlier parts did. Raises NotBegun for a record of another version that cannot be understood."""
    try:
        return Done.of(before, past.header.boot)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotBegun(
            f"cannot resume {past.id}: its record cannot be understood; runbook {past.header.version} wrote it",
            hint="runbook apply begins anew",
        ) from error


def _withheld(book: Runbook, done: Done) -> tuple[str, str] | None:
    """Name a step whose result a later one uses, and which was not kept as it was: a secret stood in it."""
    for name, outcome in done.finished.items():
        for what, text in outcome.told().items():
            if MASK in text and f"steps.{name}.{what}" in book.text:
                return name, f"{name} gave a secret, which was not kept, and a later step uses steps.{name}.{what}"
    return None


def _decided(past: Past, book: Runbook, said: Resumption) -> list[Event]:
    """Make events of what the operator says. Raises UsageError for a step that is not there."""
    known = {str(step.id): step for step in (*book.walk(), *steps_of(book, past.events))}
    for name in (*said.rerun, *said.skip):
        if name not in known:
            raise UsageError(f"no step has the id `{name}`", hint=f"runbook show {past.id} lists them")
    now = SystemClock().now()
    rerun = [Event(now, past.id, "step-rerun", {"id": name}) for name in said.rerun]
    reason = "skipped, as the operator said"
    skipped = [
        Outcome(name, known[name].kind, StepStatus.SKIPPED, None, reason, evidence={BY_OPERATOR: True})
        for name in said.skip
    ]
    return [*rerun, *(Event(now, past.id, "step-finished", outcome.data()) for outcome in skipped)]


def _unknown(book: Runbook, done: Done, before: Iterable[Event], host: Host, state: RunState) -> tuple[str, str] | None:
    """Name a step of which nobody knows how far it came, and say why; None where all is known."""
    for step in (*book.walk(), *steps_of(book, before)):
        name = str(step.id)
        if done.under_way(name) and step.remedy() is None:
            cut = done.peek(name)
            if why := step.take_up(host, cut.memory_for(step, state), stopped=cut.stopped):
                return name, why
    return None
