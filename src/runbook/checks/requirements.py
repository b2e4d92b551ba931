"""Find which required unit keeps a unit from starting, however many levels down, and which process holds its port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from runbook.checks.exit_reason import describe_exit, describe_unmet_conditions
from runbook.host.facts import DOWN, LISTEN_PROTOCOLS, ActiveState, LoadState, Unit
from runbook.host.holders import PortOwnership, parse_address
from runbook.host.interface import SHARED_READ_AGE, HostView
from runbook.model import Port, Verdict

MAX_REQUIRED = 100  # how many required units are read, at most
MAX_FAILED_NAMED = 3  # how many of those that failed, and how many ports of each, are named


class FailedRequirement(NamedTuple):
    """A unit that another one requires, directly or through further units, and that keeps it from starting."""

    unit: Unit
    chain: tuple[str, ...]  # the units from the one that is to start to this one, both included
    why: str  # "failed: its main process exited with status 3"
    ports: tuple[PortOwnership, ...] = ()  # those that it found in use, or should listen on
    uses: str = ""  # which sockets that do not listen have them

    def __str__(self) -> str:
        first, *others = self.chain
        needs = ", which needs ".join(others)
        held = "".join(f"; {one.reason}" for one in self.ports if one.verdict is not Verdict.NOT_LISTENING)
        return f"{first} needs {needs}, which {self.why}{held}{self.uses}"

    def evidence(self) -> dict[str, Any]:
        """Return the facts of the unit, and who holds its ports."""
        ports = [one.evidence() for one in self.ports]
        return {"unit": self.unit.name, "chain": list(self.chain), **self.unit.evidence(), "ports": ports}


def find_failed_requirements(view: HostView, unit: Unit, *, of_job: bool = False) -> list[FailedRequirement]:
    """Return the required units that failed, and keep `unit` from starting.

    `of_job`: systemd reported that a unit which this one requires did not start. If none has failed then, those count
    that are not up: a device did not appear in time, or Requisite= names a unit that is down.
    """
    failed, down = [], []
    for chain, other in _walk_required(view, unit):
        if why := _find_own_failure(other):
            ports = tuple(view.judge_port(other, port) for port in _find_ports(view, other)[:MAX_FAILED_NAMED])
            free = (one.port for one in ports if one.verdict is Verdict.NOT_LISTENING)
            uses = "".join(view.describe_port_uses(other, port) for port in free)
            failed.append(FailedRequirement(other, chain, why, ports, uses))
        elif not (other.has_done_its_work and other.active_state in DOWN):
            down.append(FailedRequirement(other, chain, f"is {other.describe()}"))
    # Of units that are only down, the last one of a chain is the cause.
    passed = {name for one in down for name in one.chain[:-1]}
    last = [one for one in down if one.unit.name not in passed] if of_job else []
    return (failed or last)[:MAX_FAILED_NAMED]


def describe_failed_requirements(view: HostView, unit: Unit) -> str:
    """Return which required units failed since this unit went down, and why; empty if none did."""
    found = find_failed_requirements(view, unit)
    since = unit.inactive_enter_monotonic if unit.invocation_id else 0
    return "; ".join(str(one) for one in found if one.unit.state_change_monotonic >= since)


def describe_failed_binding(view: HostView, unit: Unit) -> str:
    """Return which unit failed that this one is bound to (BindsTo=), and was stopped with; empty if none did."""
    if not unit.binds_to:
        return ""
    bound = [one for one in find_failed_requirements(view, unit) if one.chain[1] in unit.binds_to]
    began, ended = unit.began_monotonic, unit.inactive_enter_monotonic
    return "; ".join(f"{one} (BindsTo=)" for one in bound if began <= one.unit.state_change_monotonic <= ended)


def _walk_required(view: HostView, unit: Unit) -> Iterator[tuple[tuple[str, ...], Unit]]:
    """Yield each required unit that is not up, with the units on the way to it; of one that failed, go no further."""
    seen = {unit.name}
    left: list[tuple[tuple[str, ...], Unit]] = [((unit.name,), unit)]
    while left:
        chain, one = left.pop(0)
        for name in (*one.requires, *one.binds_to, *one.requisite):
            if name in seen or len(seen) > MAX_REQUIRED:
                continue
            seen.add(name)
            other = view.unit(name, max_age=SHARED_READ_AGE)
            if other.active_state in (*DOWN, ActiveState.ACTIVATING):
                path = (*chain, other.name)
                yield path, other
                if not _find_own_failure(other):
                    left.append((path, other))


def _find_own_failure(unit: Unit) -> str:
    """Return how a unit failed by itself; empty if it did not, or only because of a unit that it requires."""
    if unit.load_state is LoadState.MASKED:
        return f"is masked ({unit.systemctl_command('unmask')} lifts that)"
    if unit.load_state not in (LoadState.LOADED, LoadState.MERGED):
        return f"systemd cannot load: {unit.load_error or unit.load_state}"
    if not unit.assert_result:
        return f"was not started: {describe_unmet_conditions(unit, 'an Assert')} does not hold"
    if unit.sub_state.startswith("auto-restart"):
        return f"is {unit.state}: {describe_exit(unit)}"
    if unit.active_state is not ActiveState.FAILED:
        return ""
    if unit.listen and unit.result == "resources":
        return f"failed: it could not listen on {' and '.join(address for _, address in unit.listen)}"
    return f"failed: {describe_exit(unit)}"


def _find_ports(view: HostView, unit: Unit) -> tuple[Port, ...]:
    """Return the ports of a unit that failed: those of a socket unit, or those that a service found in use."""
    if not unit.name.endswith(".socket"):
        return view.find_refused_ports(unit)
    found = (parse_listen(kind, address) for kind, address in unit.listen)
    return tuple(dict.fromkeys(port for port in found if port is not None))


def parse_listen(kind: str, endpoint: str) -> Port | None:
    """Return the port of an address that a socket unit listens on; None for a path, and for other kinds."""
    host, _, number = endpoint.rpartition(":")
    address = host.strip("[]").partition("%")[0]
    try:
        is_any = parse_address(address).is_unspecified
    except ValueError:
        return None
    protocol = LISTEN_PROTOCOLS.get(kind)
    return None if protocol is None else Port(int(number), protocol, None if is_any else address)
