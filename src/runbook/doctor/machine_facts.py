"""The facts that the diagnosis of a whole machine is made from, read once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from shlex import quote
from typing import NamedTuple, TypeVar

from runbook.errors import HostError
from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import NEEDS_ROOT, PortScan, Process
from runbook.host.interface import HostView
from runbook.host.kernel.accounts import enter_user_manager, find_local_user_name
from runbook.model import Port

T = TypeVar("T")

MANAGERS_TIME = 1.0  # seconds after which no further manager of a user is read

_USER_MANAGER = re.compile(r"user@(\d+)\.service")


class UnitId(NamedTuple):
    """A unit of one of the managers."""

    name: str
    user: int | None = None  # the user whose manager has it


@dataclass
class MachineFacts:
    """What was read of a machine."""

    view: HostView
    uid: int  # the effective user of this program, for whom the commands are written
    units: dict[str, Unit]  # of the system's manager
    user_units: dict[int, dict[str, Unit]] = field(default_factory=dict)  # of the managers of users, by user
    processes: dict[int, Process] = field(default_factory=dict)
    scan: PortScan = field(default_factory=PortScan)
    unseen: list[str] = field(default_factory=list)

    @cached_property
    def places(self) -> dict[int, CgroupUnit]:
        """The place of each process, by PID."""
        return {pid: parse_cgroup_path(process.cgroup) for pid, process in self.processes.items()}

    @cached_property
    def held_ports(self) -> dict[int, tuple[Port, ...]]:
        """The ports on which each process listens, by PID."""
        by_inode = {one.inode: Port(one.number, one.protocol) for one in self.scan.listeners}
        held = {pid: {by_inode[inode] for inode in inodes} for pid, inodes in self.scan.holders.items()}
        return {pid: tuple(sorted(ports, key=str)) for pid, ports in held.items()}

    @property
    def all_units(self) -> list[tuple[int | None, dict[str, Unit]]]:
        """The units of each manager, with its user; None for the system's."""
        return [(None, self.units), *self.user_units.items()]

    @property
    def services(self) -> list[Unit]:
        """The services of all managers."""
        return [unit for _, units in self.all_units for unit in units.values() if unit.is_service]

    @cached_property
    def own_services(self) -> set[UnitId]:
        """The services that this program, or a process above it, runs in: their restart ends the operator's session."""
        found, pid = set[UnitId](), os.getpid()
        while (process := self.processes.get(pid)) is not None and pid != process.ppid:
            found |= {at} if (at := unit_of(self.places[pid])) else set()
            pid = process.ppid
        return found

    def find_unit(self, at: UnitId) -> Unit | None:
        """Return a unit that was read; None if it was not."""
        return (self.units if at.user is None else self.user_units.get(at.user, {})).get(at.name)

    def command(self, verb: str, at: UnitId) -> str:
        """Return a command of this program about a unit, for the user who runs this program."""
        if at.user is None:
            return f"{self.sudo}runbook {verb} {quote(at.name)}"
        own = f"runbook {verb} --user {quote(at.name)}"
        return (
            own
            if at.user == self.uid
            else f"{self.sudo}{enter_user_manager(at.user, find_local_user_name(at.user), own)}"
        )

    def systemctl(self, verb: str, user: int | None) -> str:
        """Return a command of systemctl for a whole manager."""
        if user is None:
            return f"{self.sudo}systemctl {verb}"
        own = f"systemctl --user {verb}"
        return own if user == self.uid else f"{self.sudo}{enter_user_manager(user, find_local_user_name(user), own)}"

    @property
    def sudo(self) -> str:
        """The word before a command that needs the rights of root; empty for root."""
        return "sudo " if self.uid else ""

    def name_user(self, user: int | None) -> str:
        """Return the name of the user whose manager has a unit; empty for the system's."""
        return "" if user is None else find_local_user_name(user)


def read_facts(view: HostView, uid: int) -> MachineFacts:
    """Read a machine. What cannot be read is unseen, except the system's manager. Raises HostError."""
    facts = MachineFacts(view, uid, _by_name(view.list_units()))
    _read_user_managers(facts)
    listed = _read(facts, view.list_processes, "the processes")
    facts.processes = {one.pid: one for one in listed or () if not one.kernel and not one.dead}
    facts.scan = _read(facts, view.scan_ports, "the ports") or PortScan()
    if facts.scan.hidden:
        hidden = facts.scan.hidden
        which = "a process" if hidden == 1 else f"{hidden} processes"
        facts.unseen.append(f"the ports of {which} of other users: {NEEDS_ROOT}")
    return facts


def _read(facts: MachineFacts, read: Callable[[], T], what: str) -> T | None:
    try:
        return read()
    except HostError as error:
        facts.unseen.append(f"{what}: {error.message}")
        return None


def _read_user_managers(facts: MachineFacts) -> None:
    end, others = facts.view.clock.monotonic() + MANAGERS_TIME, []
    running = [name for name, unit in facts.units.items() if unit.is_running]
    for user in [int(match[1]) for name in running if (match := _USER_MANAGER.fullmatch(name))]:
        who = find_local_user_name(user)
        if facts.uid not in (0, user):
            others.append(who)
        elif facts.view.clock.monotonic() > end:
            facts.unseen.append(f"the user manager of {who}: the others took too long")
        elif (units := _read(facts, partial(facts.view.list_units, user), f"the user manager of {who}")) is not None:
            facts.user_units[user] = _by_name(units)
    if others:
        facts.unseen.append(f"the user manager{'' if len(others) == 1 else 's'} of {', '.join(others)} (not root)")


def _by_name(units: Iterable[Unit]) -> dict[str, Unit]:
    return {unit.name: unit for unit in units}


def unit_of(place: CgroupUnit) -> UnitId | None:
    """Return the service that a process is in; None if it is in none, or in a container."""
    is_service = place.kind is CgroupKind.SERVICE and not place.container
    return UnitId(place.unit, place.user_uid) if is_service else None
