"""On which addresses a unit listened in earlier runs, from the evidence in their records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runbook.events import Event
from runbook.host.holders import Role, address_of
from runbook.model import Port
from runbook.records.history import RunRecord, list_runs

MAX_RUNS_READ = 20  # how many of the latest runs are searched


def find_listened(scope: str, unit: str, port: Port) -> tuple[str, ...]:
    """Return the addresses of the latest run that found the unit listening on the port; empty if none did."""
    for run in [run for run in list_runs() if run.header.scope == scope][:MAX_RUNS_READ]:
        if found := _find_in_run(run, unit, port):
            return found
    return ()


def list_listened_ports(scope: str, unit: str) -> tuple[Port, ...]:
    """Return the ports on which the latest run found the unit listening that found it on any; none if none did."""
    for run in [run for run in list_runs() if run.header.scope == scope][:MAX_RUNS_READ]:
        sockets = {
            one for event in run.read() for protocol in ("tcp", "udp") for one in _list_sockets(event, unit, protocol)
        }
        if found := {port for socket in sockets if (port := _parse_port(socket)) is not None}:
            return tuple(sorted(found, key=str))
    return ()


def _parse_port(socket: str) -> Port | None:
    """Return the port of "127.0.0.1:80" or "udp:[fe80::1%eth0]:53", without the address."""
    number = socket.rpartition(":")[2]
    return Port(int(number), "udp" if socket.startswith("udp:") else "tcp") if number.isdecimal() else None


def _find_in_run(run: RunRecord, unit: str, port: Port) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for event in run.read():
        addresses = (address_of(socket, port.number) for socket in _list_sockets(event, unit, port.protocol))
        found = tuple(dict.fromkeys(filter(None, addresses))) or found
    return found


def _list_sockets(event: Event, unit: str, protocol: str) -> Iterator[str]:
    """Yield the sockets of the unit's own processes in an event. Another version may have written it differently."""
    evidence = event.data.get("evidence")
    for holder in _list(evidence, "ports", "holders"):
        if holder.get("unit") == unit and holder.get("role") == Role.CURRENT:
            for socket in holder.get("sockets") or ():
                if isinstance(socket, str) and socket.startswith("udp:") == (protocol == "udp"):
                    yield socket


def _list(value: Any, *keys: str) -> Iterator[dict[str, Any]]:
    """Yield the mappings in nested lists of mappings."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            if not keys:
                yield one
            else:
                yield from _list(one.get(keys[0]), *keys[1:])
