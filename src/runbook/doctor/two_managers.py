"""Finds names and ports that the system's manager and the manager of a user both have."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.doctor.findings import FindingKind, MachineFinding, Severity
from runbook.doctor.machine_facts import MachineFacts, UnitId, unit_of
from runbook.host.facts import Unit
from runbook.model import Port

_PACKAGED = ("/usr/lib/", "/lib/")  # folders of unit files that come with packages, for both kinds of managers


def find_double_units(facts: MachineFacts) -> Iterator[MachineFinding]:
    """Yield each service of a user that has the name of one of the system, or a port of another service."""
    ports = _list_ports(facts)
    for user, units in facts.user_units.items():
        for unit in units.values():
            if not unit.is_service:
                continue
            shared = _list_shared(ports, UnitId(unit.name, user))
            other = facts.units.get(unit.name)
            if other is not None and not (_is_packaged(unit) and _is_packaged(other)):
                reason = f"the system has a unit of the same name, {other.state}; this one is {unit.state}"
                yield _make(facts, UnitId(unit.name, user), reason)
            elif shared:
                port, theirs = shared[0]
                yield _make(facts, UnitId(unit.name, user), f"{theirs} of the system listens on port {port}, too")


def _make(facts: MachineFacts, at: UnitId, reason: str) -> MachineFinding:
    command = facts.command("doctor", at)
    return MachineFinding(
        FindingKind.TWO_MANAGERS, Severity.WARNING, at.name, reason, command, facts.name_user(at.user)
    )


def _is_packaged(unit: Unit) -> bool:
    return unit.fragment_path.startswith(_PACKAGED)


def _list_ports(facts: MachineFacts) -> dict[UnitId, set[Port]]:
    """Return the ports on which each service of each manager listens."""
    ports: dict[UnitId, set[Port]] = {}
    for pid, held in facts.held_ports.items():
        if pid in facts.places and (at := unit_of(facts.places[pid])):
            ports.setdefault(at, set()).update(held)
    return ports


def _list_shared(ports: dict[UnitId, set[Port]], at: UnitId) -> list[tuple[Port, str]]:
    """Return the ports of a user's unit that services of the system have, too."""
    mine = ports.get(at, set())
    return [
        (port, one.name) for one, held in ports.items() if one.user is None for port in sorted(mine & held, key=str)
    ]
