"""Begins a run, or goes on with one: its record, its events, and what must be known before anything is touched."""

from __future__ import annotations

import getpass
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runbook.engine import past as records
from runbook.engine import record
from runbook.engine.boot import taken
from runbook.engine.closing import again
from runbook.engine.done import BY_OPERATOR, Done
from runbook.engine.events import MASK, Events, Sink
from runbook.engine.lock import Locker, Locks, names_of
from runbook.engine.outcome import Outcome
from runbook.engine.past import ABANDONED, SUPERSEDED, Past
from runbook.engine.printed import Printed
from runbook.engine.record import Header, Writer
from runbook.engine.rollback_plan import steps_of
from runbook.engine.runner import RunEnd, Runner
from runbook.errors import HostError, NotBegun, UsageError
from runbook.host.ports import Host, HostView, Waiter
from runbook.memory import RunState
from runbook.model import Event, Impact, StepStatus, SystemClock
from runbook.step import Runbook


@dataclass(frozen=True)
class Order:
    """What was asked on the command line. `env` is what this program was started with."""

    scope: str
    sets: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    fail_on_remediation: bool = False
    notices: tuple[str, ...] = ()
    version: str = ""
    lock_wait: float = 0.0

    @property
    def user(self) -> str:
        """The person who gave it."""
        return self.env.get("SUDO_USER") or getpass.getuser()


def begin(book: Runbook, order: Order, host: Host, waiter: Waiter, sinks: Iterable[Sink]) -> RunEnd:
    """Carry a runbook out from its beginning. Raises NotBegun, Locked, and Interrupted while it waits for a lock."""
    clock = SystemClock()
    sinks = tuple(sinks)
    with ExitStack() as held:
        units = names_of(host, book.unit_names())
        locks = _locks(units, book, order, host, waiter, sinks, held)
        _nothing_beside(units, host)
        kept = record.create(clock.now())
        locks.tell(kept.id, order.user)
        secrets = secrets_of(book, order.env)
        kept.begin(_header(book, order, kept.id, clock.now(), secrets), book.text)
        events = _events(kept, sinks, secrets, held)
        records.prune(clock.now())
        state = RunState(kept.id, book.folder, book.env, kept.outputs)
        runner = Runner(book, host, waiter, events, state, order.fail_on_remediation, order.notices)
        runner.on_begun = lambda: _supersede(units, events.run)
        return runner.run()


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
        locks = _locks(units, book, order, host, waiter, sinks, held)
        past = records.find(past.id)  # Whoever had the lock may have superseded it.
        resumable(past)
        _nothing_beside(units, host, past.id)
        locks.tell(past.id, order.user)
        events = _events(past.record, sinks, secrets_of(book, order.env), held)
        if past.again().events != past.events:
            raise NotBegun(f"cannot resume {past.id}: somebody else has gone on with it in this moment")
        state = RunState(past.id, book.folder, book.env, past.record.outputs)
        decided = _decided(past, book, said)
        before = (*past.events, *decided)
        done = _done(past, before)
        try:
            unknown = _unknown(book, done, before, host, state) or _withheld(book, done)
            done.taken = taken(host, (*book.walk(), *steps_of(book, before)), done, record.boot_id())
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
        runner.on_begun = lambda: _supersede(units, past.id, until=past.header.began)
        return runner.run()


def abandon(past: Past) -> None:
    """Give a run up for good. Raises NotBegun where it is under way, or needs no giving up."""
    resumable(past)
    with ExitStack() as held:
        _events(past.record, (), (), held).emit(ABANDONED)


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


def secrets_of(book: Runbook, env: Mapping[str, str]) -> tuple[str, ...]:
    """Give the values that must show nowhere, the longest first: one may be a part of another."""
    return tuple(sorted(filter(None, (env.get(name, "") for name in book.secrets)), key=len, reverse=True))


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


