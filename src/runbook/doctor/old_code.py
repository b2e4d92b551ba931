"""Finds the processes that execute files which were replaced since they began: what must be restarted after an upgrade.

A process of a container is left out: its files are the container's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from runbook.doctor.findings import FindingKind, MachineFinding, Severity
from runbook.doctor.machine_facts import MachineFacts, UnitId, unit_of
from runbook.host.cgroups import CgroupKind, CgroupUnit
from runbook.host.holders import NEEDS_ROOT, Process

MAX_FILES = 3  # files that are named; the others are counted
LOGINS = "logins"  # the subject of processes that are in no service
_BUSES = ("dbus.service", "dbus-broker.service")  # what is connected to them does not survive their restart


class OldProcess(NamedTuple):
    """A process that executes files which were replaced."""

    process: Process
    files: tuple[str, ...]


def find_old_units(facts: MachineFacts) -> Iterator[MachineFinding]:
    """Yield each unit whose processes execute files that were replaced; all logins together."""
    groups: dict[UnitId, list[OldProcess]] = {}
    unread = 0
    own_namespace = _find_own_namespace(facts)
    for pid, process in facts.processes.items():
        place = facts.places[pid]
        if place.container or (own_namespace and process.pid_namespace not in (0, own_namespace)):
            continue
        files = facts.view.find_replaced_files(process.id)
        if files is None:
            unread += 1
        elif files:
            groups.setdefault(_group(place), []).append(OldProcess(process, files))
    if unread:
        which = "a process" if unread == 1 else f"{unread} processes"
        facts.unseen.append(f"the files that {which} of other users execute: {NEEDS_ROOT}")
    for at, old in groups.items():
        yield MachineFinding(
            FindingKind.OLD_CODE, Severity.WARNING, at.name, describe(old), _next(facts, at), facts.name_user(at.user)
        )


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
        return UnitId("systemd", place.user_uid)
    return UnitId(LOGINS)


def describe(old: Sequence[OldProcess]) -> str:
    """Return which processes execute which files that were replaced."""
    first = old[0].process
    files = dict.fromkeys(PurePosixPath(path).name for one in old for path in one.files)
    names = _shorten(list(files))
    if len(old) == 1:
        return f"{first} runs code that was replaced since it began: {names}"
    return f"{first} and {len(old) - 1} more run code that was replaced since they began: {names}"


def _shorten(names: list[str]) -> str:
    more = len(names) - MAX_FILES
    return ", ".join(names[:MAX_FILES]) + (f" and {more} more" if more > 0 else "")


def _next(facts: MachineFacts, at: UnitId) -> str:
    unit = facts.find_unit(at)
    if at.name == LOGINS:
        return "log out and in again"
    if at.name == "systemd":
        return facts.systemctl("daemon-reexec", at.user)
    if at.user is None and (at.name in _BUSES or (unit is not None and unit.refuse_manual_stop)):
        return f"{facts.sudo}systemctl reboot"
    return facts.command("restart", at)
