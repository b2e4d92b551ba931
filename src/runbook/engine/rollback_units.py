"""The units that may run the new version: those that a rollback restarts, and the proof that it did.

A unit that the run started, restarted or reloaded has read the new files. So has one that a command of the run
restarted, as the script of a package does, and which the runbook does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.engine.changed_services import CHANGE_ROLES, LEFT_SERVICES, START_ROLES, is_never_restarted
from runbook.engine.execution.replay import CHANGED_SERVICES
from runbook.errors import HostError
from runbook.events import Event, RollbackStarted, StepActing, StepFinished, select
from runbook.host.facts import DOWN, UP, ActiveState, Unit
from runbook.host.interface import HostView
from runbook.spec.runbook import Runbook
from runbook.spec.step import RollbackRole

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
    ids = set(acted)
    walked = (step for outer in book.steps for step in outer.walk())
    changed = (step for step in walked if step.rollback_role in CHANGE_ROLES and step.step_id in ids)
    return list(dict.fromkeys(name for step in changed for name in step.units()))


class FoundUnits(NamedTuple):
    """The units beside those of the runbook."""

    restart: tuple[str, ...]  # those that the run started, restarted or reloaded
    left_alone: tuple[str, ...]  # a sentence for each one that something else restarted meanwhile


def find_other_units(
    view: HostView, book: Runbook, named: Iterable[str], judgements: Iterable[Mapping[str, Any]]
) -> FoundUnits:
    """Return the services beside `named` that the run started, restarted or reloaded, by `judge_step` of each step.

    A service that is inactive by now is left so. Raises HostError.
    """
    known = {name for one in named for name in _list_names(view.unit(one))}
    behind = [name for name in _list_triggered(view, (*book.unit_names(), *named)) if view.unit(name).is_running]
    changed, left = dict.fromkeys(behind), dict[str, str]()
    for judgement in judgements:
        changed |= dict.fromkeys(judgement.get(CHANGED_SERVICES) or ())
        left |= judgement.get(LEFT_SERVICES) or {}
    units = [unit for unit in map(view.unit, changed) if unit.active_state is not ActiveState.INACTIVE]
    others = [unit.name for unit in units if known.isdisjoint(_list_names(unit)) and not is_never_restarted(unit.name)]
    return FoundUnits(tuple(others), tuple(why for name, why in left.items() if name not in known | set(changed)))


def _list_names(unit: Unit) -> tuple[str, ...]:
    return (unit.name, *unit.names)


def _list_triggered(view: HostView, named: Iterable[str]) -> list[str]:
    """List the services that the sockets, timers and paths of `named` start."""
    triggered = [name for one in named if not one.endswith(".service") for name in view.unit(one).triggers]
    return [name for name in dict.fromkeys(triggered) if name.endswith(".service") and "@." not in name]


class NewFiles(NamedTuple):
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


def find_active_triggers(view: HostView, book: Runbook) -> dict[str, list[str]]:
    """Return the active sockets, timers and paths of each unit that `rollback: auto` restarts.

    If a version does not start, they fail together with the unit when its start limit is hit, and starting the unit
    does not start them again. Sockets come first: a path may start the service at once, and then no socket opens.
    """
    triggers: dict[str, list[str]] = {}
    for name in find_named_units(book) if book.rollback == "auto" else ():
        try:
            unit = view.unit(name)
            up = [one.name for one in map(view.unit, unit.triggered_by) if one.active_state not in DOWN]
        except HostError:
            continue  # The steps will report that the unit cannot be read.
        if up:
            triggers[name] = sorted(up, key=lambda one: not one.endswith(".socket"))
    return triggers
