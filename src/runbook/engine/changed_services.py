"""Which services a step started, restarted or reloaded beside those that it names, as the script of a package does.

A step is judged when it has just ended, and the judgement is a part of its evidence. Later the facts are gone: the next
restart of a service replaces its times, and a resumed run does not know which process requested an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from runbook.checks.propagation import Reached, find_reached
from runbook.checks.start_limit import STARTS_QUERY_TIMEOUT
from runbook.engine.execution.replay import CHANGED_SERVICES
from runbook.engine.remediation import StepRunner
from runbook.errors import HostError
from runbook.events import Event, StepActing
from runbook.host.facts import JobVerb, Unit
from runbook.host.interface import SHARED_READ_AGE, HostView
from runbook.host.queries import Query, StartEventKind, StartTimesQuery
from runbook.host.requesters import describe_requester
from runbook.model import Deadline, Wake
from runbook.records.history import find_units_of_other_runs
from runbook.records.store import boot_id
from runbook.spec.runbook import Runbook
from runbook.spec.step import RollbackRole, Step

LEFT_SERVICES = "left-services"  # the key of those that another client restarted meanwhile, each with a sentence
UNCERTAIN_SERVICES = "uncertain-services"  # the key of those that were down, and that an unknown client started

START_ROLES = (RollbackRole.START, RollbackRole.RESTART)  # roles of the steps whose units a rollback restarts
CHANGE_ROLES = (*START_ROLES, RollbackRole.RELOAD)  # roles of the steps after which a unit runs the new version

LOOP_LOOKBACK = 60.0  # seconds before a step in which a unit must have been started, to have looped before it

# Units that are never restarted: the bus, logins, and the commands of runs.
_NEVER = ("dbus.service", "dbus-broker.service", "user@*.service", "user-runtime-dir@*.service", "runbook-*.service")
# Units that systemd or a login starts at any time: one that starts for the first time was not started by the run.
_AT_ANY_TIME = ("systemd-*.service", "*getty@*.service", "autovt@*.service", "session-*.service")


class ServiceJudge(NamedTuple):
    """Who else than the step may have restarted a service that no known process requested to restart."""

    find_foreign: Callable[[], Collection[str]]  # returns the units on which other runs acted meanwhile
    looped_before: Callable[[Unit], bool]  # True if systemd restarts a unit by itself since before the step


def judge_step(runner: StepRunner, book: Runbook, step: Step[Any], *, afresh: bool = False) -> dict[str, Any]:
    """Return for the evidence of a step which services it changed; empty if a rollback does not need that.

    `afresh`: not when the step has just ended. Raises HostError.
    """
    acting = _find_beginning(runner, step) if book.rollback != "off" and _may_change_services(step) else None
    if acting is None or all(one.step_id != step.step_id for outer in book.steps for one in outer.walk()):
        return {}
    clock, host = runner.host.clock, runner.host
    since = (acting.time - clock.now() + clock.monotonic()) * 1e6
    is_whole = not afresh and acting in runner.events.emitted  # Otherwise it began in an earlier part of the run.
    names = host.list_changed_services() if is_whole else host.list_services()
    others = ServiceJudge(
        find_foreign=lambda: find_units_of_other_runs(acting.run, acting.time),
        looped_before=lambda unit: _looped_before(runner, unit, acting.time),
    )
    return find_changed_services(host, step, names, since, others)


def judge_ended_step(runner: StepRunner, book: Runbook, step: Step[Any]) -> dict[str, Any]:
    """Return for the evidence of a step that has just ended which services it changed; None for them if not known."""
    try:
        return judge_step(runner, book, step)
    except HostError:
        return {CHANGED_SERVICES: None}


def list_events_of_boot(runner: StepRunner) -> list[Event]:
    """List the events since the boot: it started every unit, which a step that it cut short did not do."""
    earlier, now = runner.resume_state, runner.events.emitted
    since = earlier.boot_since if earlier.boot in ("", boot_id()) else now[0].time
    return [event for event in (*earlier.plan_events, *now) if event.time >= since]


def find_changed_services(
    view: HostView, step: Step[Any], names: Iterable[str], since: float, others: ServiceJudge
) -> dict[str, Any]:
    """Return which of some services a step changed that began `since`, in microseconds of CLOCK_MONOTONIC.

    If it is not known which process requested the change, a service counts only if a command was running, or if it was
    reached by the job of the step. It never counts then if another run acted on it, or if systemd restarts it by itself
    since before the step. A service that was down before the step is not one that it restarted: who started it is
    uncertain then. Raises HostError.
    """
    reached, foreign = cache(lambda: _list_reached(view, step)), cache(others.find_foreign)
    changed, uncertain, left = list[str](), list[str](), dict[str, str]()
    for name in names:
        if is_never_restarted(name):
            continue
        unit = view.unit(name)
        last = unit.job_requests[-1] if unit.job_requests else None
        if any(one.is_own for one in unit.job_requests):
            changed.append(unit.name)
        elif not _changed_since(unit, since):
            continue
        elif last is not None and last.requesters:
            left[unit.name] = f"{unit.name} was restarted by {describe_requester(last)}, and is left alone"
        elif _was_restarted(unit, since) and (runs_command(step) or unit.name in reached()):
            if not {unit.name, *unit.names}.isdisjoint(foreign()):
                continue
            if others.looped_before(unit):
                left[unit.name] = f"{unit.name} restarts by itself since before this step, and is left alone"
            elif unit.previous_end_monotonic < since <= unit.began_monotonic and unit.name not in reached():
                uncertain.append(unit.name)
            else:
                changed.append(unit.name)
    found = {CHANGED_SERVICES: changed, UNCERTAIN_SERVICES: uncertain, LEFT_SERVICES: left}
    return {key: value for key, value in found.items() if value}


def is_never_restarted(name: str) -> bool:
    """True if a rollback restarts a service of this name only if the runbook names it."""
    return any(fnmatchcase(name, pattern) for pattern in _NEVER)


def _may_change_services(step: Step[Any]) -> bool:
    return runs_command(step) or step.rollback_role in CHANGE_ROLES


def runs_command(step: Step[Any]) -> bool:
    """True if a step runs a command that may change something."""
    return step.may_create_units and not step.only_reads()


def _find_beginning(runner: StepRunner, step: Step[Any]) -> Event | None:
    """Return the event of the step's first action since the boot; None if it did not act."""
    acting = (event for event in list_events_of_boot(runner) if event.event == StepActing.event)
    return next((event for event in acting if event.data.get("id") == step.step_id), None)


