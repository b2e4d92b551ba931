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
