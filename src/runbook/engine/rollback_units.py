"""The units that may run the new version: those that a rollback restarts, and the proof that it did.

A unit that the run started, restarted or reloaded has read the new files. So has one that a command of the run
restarted, as the script of a package does, and of which the runbook says nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from runbook.checks.propagation import Reached, find_reached
from runbook.events import Event, RollbackStarted, StepActing, StepFinished, select
from runbook.host.facts import DOWN, UP, JobVerb, Unit
from runbook.host.interface import HostView
from runbook.host.requesters import describe_requester
from runbook.spec.step import RollbackRole, Runbook

START_ROLES = (RollbackRole.START, RollbackRole.RESTART)  # roles of the steps whose units a rollback restarts

# Units that are never restarted: the bus, logins, and the commands of runs.
_NEVER = ("dbus.service", "dbus-broker.service", "user@*.service", "user-runtime-dir@*.service", "runbook-*.service")
# Units that systemd or a login starts at any time: one that starts for the first time was not started by the run.
_AT_ANY_TIME = ("systemd-*.service", "*getty@*.service", "autovt@*.service", "session-*.service")

CLOCK_TICK = 0.02  # seconds by which the start time of a process may be too early: the kernel counts in ticks of 10 ms
SPARING_KILL_MODES = ("process", "none")  # values of KillMode= that spare processes at a stop
MAX_NAMED_PROCESSES = 3  # how many processes of one unit a sentence names


def find_named_units(book: Runbook, acted: Iterable[str] | None = None) -> list[str]:
    """Return the units that a rollback restarts by the runbook alone.

    Those that a step starts or restarts, or else the runbook's own; then those that a step reloads, if it is one of
    `acted` (None: all); and the services that a check names.
    """
    walked = [step for outer in book.steps for step in outer.walk()]
    allowed = None if acted is None else set(acted)
    found = dict.fromkeys(find_started_units(book))
    for step in walked:
        reloaded = step.rollback_role is RollbackRole.RELOAD and (allowed is None or step.step_id in allowed)
        checks = step.only_reads()
        found |= {name: None for name in step.units() if reloaded or (checks and name.endswith(".service"))}
    return list(found)


def find_started_units(book: Runbook, *, or_own: bool = True) -> list[str]:
    """Return the units that the runbook starts or restarts, or else its own, if `or_own`."""
    walked = (step for outer in book.steps for step in outer.walk())
    started = dict.fromkeys(n for step in walked if step.rollback_role in START_ROLES for n in step.units())
    return list(started) or ([book.unit] if book.unit is not None and or_own else [])


def find_changed_units(book: Runbook, acted: Iterable[str]) -> list[str]:
    """Return the units that the steps of the run in `acted` started, restarted or reloaded."""
    roles, ids = (*START_ROLES, RollbackRole.RELOAD), set(acted)
    walked = (step for outer in book.steps for step in outer.walk())
    changed = (step for step in walked if step.rollback_role in roles and step.step_id in ids)
    return list(dict.fromkeys(name for step in changed for name in step.units()))


@dataclass(frozen=True)
class StepWindow:
    """The time in which a step of the run acted, in microseconds of CLOCK_MONOTONIC."""

    begin: float
    end: float

    def __contains__(self, moment: object) -> bool:
        return isinstance(moment, int) and self.begin <= moment <= self.end


@dataclass(frozen=True)
class FoundUnits:
    """The units beside those of the runbook."""

    restart: tuple[str, ...]  # those that the run started, restarted or reloaded
    left_alone: tuple[str, ...]  # a sentence for each one that something else restarted meanwhile


def find_other_units(
    view: HostView, book: Runbook, events: Sequence[Event], named: Iterable[str], foreign: Collection[str] = ()
) -> FoundUnits:
    """Return the services beside `named` that the run started, restarted or reloaded. Raises HostError.

    Without a known requester a unit counts only if it changed while a command of the run was running, or with a unit on
    which the run acted; and never if it is one of `foreign`: those on which other runs acted meanwhile.
    """
    windows = _find_windows(view, events)
    walked = (step for outer in book.steps for step in outer.walk())
    commands = {step.step_id for step in walked if step.may_create_units and not step.only_reads()}
    at_commands = [window for name, window in windows.items() if name in commands]
    reached = {name for one in find_changed_units(book, windows) for name in _list_reached(view, view.unit(one))}
    known = {name for one in named for name in _list_names(view.unit(one))}
    behind = _list_triggered(view, (*book.unit_names(), *named))
    chosen, left = [], []
    for name in dict.fromkeys((*behind, *view.list_services())):
        unit = view.unit(name)
        if known.intersection(_list_names(unit)) or any(fnmatchcase(unit.name, never) for never in _NEVER):
            continue
        last = unit.job_requests[-1] if unit.job_requests else None
        if any(one.is_own for one in unit.job_requests) or (name in behind and unit.is_running):
            chosen.append(unit.name)
        elif last is not None and last.requesters:
            if _find_moments(unit, windows.values()):
                left.append(f"{unit.name} was restarted by {describe_requester(last)}, and is left alone")
        elif set(foreign).intersection(_list_names(unit)):
            continue
        elif _was_changed(unit, list(windows.values()) if unit.name in reached else at_commands):
            chosen.append(unit.name)
    return FoundUnits(tuple(chosen), tuple(left))


def _list_names(unit: Unit) -> tuple[str, ...]:
    return (unit.name, *unit.names)


def _list_reached(view: HostView, unit: Unit) -> set[str]:
    """List the units that a start, stop or restart of a unit may start, stop or restart too, up or down by now."""

    def through(one: Reached) -> bool:
        return one.verb is not JobVerb.START or one.unit.name.endswith(".target")

    verbs = (JobVerb.START, JobVerb.STOP)
    return {one.unit.name for verb in verbs for one in find_reached(view, unit, verb, through)}


def _list_triggered(view: HostView, named: Iterable[str]) -> list[str]:
    """List the services that the sockets, timers and paths of `named` start."""
    triggered = [name for one in named if not one.endswith(".service") for name in view.unit(one).triggers]
    return [name for name in dict.fromkeys(triggered) if name.endswith(".service") and "@." not in name]


def _find_windows(view: HostView, events: Iterable[Event]) -> dict[str, StepWindow]:
    """Return the windows of the steps that acted, by their ids."""
    offset = view.clock.now() - view.clock.monotonic()
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    for event in events:
        match event.payload:
            case StepActing(id=name):
                begins.setdefault(name, event.time - offset)
            case StepFinished(id=name):
                ends[name] = event.time - offset
    now = view.clock.monotonic()
    return {name: StepWindow(at * 1e6, ends.get(name, now) * 1e6) for name, at in begins.items()}


def _find_moments(unit: Unit, windows: Iterable[StepWindow]) -> list[int]:
    """Return when a unit was restarted, reloaded or got another main process in one of the windows."""
    moments = (unit.active_exit_monotonic, unit.began_monotonic, unit.exec_main_start_monotonic, unit.reload_monotonic)
    return [moment for moment in moments if any(moment in window for window in windows)]


def _was_changed(unit: Unit, windows: Sequence[StepWindow]) -> bool:
    """True if a unit was restarted or reloaded while a step acted, and by no timer, path, socket or client.

    No process was found that requested it. One that does not wait for its job is gone before it can be found.
    """
    if not _find_moments(unit, windows) or unit.find_trigger(None):
        return False
    was_up = unit.previous_end_monotonic and any(unit.previous_end_monotonic in window for window in windows)
    if was_up or unit.began_monotonic < min(window.begin for window in windows):
        return True
    on_demand = unit.bus_name or unit.triggered_by or unit.is_transient
    return not on_demand and not any(fnmatchcase(unit.name, pattern) for pattern in _AT_ANY_TIME)


@dataclass(frozen=True)
class NewFiles:
    """The time in which the files of the new version were there, in seconds since the epoch."""

    installed_at: float  # the first step that acted began
    restored_at: float  # the last update was undone


def describe_unproved(view: HostView, names: Iterable[str], new: NewFiles) -> dict[str, str]:
    """Return for each unit why it is not proved to run the restored files; a unit that is proved is left out.

    Raises HostError.
    """
    reasons = {name: _describe_unproved(view, view.unit(name), new) for name in names}
    return {name: why for name, why in reasons.items() if why}


def _describe_unproved(view: HostView, unit: Unit, new: NewFiles) -> str:
    if not unit.is_service:
        return ""  # It has no processes.
    if unit.active_state not in UP:
        is_over = unit.active_state in DOWN and unit.type == "oneshot" and unit.result == "success"
        return "" if is_over else f"{unit.name} is {unit.describe()}"
    pids = view.list_unit_pids(unit)
    early = [text for pid in pids if (text := _describe_early(view, unit, pid, new))]
    if early:
        more = f" and {len(early) - MAX_NAMED_PROCESSES} more" if len(early) > MAX_NAMED_PROCESSES else ""
        return f"{unit.name}: {', '.join(early[:MAX_NAMED_PROCESSES])}{more} started before the files were restored"
    began = view.clock.now() - view.clock.monotonic() + unit.began_monotonic / 1e6
    if not pids and began + CLOCK_TICK < new.restored_at:
        return f"{unit.name} has no process, and its invocation began before the files were restored"
    return ""


def _describe_early(view: HostView, unit: Unit, pid: int, new: NewFiles) -> str:
    """Return the name of a process that may run the new version; empty if it does not, or is gone."""
    if pid == 0:
        return "a process of another PID namespace"
    process = view.find_process(pid)
    if process is None or process.dead or (started := view.find_start_time(process)) + CLOCK_TICK >= new.restored_at:
        return ""
    # The containers of a container engine, for example, are to outlive it.
    kept = unit.kill_mode in SPARING_KILL_MODES and pid != unit.main_pid and started < new.installed_at
    return "" if kept else f"PID {pid} ({process.name})"


def find_new_files(events: Sequence[Event], undo_step_ids: Iterable[str]) -> NewFiles:
    """Return when the files of the new version were there. Without undo steps they are there until the rollback."""
    wanted = set(undo_step_ids)
    installed = min((one.time for one in events if isinstance(one.payload, StepActing)), default=0.0)
    ends = [one.time for one in events if isinstance(one.payload, StepFinished) and one.payload.id in wanted]
    begun = [one.time for one in events if isinstance(one.payload, RollbackStarted)]
    return NewFiles(installed, max(ends or begun, default=0.0))


def find_acted_steps(events: Iterable[Event]) -> set[str]:
    """Return the ids of the steps that began to act."""
    return {acting.id for acting in select(events, StepActing)}
