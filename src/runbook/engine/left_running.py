"""What a command of a failed run started beside the services of its manager, and what may still run the new version.

A rollback restarts the services that the run changed. It does not restart a transient unit, a scope, a daemon in the
session that `su` opened, or a service of a user's manager: it does not know how. systemd does not record which process
requested them, so what started while a command of this run was running counts as started by it. Nor does it restart a
service that was down before, and that an unknown client started meanwhile: it may be none of this run's business.

What cannot be found out is in UNEXAMINED: such a process is no younger than the command, or started later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from shlex import quote
from typing import Any

from runbook.engine.changed_services import UNCERTAIN_SERVICES, runs_command
from runbook.engine.rollback_units import CLOCK_TICK, MAX_NAMED_PROCESSES, NewFiles, describe_unproved
from runbook.events import Event, StepActing, StepFinished
from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import JobVerb
from runbook.host.holders import Process
from runbook.host.interface import HostView
from runbook.host.kernel import protected
from runbook.host.kernel.accounts import enter_user_manager
from runbook.model import frozen
from runbook.spec.runbook import Runbook
from runbook.spec.step import ReplacesVersion

UNEXAMINED = "not looked at: containers, programs that a command made re-execute themselves, and what it starts later"

# Units that logins, desktops and other programs start at any time, and commands of runs.
_NOT_OURS = ("runbook-*", "app-*", "dbus-*", "dbus.service", "xdg-*", "vte-spawn-*", "user-runtime-dir@*")

CommandWindow = tuple[float, float]


@frozen
class LeftRunning:
    """A unit that a command of the run may have started, and that may run the new version."""

    why: str  # a sentence that names its processes
    remedy: str  # what to do about it


def list_command_windows(book: Runbook, events: Iterable[Event]) -> list[CommandWindow]:
    """List when each step with a command that changes something ran, in seconds since the epoch."""
    steps = {step.step_id for outer in book.steps for step in outer.walk() if runs_command(step)}
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    for event in events:
        if isinstance(event.payload, StepActing) and event.payload.id in steps:
            begun.setdefault(event.payload.id, event.time)
        elif isinstance(event.payload, StepFinished):
            ended[event.payload.id] = event.time
    return [(at, ended.get(name, float("inf"))) for name, at in begun.items()]


def describe_unexamined(book: Runbook, events: Iterable[Event]) -> str:
    """Return what is not known of a run with commands of any kind; empty if only updates ran a command."""
    ran = {event.payload.id for event in events if isinstance(event.payload, StepActing)}
    walked = (step for outer in book.steps for step in outer.walk() if step.step_id in ran)
    others = any(runs_command(step) and not isinstance(step, ReplacesVersion) for step in walked)
    return f"; {UNEXAMINED}" if others else ""


def find_left_running(view: HostView, of_user: bool, windows: Sequence[CommandWindow]) -> dict[str, LeftRunning]:
    """Return what started in a window outside of the manager's own services and still runs, by unit.

    Raises HostError.
    """

    def is_new(process: Process) -> bool:
        started = view.find_start_time(process)
        return any(begun - CLOCK_TICK <= started <= ended + CLOCK_TICK for begun, ended in windows)

    processes = [one for one in view.list_processes() if not one.kernel and not one.dead] if windows else []
    by_place: dict[CgroupUnit, list[Process]] = {}
    for process in processes:
        by_place.setdefault(parse_cgroup_path(process.cgroup), []).append(process)
    found: dict[str, LeftRunning] = {}
    for place, inside in by_place.items():
        new = [one for one in inside if is_new(one)]
        if new and _may_be_started_by_command(view, place, inside, is_new, by_place, of_user=of_user):
            found[_name(place, new[0])] = _describe(place, new)
    return found


def find_uncertain_services(
    view: HostView, judgements: Iterable[Mapping[str, Any]], restarted: Collection[str], new: NewFiles
) -> dict[str, LeftRunning]:
    """Return the services that an unknown client started beside a command, and that ran before the files were restored.

    Raises HostError.
    """
    names = dict.fromkeys(name for one in judgements for name in one.get(UNCERTAIN_SERVICES) or ())
    running = [name for name in names if name not in restarted and view.unit(name).is_running]
    started = "was started by an unknown process while a command of this run was running, and may run the new version"
    return {
        name: LeftRunning(f"{name} {started}", view.unit(name).systemctl_command(JobVerb.RESTART))
        for name in describe_unproved(view, running, new)
    }


def _may_be_started_by_command(
    view: HostView,
    place: CgroupUnit,
    inside: Sequence[Process],
    is_new: Callable[[Process], bool],
    by_place: dict[CgroupUnit, list[Process]],
    *,
    of_user: bool,
) -> bool:
    if place.container or any(fnmatchcase(place.unit, pattern) for pattern in _NOT_OURS):
        return False
    if place.user_uid is not None and not of_user:
        # A manager that has just started was started by a login, with all its services.
        manager = [one for other, ones in by_place.items() if _is_manager_of(other, place) for one in ones]
        return place.kind is CgroupKind.SERVICE and bool(manager) and not any(map(is_new, manager))
    if (place.user_uid is None) is of_user:
        return False
    if place.kind is CgroupKind.SERVICE:
        unit = view.unit(place.unit)
        return unit.is_transient and not unit.triggered_by
    if place.kind is CgroupKind.SESSION:
        # In a login a person may start anything. That of `su` has ended with it, and has only what it left.
        # A session with an older process began before the command.
        return not any(protected.is_login_server(one) or one.has_terminal or not is_new(one) for one in inside)
    return place.kind is CgroupKind.SCOPE and not of_user


def _is_manager_of(manager: CgroupUnit, place: CgroupUnit) -> bool:
    return manager.kind is CgroupKind.MANAGER and manager.user_uid == place.user_uid


def _name(place: CgroupUnit, process: Process) -> str:
    return place.unit if place.user_uid is None else f"{place.unit} of user {process.user}"


def _describe(place: CgroupUnit, new: Sequence[Process]) -> LeftRunning:
    name, count = _name(place, new[0]), len(new) - MAX_NAMED_PROCESSES
    more = f" and {count} more" if count > 0 else ""
    named = f"{', '.join(map(str, new[:MAX_NAMED_PROCESSES]))}{more}"
    why = f"{name}: {named} started while a command of this run was running, and may run the new version"
    if place.user_uid is not None:
        restart = f"systemctl --user restart {quote(place.unit)}"
        return LeftRunning(why, enter_user_manager(place.user_uid, new[0].user, restart))
    again = f"start {'what it runs' if len(new) > 1 else new[0].name} again if it is needed"
    return LeftRunning(why, f"systemctl stop {quote(place.unit)}, and {again}")
