"""Starts a run: takes the locks, opens the record and the event stream, supersedes earlier runs, and runs.

`resume` does the same for a run that was interrupted, with the parts that are public here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from runbook.engine.execution.replay import ResumeState
from runbook.engine.execution.stream import EventStream, Sink
from runbook.engine.other_manager import find_other_manager
from runbook.engine.runner import Runner
from runbook.errors import HostError, NotBegun
from runbook.events import Event, Notice, Payload, RunFinished, RunSuperseded
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import Port, SystemClock, frozen
from runbook.records import history, store
from runbook.records.lock import Locker, Locks, find_canonical_names
from runbook.records.outputs import OutputMasker
from runbook.records.store import EventWriter, RunFolder, RunHeader
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.util.secrets import MASK, SecretMask

_ENV_NAME = re.compile(r"""\benv(?:\.|\[[\s\\'"]*)([\w.-]*\w)""")
"""The name of a variable in `env.NAME` or `env['NAME']`, with its quotes as YAML may need them.

It is searched in the text of the file: the runbook no longer has the templates that were filled when it was read.
"""


@frozen
class RunRequest:
    """What the command line asks for."""

    scope: str  # whose manager: `system` or `user`
    sets: Mapping[str, str] = field(default_factory=dict)  # the variables of `--set`
    env: Mapping[str, str] = field(default_factory=dict)  # the environment of this program
    fail_on_remediation: bool = False  # True if a remediated run has an exit status of its own
    notices: tuple[str, ...] = ()  # sentences to report when the run begins
    version: str = ""  # the version of this program, for the record
    lock_wait: float = 0.0  # how long to wait for a lock, in seconds
    user: str = ""  # who started this program, behind su and sudo
    user_source: str = ""  # where that name is from: `loginuid`, `sudo` or `uid`
    command: str = "apply"  # the command of the program: `apply`, `remediate`, or one without a file
    has_file: bool = True  # False if the runbook was written by this program: then its path is the command line
    fix_command: str = ""  # the command that does the same and fixes what it finds, if the run does not


def start_run(book: Runbook, request: RunRequest, host: Host, waiter: Waiter, sinks: Iterable[Sink]) -> RunFinished:
    """Carry out a runbook from its beginning. Raises NotBegun, Locked, and Interrupted while it waits for a lock."""
    clock = SystemClock()
    with ExitStack() as held:
        launch = Launch(book, request, host, waiter, tuple(sinks), held)
        locks = launch.take_locks()
        refuse_running_commands(launch.units, host)
        folder = store.create_folder(clock.now())
        locks.write_holder(folder.id, request.user)
        folder.write_header(_make_header(book, request, folder.id, clock.now()), book.text)
        launch.open_events(folder)
        history.prune(clock.now())
        return launch.run(launch.make_state(folder), ResumeState(), supersedes_until=math.inf)  # any earlier run


NOTIFY_MARK = "--notify-"  # in the name of a unit that reports the end of a run; an id of a step has no `--`

OWN = ("unit", "main-pid")  # the values of `owner` with which a unit must own its port itself


@dataclass
class Launch:
    """The parts of a run that is about to begin or to be resumed."""

    book: Runbook
    request: RunRequest
    host: Host
    waiter: Waiter
    sinks: tuple[Sink, ...]  # where events go besides the record
    held: ExitStack  # releases locks and files when the run has ended
    events: EventStream = field(init=False)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The canonical names of all units of the runbook."""
        return find_canonical_names(self.host, self.book.unit_names())

    def take_locks(self) -> Locks:
        """Lock all units of the runbook. Raises NotBegun, Locked and Interrupted."""
        locker = Locker(self.request.scope, self.host, self.waiter, self.request.lock_wait, self._emit)
        try:
            return self.held.enter_context(locker.take(self.units))
        except NotBegun as error:
            if any(not step.only_reads() for step in self.book.walk()):
                # To become root would not help with a unit of the caller's own manager.
                raise NotBegun(error.message, hint=find_other_manager(self.host, self.book) or error.hint) from error
            self._emit(Notice(text=f"{error.message}; nothing is changed, so the run needs no lock"))
            return Locks()

    def _emit(self, payload: Payload) -> None:
        # There is no run yet, and so no record.
        for sink in self.sinks:
            sink(Event.of(SystemClock().now(), "", payload))

    def open_events(self, folder: RunFolder) -> None:
        """Open the event stream of the run. Raises NotBegun if another process writes to its record."""
        self.events = open_event_stream(folder, self.held, self.sinks, find_secret_values(self.book, self.request.env))

    def make_state(self, folder: RunFolder) -> RunState:
        """Return the state of a run that begins."""
        book, boot = self.book, store.boot_id()
        return RunState(folder.id, book.folder, book.env, folder.outputs_path, find_owned_ports(book), boot=boot)

    def run(self, state: RunState, resume_state: ResumeState, *, supersedes_until: float) -> RunFinished:
        """Carry out the runbook. Once it has begun, it supersedes runs that began until `supersedes_until`."""
        return Runner(
            self.book,
            self.host,
            self.waiter,
            self.events,
            state,
            self.request.fail_on_remediation,
            self.request.notices,
            resume_state,
            fix_command=self.request.fix_command,
            on_started=lambda: supersede(self.units, state.id, supersedes_until),
        ).run()


def open_event_stream(
    folder: RunFolder, held: ExitStack, sinks: Iterable[Sink] = (), secrets: tuple[str, ...] = ()
) -> EventStream:
    """Return the event stream of a run. Each event is on disk before any sink gets it.

    Raises NotBegun if another process writes to the record.
    """
    # The writer is a sink of the stream, and reports a lost record through it: so the stream gets its sinks last.
    writer = EventWriter(folder, lambda why: events.emit(Notice(text=why)))
    held.callback(writer.close)
    events = EventStream(folder.id, SystemClock(), (), secrets)
    masker = OutputMasker(folder.outputs_path, events.secret_mask.forms)
    masker.mask_all()  # A command may have written output after an earlier part of this run was killed.
    events.sinks = (masker, writer, *sinks)
    return events


def find_secret_values(book: Runbook, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values to be masked."""
    return tuple(filter(None, (env.get(name, "") for name in book.secrets)))


def _make_header(book: Runbook, request: RunRequest, name: str, now: float) -> RunHeader:
    mask = SecretMask(find_secret_values(book, request.env)).mask
    used = set(_ENV_NAME.findall(book.text)) & request.env.keys()
    sets = {key: mask(value) for key, value in request.sets.items()}
    env = {key: mask(request.env[key]) for key in sorted(used)}
    # A value that contains a secret is not recorded: `resume` must get it anew.
    withheld = [key for key, value in {**sets, **env}.items() if MASK in value]
    withheld += [key for key in book.secrets if key in request.env]
    return RunHeader(
        id=name,
        file=book.path if book.path == "-" or not request.has_file else str(Path(book.path).absolute()),
        cwd=str(book.folder),
        scope=request.scope,
        user=request.user,
        user_source=request.user_source,
        began=now,
        boot=store.boot_id(),
        version=request.version,
        sets=sets,
        env={key: value for key, value in env.items() if MASK not in value},
        withheld=tuple(dict.fromkeys(withheld)),
        fail_on_remediation=request.fail_on_remediation,
        command=request.command,
    )


def refuse_running_commands(units: Iterable[str], host: HostView, ignored_run: str = "") -> None:
    """Raise NotBegun if a command of an earlier run, which was killed, still acts on one of the units.

    The commands of the run whose id is `ignored_run` may run on.
    """
    try:
        running = host.list_running_commands()
    except HostError as error:
        raise NotBegun(f"cannot begin: {error.message}", hint=error.hint) from error
    for unit in running:
        if NOTIFY_MARK in unit:
            continue  # It reports the end of its run, and acts on no unit.
        match = store.RUN_ID.search(unit)
        run_id = match[0] if match else ""
        run = next((one for one in history.list_runs() if one.id == run_id and run_id != ignored_run), None)
        if run is None or not (shared := sorted({*units}.intersection(run.units))):
            continue
        resume = f"runbook resume {run.id} waits for it and continues; " if run.is_resumable else ""
        raise NotBegun(
            f"cannot begin: a command of run {run.id}, which was interrupted, still acts on {shared[0]} in {unit}",
            hint=f"{resume}systemctl {'--user ' if run.header.scope == 'user' else ''}stop {unit} stops it",
        )


def find_owned_ports(book: Runbook) -> dict[str, tuple[Port, ...]]:
    """Return the ports that each unit must own alone once it runs, by its name in the file.

    Not those that a step allows another unit to own, or to share.
    """
    found: dict[str, tuple[Port, ...]] = {book.unit: book.port} if book.unit is not None else {}
    others: set[tuple[str, Port]] = set()
    for step in book.walk():
        pairs = [(unit, port) for unit in step.units() for port in getattr(step, "port", ())]
        owners, shared = getattr(step, "owner", {}), getattr(step, "shared_with", ())
        others.update(pair for pair in pairs if shared or owners.get(pair[1], owners.get(None, "unit")) not in OWN)
        for unit, port in pairs:
            found[unit] = (*found.get(unit, ()), port)
    return {
        unit: tuple(dict.fromkeys(port for port in ports if (unit, port) not in others))
        for unit, ports in found.items()
    }


def supersede(units: Iterable[str], by: str, until: float) -> Iterator[str]:
    """Close the runs that began before `until`, can be resumed, and acted on one of the units. Yield a notice for each.

    After this run, resuming one of them would undo what this run does.
    """
    for run in history.list_runs():
        if run.id == by or run.header.began > until or not run.is_resumable:
            continue
        if not (shared := sorted({*units}.intersection(run.units))):
            continue
        try:
            with ExitStack() as held:
                open_event_stream(run.folder, held).emit(RunSuperseded(by=by, unit=shared[0]))
        except NotBegun as error:
            # Another process has resumed it, or its folder is broken, which the next `resume` reports.
            yield f"run {run.id}, which acted on {shared[0]} too, is not closed: {error.message}"
        else:
            yield (
                f"run {run.id}, which acted on {shared[0]} too, was {run.status.replace('-', ' ')}: this run supersedes"
                f" it, and it cannot be resumed any more; runbook show {run.id} shows how far it came"
            )
