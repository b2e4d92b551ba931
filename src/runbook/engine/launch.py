"""Begins a run, or goes on with one: its record, its events, and what must be known before anything is touched."""

from __future__ import annotations

import getpass
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runbook.engine.execution.stream import MASK, EventStream, Sink
from runbook.engine.runner import Runner
from runbook.errors import HostError, NotBegun
from runbook.events import Event, Notice, RunFinished, RunSuperseded
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import SystemClock
from runbook.records import history as records
from runbook.records import store
from runbook.records.lock import Locker, Locks, find_canonical_names
from runbook.records.outputs import OutputMasker
from runbook.records.store import EventWriter, RunHeader
from runbook.spec.state import RunState
from runbook.spec.step import Runbook


@dataclass(frozen=True)
class RunRequest:
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


def start_run(book: Runbook, order: RunRequest, host: Host, waiter: Waiter, sinks: Iterable[Sink]) -> RunFinished:
    """Carry a runbook out from its beginning. Raises NotBegun, Locked, and Interrupted while it waits for a lock."""
    clock = SystemClock()
    sinks = tuple(sinks)
    with ExitStack() as held:
        units = find_canonical_names(host, book.unit_names())
        locks = take_locks(units, book, order, host, waiter, sinks, held)
        refuse_running_commands(units, host)
        kept = store.create_folder(clock.now())
        locks.write_holder(kept.id, order.user)
        secrets = find_secret_values(book, order.env)
        kept.write_header(_make_header(book, order, kept.id, clock.now(), secrets), book.text)
        events = open_events(kept, sinks, secrets, held)
        records.prune(clock.now())
        state = RunState(kept.id, book.folder, book.env, kept.outputs)
        runner = Runner(book, host, waiter, events, state, order.fail_on_remediation, order.notices)
        runner.on_started = lambda: supersede(units, events.run)
        return runner.run()


def find_secret_values(book: Runbook, env: Mapping[str, str]) -> tuple[str, ...]:
    """Give the values that must show nowhere, the longest first: one may be a part of another."""
    return tuple(sorted(filter(None, (env.get(name, "") for name in book.secrets)), key=len, reverse=True))


def _make_header(book: Runbook, order: RunRequest, name: str, now: float, secrets: tuple[str, ...]) -> RunHeader:
    hide = EventStream(name, SystemClock(), (), secrets).mask
    used = set(re.findall(r"\benv\.(\w+)", book.text)) & order.env.keys()
    sets = {key: hide(value) for key, value in order.sets.items()}
    env = {key: hide(order.env[key]) for key in sorted(used)}
    withheld = [key for key, value in {**sets, **env}.items() if MASK in value]
    named = [key for key in book.secrets if key in order.env]
    return RunHeader(
        id=name,
        file=book.path if book.path == "-" else str(Path(book.path).absolute()),
        cwd=str(book.folder),
        scope=order.scope,
        user=order.user,
        began=now,
        boot=store.boot_id(),
        version=order.version,
        sets=sets,
        env={key: value for key, value in env.items() if MASK not in value},
        withheld=tuple(dict.fromkeys((*withheld, *named))),
        fail_on_remediation=order.fail_on_remediation,
    )


def open_events(kept: store.RunFolder, sinks: Iterable[Sink], secrets: tuple[str, ...], held: ExitStack) -> EventStream:
    """Make the stream of a run's events: each is on disk before anybody else hears of it."""

    def lost(why: str) -> None:
        events.emit(Notice(text=why))

    writer = EventWriter(kept, lost)
    held.callback(writer.close)
    events = EventStream(kept.id, SystemClock(), (), secrets)
    printed = OutputMasker(kept.outputs, events.secret_forms)
    printed.mask("")  # What a command printed whose end an earlier part of this run did not see.
    events.sinks = (printed, writer, *sinks)
    return events


def take_locks(
    units: Iterable[str],
    book: Runbook,
    order: RunRequest,
    host: Host,
    waiter: Waiter,
    sinks: tuple[Sink, ...],
    held: ExitStack,
) -> Locks:
    """Take the locks of all units of a runbook."""

    def told(text: str) -> None:
        # There is no run yet, and no record: only those who watch are told.
        for sink in sinks:
            sink(Event.of(SystemClock().now(), "", Notice(text=text)))

    locker = Locker(order.scope, host, waiter, order.lock_wait, told)
    try:
        return held.enter_context(locker.take(units))
    except NotBegun as error:
        if any(not step.only_reads() for step in book.walk()):
            raise
        told(f"{error.message}; nothing is changed, so the run needs no lock")
        return Locks()


def refuse_running_commands(units: Iterable[str], host: HostView, but: str = "") -> None:
    """Raise NotBegun where a command of an earlier run, which died, still works on one of the units."""
    try:
        running = host.list_running_commands()
    except HostError as error:
        raise NotBegun(f"cannot begin: {error.message}", hint=error.hint) from error
    for unit in running:
        name = records.ID.search(unit)
        past = next((one for one in records.list_runs() if name and one.id == name[0] != but), None)
        if past is None or not (shared := sorted({*units}.intersection(past.units))):
            continue
        goes_on = f"runbook resume {past.id} waits for it and goes on; " if past.is_resumable else ""
        raise NotBegun(
            f"cannot begin: a command of run {past.id}, which was cut short, still works on {shared[0]} in {unit}",
            hint=f"{goes_on}systemctl {'--user ' if past.header.scope == 'user' else ''}stop {unit} ends it",
        )


def supersede(units: Iterable[str], by: str, until: float = math.inf) -> Iterator[str]:
    """Close the runs that began before `until`, were cut short, and acted on a unit that this one acts on.

    Says of each what became of it.
    """
    for past in records.list_runs():
        if past.id == by or past.header.began > until:
            continue
        if past.is_resumable and (shared := sorted({*units}.intersection(past.units))):
            stood = past.status.replace("-", " ")
            try:
                with ExitStack() as held:
                    open_events(past.folder, (), (), held).emit(RunSuperseded(by=by, unit=shared[0]))
            except NotBegun as error:
                # Somebody else goes on with it by now, or its folder is broken: for them to see, when they resume it.
                yield f"{past.id}, which acted on {shared[0]} too, is not closed: {error.message}"
            else:
                yield (
                    f"run {past.id}, which acted on {shared[0]} too, was {stood}: this run takes its place, and it can"
                    f" be resumed no more; runbook show {past.id} tells how far it had come"
                )