def _list_reached(view: HostView, step: Step[Any]) -> set[str]:
    """List the services that the job of a step may have reached. Their states before it are not known any more."""

    def through(one: Reached) -> bool:
        return one.verb is not JobVerb.START or one.unit.name.endswith(".target")

    verb = step.job_verb()
    units = [view.unit(name, max_age=SHARED_READ_AGE) for name in step.units()] if verb is not None else []
    return {one.unit.name for unit in units for one in find_reached(view, unit, verb or JobVerb.START, through)}


def _looped_before(runner: StepRunner, unit: Unit, since: float) -> bool:
    """True if a unit looped already before a moment, in seconds since the epoch, and no client has restarted it since.

    A client that restarts it sets NRestarts to 0, and the start itself is not counted. So NRestarts is at least the
    number of the starts since that moment only if no client did. False if the journal cannot be read in time.
    """
    if not unit.n_restarts:
        return False
    kind = StartTimesQuery(unit.name, since - LOOP_LOOKBACK, of_user=unit.of_user)
    query = Query(kind, runner.state.next_query_id(), STARTS_QUERY_TIMEOUT)
    deadline = Deadline.after(runner.host.clock, STARTS_QUERY_TIMEOUT)
    while (answer := runner.host.query(query)) is None and not deadline.expired:
        runner.waiter.wait(Wake(pending=True), deadline)
    starts = [one.at for one in (answer.value or () if answer else ()) if one.kind is StartEventKind.START]
    later = sum(since <= at <= unit.inactive_exit / 1e6 for at in starts)
    return unit.n_restarts >= later and any(at < since for at in starts)


def _changed_since(unit: Unit, since: float) -> bool:
    """True if a unit was restarted, reloaded or got another main process."""
    moments = (unit.active_exit_monotonic, unit.began_monotonic, unit.exec_main_start_monotonic, unit.reload_monotonic)
    return any(moment >= since for moment in moments)


def _was_restarted(unit: Unit, since: float) -> bool:
    """True if a unit that has changed was restarted or reloaded, and by no timer, path, socket or client.

    No process was found that requested it. One that does not wait for its job is gone before it can be found.
    """
    if unit.find_trigger(None):
        return False
    if unit.previous_end_monotonic >= since or unit.began_monotonic < since:
        return True
    on_demand = unit.bus_name or unit.triggered_by or unit.is_transient
    return not on_demand and not any(fnmatchcase(unit.name, pattern) for pattern in _AT_ANY_TIME)
