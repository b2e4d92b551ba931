"""Finds processes that hold ports and belong to no unit, and those that earlier invocations left in a cgroup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from runbook.doctor.findings import FindingKind, MachineFinding, Severity
from runbook.doctor.machine_facts import MachineFacts, UnitId, unit_of
from runbook.doctor.ports import find_configured, find_ports_in_command
from runbook.doctor.wording import format_moment
from runbook.errors import HostError
from runbook.host.cgroups import CgroupKind
from runbook.host.facts import DOWN, Unit
from runbook.host.holders import Holder, Process
from runbook.host.kernel.accounts import find_local_user_name
from runbook.host.ownership.describe import describe_processes
from runbook.host.requesters import is_runtime, name_program
from runbook.model import Port, frozen

AGE_SLACK = 1.0  # seconds by which a process may seem older than the invocation that started it

_NO_SERVICE = (CgroupKind.SESSION, CgroupKind.SCOPE, CgroupKind.SLICE, CgroupKind.NONE)


@frozen
class Stray:
    """A process that listens on ports and is in no service."""

    process: Process  # with its command line and the names of its environment
    ports: tuple[Port, ...]
    suspects: tuple[str, ...]  # the units of the system whose program or port it has

    @property
    def first_suspect(self) -> str:
        """The unit that it is most likely a copy of; empty if there is none."""
        return next(iter(self.suspects), "")


def find_strays(facts: MachineFacts) -> Iterator[Stray]:
    """Yield the processes that listen and are in no service; of a family with the same ports, only the eldest."""
    for pid, ports in facts.held_ports.items():
        outline = facts.processes.get(pid)
        if outline is None or pid == 1 or facts.places[pid].container or facts.places[pid].kind not in _NO_SERVICE:
            continue
        if set(ports) <= set(facts.held_ports.get(outline.ppid, ())):
            continue
        if (process := facts.view.find_process(pid)) is not None and process.id == outline.id:
            yield Stray(process, ports, tuple(_find_suspects(facts, process, ports)))


def _find_suspects(facts: MachineFacts, process: Process, ports: tuple[Port, ...]) -> Iterator[str]:
    program = name_program(process.name, process.command)
    for unit in facts.units.values():
        if not unit.is_service or not unit.start_arguments:
            continue
        if _is_same_program(unit, program) or not set(ports).isdisjoint(_list_configured(facts, unit)):
            yield unit.name


def _is_same_program(unit: Unit, program: str) -> bool:
    words = unit.start_arguments
    own = name_program(PurePosixPath(words[0]).name, words)
    return bool(own) and own == program and not is_runtime(own)


def _list_configured(facts: MachineFacts, unit: Unit) -> set[Port]:
    if unit.active_state in DOWN or unit.n_restarts:
        return {port for port, _ in find_configured(facts.view, unit)}
    # Of a unit that is up, the files of its environment are not read: there may be hundreds.
    return set(find_ports_in_command(unit.start_arguments))


def describe_taken_port(facts: MachineFacts, at: UnitId, unit: Unit) -> str:
    """Return which process outside a unit has a port that the unit's configuration names; empty if none has."""
    wanted = _list_configured(facts, unit)
    for pid, ports in facts.held_ports.items():
        place = facts.places.get(pid)
        shared = wanted.intersection(ports)
        if not shared or place is None or unit_of(place) == at:
            continue
        if (process := facts.view.find_process(pid)) is not None:
            began = format_moment(facts.view.find_start_time(process), facts.view.clock.now())
            port, where = min(shared, key=str), place.unit or "no unit"
            return f"port {port} is held by {process} of {process.user} since {began}, in {where}"
    # Who holds it may be hidden, but the user who made the socket is not. Without a cookie, the kernel reports no user.
    for one in facts.scan.listeners:
        if (port := Port(one.number, one.protocol)) in wanted and one.cookie and at.user not in (None, one.uid):
            return f"port {port} is held by a process of {find_local_user_name(one.uid)}"
    return ""


def describe_strays(facts: MachineFacts, strays: list[Stray]) -> Iterator[MachineFinding]:
    """Yield those of the strays that nothing manages any more. One in a login that its parent still has is left out."""
    for stray in strays:
        process, kind = stray.process, facts.places[stray.process.pid].kind
        if process.invocation_id and kind is not CgroupKind.SCOPE:
            why = "a unit started it, by its INVOCATION_ID, and it left the cgroup of that unit"
        elif kind is not CgroupKind.SCOPE and _is_reparented(facts, process):
            why = "the process that started it has exited, and no unit manages it"
        else:
            continue
        where = facts.places[process.pid].unit or "no unit"
        ports = " and ".join(f"port {port}" for port in stray.ports)
        reason = f"{process} of {process.user}, in {where}, holds {ports}: {why}"
        command = facts.command("doctor", UnitId(stray.first_suspect)) if stray.suspects else f"ps -fp {process.pid}"
        yield MachineFinding(FindingKind.ORPHAN, Severity.WARNING, f"port {stray.ports[0]}", reason, command)


def _is_reparented(facts: MachineFacts, process: Process) -> bool:
    """True if the parent is systemd, which takes over the children of processes that exit."""
    return process.ppid == 1 or (process.ppid in facts.places and facts.places[process.ppid].kind is CgroupKind.MANAGER)


def find_left_processes(facts: MachineFacts) -> Iterator[MachineFinding]:
    """Yield the units of the system in whose cgroup processes of an earlier invocation are."""
    for at in dict.fromkeys(_list_candidates(facts)):
        try:
            unit = facts.find_unit(at) or facts.view.unit(at.name)
            left = [one for one in facts.view.find_leftovers(unit) if one.may_be_killed]
        except HostError as error:
            facts.unseen.append(f"what is left in the cgroup of {at.name}: {error.message}")
            continue
        if left:
            yield MachineFinding(
                FindingKind.LEFTOVER,
                Severity.WARNING,
                unit.name,
                _describe_leftovers(facts, left),
                facts.command("doctor", at),
            )


def _list_candidates(facts: MachineFacts) -> Iterator[UnitId]:
    """Yield the units with a process that is older than the invocation, or that are down."""
    boot = facts.view.clock.now() - facts.view.clock.monotonic()
    for pid, process in facts.processes.items():
        at = unit_of(facts.places[pid])
        if at is None or at.user is not None:
            continue
        unit = facts.find_unit(at)
        began = unit.began_monotonic / 1e6 if unit is not None and unit.is_running else None
        if began is None or facts.view.find_start_time(process) - boot < began - AGE_SLACK:
            yield at


def _describe_leftovers(facts: MachineFacts, left: list[Holder]) -> str:
    shown = describe_processes(left)
    ports = {str(port) for one in left for port in facts.held_ports.get(one.process.pid, ())}
    holds = f", and hold{'s' if len(left) == 1 else ''} port {', '.join(sorted(ports))}" if ports else ""
    return f"{shown} of an earlier invocation {'is' if len(left) == 1 else 'are'} still in its cgroup{holds}"
