"""Finds the processes that execute files which were replaced since they began: what must be restarted after an upgrade.

A process of a container is left out: its files are the container's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from runbook.checks.versions import describe_old_code, find_servers
from runbook.doctor.disruption import describe_disruption, needs_reboot
from runbook.doctor.findings import FindingKind, MachineFinding, Severity
from runbook.doctor.machine_facts import MachineFacts, UnitId, unit_of
from runbook.host.cgroups import CgroupKind, CgroupUnit
from runbook.host.facts import Unit
from runbook.host.holders import NEEDS_ROOT, Process
from runbook.host.interface import HostView
from runbook.host.queries import FileChange
from runbook.host.requesters import is_runtime

MAX_FILES = 3  # files that are named; the others are counted
_SCRIPT_WITHIN = 4  # words of a command line, within which an interpreter has its script
_CLOCK_SLACK = 1.0  # seconds by which the time of a file and of a process may differ
_NO_CHANGE = FileChange("", 0.0, 0)
_PAM = "(sd-pam)"  # a child of a user manager that only waits for its end, and that no daemon-reexec replaces
_MANAGER = "systemd"  # the subject of a manager itself
LOGINS = "logins"  # the subject of processes that are in no service
_USER_MANAGER = re.compile(r"user@\d+\.service")  # its daemon-reexec replaces its program, and keeps its start time


class OldProcess(NamedTuple):
    """A process that executes files which were replaced."""

    process: Process
    files: tuple[str, ...]


def find_old_units(facts: MachineFacts) -> Iterator[MachineFinding]:
    """Yield each unit whose processes execute files that were replaced; all logins together."""
    groups: dict[UnitId, list[OldProcess]] = {}
    unread, own_namespace = 0, _find_own_namespace(facts)
    for pid, process in facts.processes.items():
        place = facts.places[pid]
        is_apart = own_namespace and process.pid_namespace not in (0, own_namespace)
        if process.name == _PAM or place.container or is_apart:
            continue
        files = facts.view.find_replaced_files(process.id)
        if files is None:
            unread += 1
        elif files:
            groups.setdefault(_group(place), []).append(OldProcess(process, files))
    if unread:
        which = "a process" if unread == 1 else f"{unread} processes"
        facts.unseen.append(f"the files that {which} of other users execute: {NEEDS_ROOT}")
    for at, why in _find_changed_programs(facts):
        if at not in groups:
            yield _make(facts, at, why)
    for at, old in groups.items():
        yield _make(facts, at, describe(old))


def _make(facts: MachineFacts, at: UnitId, reason: str) -> MachineFinding:
    kind, user, advice = FindingKind.OLD_CODE, facts.name_user(at.user), ""
    if at.name not in (LOGINS, _MANAGER):
        is_own, is_users = at in facts.own_services, at.user is not None
        advice = describe_disruption(at.name, facts.find_unit(at), of_user=is_users, is_own=is_own)
    return MachineFinding(kind, Severity.WARNING, at.name, reason, _next(facts, at), user, advice)


def _find_changed_programs(facts: MachineFacts) -> Iterator[tuple[UnitId, str]]:
    """Yield the services whose program was written or installed since they began, and why.

    A script is not mapped. But it may have changed since, or a link on the way to it, or its package. This needs no
    rights, so an ordinary user finds upgraded programs by it, too.
    """
    began: dict[UnitId, tuple[str, float]] = {}  # the program of a unit, and when its main process began
    for user, units in facts.all_units:
        for unit in units.values():
            process = facts.processes.get(unit.main_pid)
            program = _find_program(unit.start_arguments)
            if _USER_MANAGER.fullmatch(unit.name) or process is None:
                continue
            if program and not facts.places[process.pid].container:
                began[UnitId(unit.name, user)] = program, facts.view.find_start_time(process)
    programs = {program for program, _ in began.values()}
    installed = facts.view.find_installations(programs, min((at for _, at in began.values()), default=0.0))
    for unit_id, (program, at) in began.items():
        if program in installed and installed[program].at > at + _CLOCK_SLACK:
            package = installed[program].package
            yield unit_id, f"the package {package}, which has its program {program}, was installed since it began"
        elif (known := facts.find_unit(unit_id)) is not None and (why := describe_old_program(facts.view, known)):
            yield unit_id, f"{why}: the old code still runs"


def describe_old_program(view: HostView, unit: Unit) -> str:
    """Return why the main process is older than its program, the file that it executes or what ExecStart= names.

    Empty if it is not older. A change is judged as `verify-version` does with `newer-than`.
    """
    servers, program = find_servers(view, unit, ()), _find_program(unit.start_arguments)
    change = view.find_latest_change(program) if servers and program.startswith("/") else None
    # A program that is being executed cannot be written: only its owner, its mode or its links changed.
    is_same_file = change is not None and change.path == servers[0].process.exe
    return describe_old_code(servers, change if change is not None and not is_same_file else _NO_CHANGE)


def _find_program(words: Sequence[str]) -> str:
    """Return the program of a command line: of an interpreter its script; empty if it names none."""
    if not words or not is_runtime(PurePosixPath(words[0]).name):
        return words[0] if words else ""
    return next((word for word in words[1:_SCRIPT_WITHIN] if word.startswith("/")), "")


def _find_own_namespace(facts: MachineFacts) -> int:
    """Return the PID namespace of the manager, or of a process of this user; 0 if it cannot be read."""
    first = facts.processes.get(1)
    if first is not None and first.pid_namespace:
        return first.pid_namespace
    return next((one.pid_namespace for one in facts.processes.values() if one.uid == facts.uid), 0)


def _group(place: CgroupUnit) -> UnitId:
    if at := unit_of(place):
        return at
    if place.kind is CgroupKind.MANAGER:
        return UnitId(_MANAGER, place.user_uid)
    return UnitId(LOGINS)


def describe(old: Sequence[OldProcess]) -> str:
    """Return which processes execute which files that were replaced."""
    first = old[0].process
    names = name_files([path for one in old for path in one.files])
    if len(old) == 1:
        return f"{first} runs code that was replaced since it began: {names}"
    return f"{first} and {len(old) - 1} more run code that was replaced since they began: {names}"


def name_files(paths: Sequence[str]) -> str:
    """Return the names of some files, without their folders."""
    names = list(dict.fromkeys(PurePosixPath(path).name for path in paths))
    more = len(names) - MAX_FILES
    return ", ".join(names[:MAX_FILES]) + (f" and {more} more" if more > 0 else "")


def _next(facts: MachineFacts, at: UnitId) -> str:
    unit = facts.find_unit(at)
    if at.name == LOGINS:
        return "log out and in again"
    if at.name == _MANAGER:
        return facts.systemctl("daemon-reexec", at.user)
    if at.user is None and needs_reboot(at.name, unit):
        return f"{facts.sudo}systemctl reboot"
    return facts.command("restart", at)