def _header(book: Runbook, order: Order, name: str, now: float, secrets: tuple[str, ...]) -> Header:
    hide = Events(name, SystemClock(), (), secrets).masked
    used = set(re.findall(r"\benv\.(\w+)", book.text)) & order.env.keys()
    sets = {key: hide(value) for key, value in order.sets.items()}
    env = {key: hide(order.env[key]) for key in sorted(used)}
    withheld = [key for key, value in {**sets, **env}.items() if MASK in value]
    named = [key for key in book.secrets if key in order.env]
    return Header(
        id=name,
        file=book.path if book.path == "-" else str(Path(book.path).absolute()),
        cwd=str(book.folder),
        scope=order.scope,
        user=order.user,
        began=now,
        boot=record.boot_id(),
        version=order.version,
        sets=sets,
        env={key: value for key, value in env.items() if MASK not in value},
        withheld=tuple(dict.fromkeys((*withheld, *named))),
        fail_on_remediation=order.fail_on_remediation,
    )


def _events(kept: record.Record, sinks: Iterable[Sink], secrets: tuple[str, ...], held: ExitStack) -> Events:
    """Make the stream of a run's events: each is on disk before anybody else hears of it."""

    def lost(why: str) -> None:
        events.emit("notice", text=why)

    writer = Writer(kept, lost)
    held.callback(writer.close)
    events = Events(kept.id, SystemClock(), (), secrets)
    printed = Printed(kept.outputs, events.forms)
    printed.mask("")  # What a command printed whose end an earlier part of this run did not see.
    events.sinks = (printed, writer, *sinks)
    return events


def _locks(
    units: Iterable[str],
    book: Runbook,
    order: Order,
    host: Host,
    waiter: Waiter,
    sinks: tuple[Sink, ...],
    held: ExitStack,
) -> Locks:
    """Take the locks of all units of a runbook."""

    def told(text: str) -> None:
        # There is no run yet, and no record: only those who watch are told.
        for sink in sinks:
            sink(Event(SystemClock().now(), "", "notice", {"text": text}))

    locker = Locker(order.scope, host, waiter, order.lock_wait, told)
    try:
        return held.enter_context(locker.take(units))
    except NotBegun as error:
        if any(step.impact_here() is not Impact.READ_ONLY for step in book.walk()):
            raise
        told(f"{error.message}; nothing is changed, so the run needs no lock")
        return Locks()


def _nothing_beside(units: Iterable[str], host: HostView, but: str = "") -> None:
    """Raise NotBegun where a command of an earlier run, which died, still works on one of the units."""
    try:
        running = host.running_commands()
    except HostError as error:
        raise NotBegun(f"cannot begin: {error.message}", hint=error.hint) from error
    for unit in running:
        name = records.ID.search(unit)
        past = next((one for one in records.runs() if name and one.id == name[0] != but), None)
        if past is None or not (shared := sorted({*units}.intersection(past.units))):
            continue
        goes_on = f"runbook resume {past.id} waits for it and goes on; " if past.unfinished else ""
        raise NotBegun(
            f"cannot begin: a command of run {past.id}, which was cut short, still works on {shared[0]} in {unit}",
            hint=f"{goes_on}systemctl {'--user ' if past.header.scope == 'user' else ''}stop {unit} ends it",
        )


def _supersede(units: Iterable[str], by: str, until: float = math.inf) -> Iterator[str]:
    """Close the runs that began before `until`, were cut short, and acted on a unit that this one acts on.

    Says of each what became of it.
    """
    for past in records.runs():
        if past.id == by or past.header.began > until:
            continue
        if past.unfinished and (shared := sorted({*units}.intersection(past.units))):
            stood = past.status.replace("-", " ")
            try:
                with ExitStack() as held:
                    _events(past.record, (), (), held).emit(SUPERSEDED, by=by, unit=shared[0])
            except NotBegun as error:
                # Somebody else goes on with it by now, or its folder is broken: for them to see, when they resume it.
                yield f"{past.id}, which acted on {shared[0]} too, is not closed: {error.message}"
            else:
                yield (
                    f"run {past.id}, which acted on {shared[0]} too, was {stood}: this run takes its place, and it can"
                    f" be resumed no more; runbook show {past.id} tells how far it had come"
                )


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
