"""Which of a unit's ports a proved restart demands afterwards: those that the service promises to its clients.

the unit's process or its socket unit listens on it ──── demanded, on each of its addresses
  and the kernel chose the number ────────────────────── not: it may be another one after each start
  and so does another service ────────────────────────── not: the two share it
  and the process is one that a stop leaves running ──── not: the restart does not concern it
the unit has lost it, or is down
  a socket unit, or its log and its settings, name it ── demanded
  an earlier run recorded it ─────────────────────────── demanded, unless the unit is up and was not restarted
  only its log or its settings name it ───────────────── not: others may write there, or a client's port is meant
    and another process holds it ─────────────────────── only in a draft, which is read before it is run
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from runbook.doctor.ports import EARLIER_RUN, LOG_SOURCE, FoundPort, find_ports, is_required
from runbook.host.facts import UP, Unit
from runbook.host.holders import Holder, PortOwnership, Role, address_of, parse_address
from runbook.host.interface import HostView
from runbook.host.ownership.describe import describe_holders
from runbook.model import Port, Verdict

CLIENT_PORTS = (Port(68, "udp"), Port(546, "udp"))  # of DHCP: a client binds them
MAX_PORTS = 32  # that are demanded: each takes a look at its holders, again and again


@dataclass
class DemandedPorts:
    """The ports that a unit must own after its restart, and sentences about those that it need not own."""

    unit: Unit
    ports: list[Port] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def skip(self, port: Port, why: str) -> None:
        """Leave out a port, for a reason that is reported."""
        self.notices.append(f"port {port} is not proved: {why}; to have it proved, add --port {port}")


def find_demanded_ports(
    view: HostView,
    unit: Unit,
    named: Collection[Port],
    recorded: Callable[[], Collection[Port]],
    *,
    draft: bool = False,
) -> DemandedPorts:
    """Return the ports to be proved: those that the operator named, else those that the unit has or should have.

    `recorded` returns what earlier runs recorded. For a `draft`, a port counts that the unit only seems to have lost.
    Raises HostError if the machine cannot be read.
    """
    demanded = DemandedPorts(unit)
    if named:
        demanded.ports += named
        return demanded
    # A unit that is up, and was not restarted by systemd, has the ports that it needs: its settings may have changed.
    is_steady = unit.active_state in UP and not unit.n_restarts
    found = find_ports(view, unit, recorded=recorded if draft or not is_steady else lambda: ())
    owners = {one: view.judge_port(unit, one.port) for one in found}
    missing = [one for one in found if not _demand_owned(demanded, one, owners[one])]
    for one in missing:
        if _is_confirmed(unit, one, others=bool(demanded.ports)) or (draft and _seems_lost(unit, one, owners[one])):
            _demand_missing(demanded, one)
        elif not demanded.ports:
            demanded.skip(one.port, _describe_unproved(unit, one, owners[one]))
    if len(demanded.ports) > MAX_PORTS:
        count, demanded.ports = len(demanded.ports), demanded.ports[:MAX_PORTS]
        demanded.notices.append(f"{unit.name} has {count} ports, of which the first {MAX_PORTS} are proved")
    if unit.is_service and not demanded.ports and not demanded.notices:
        demanded.notices.append(_describe_none(unit))
    return demanded


def _demand_owned(demanded: DemandedPorts, found: FoundPort, ownership: PortOwnership) -> bool:
    """Demand a port on which the unit listens now, or skip it with a reason. False if it does not listen on it."""
    unit = demanded.unit
    own = [one for one in ownership.holders if not one.is_foreign]
    if ownership.verdict is Verdict.OWNER_UNKNOWN and found.listening:
        addresses = filter(None, (address_of(socket, found.port.number) for socket in found.listening))
        demanded.ports += _name_addresses(found.port, addresses)
        return True  # The run reports it, and may be allowed to read more than this look.
    if not own:
        return False
    killed = [one for one in own if one.role is not Role.CURRENT or _is_killed(unit, one)]
    if found.is_kernels_choice:
        demanded.skip(found.port, "its number is one that the kernel chooses (ip_local_port_range)")
    elif found.port in CLIENT_PORTS:
        demanded.skip(found.port, "it is a client's")
    elif not killed:
        demanded.skip(found.port, f"a restart leaves {own[0].process} running (KillMode={unit.kill_mode})")
    elif any(one.role is Role.OTHER_UNIT for one in ownership.holders):
        demanded.skip(found.port, f"it {ownership.reason.removeprefix(f'port {found.port} ')}")
    else:
        demanded.ports += _name_addresses(found.port, (socket.address for one in killed for socket in one.sockets))
    return True


def _is_killed(unit: Unit, holder: Holder) -> bool:
    return unit.stop_kills(holder.process.pid, holder.process.ppid)


def _is_confirmed(unit: Unit, found: FoundPort, *, others: bool) -> bool:
    """True if it is certain that a unit should have a port that it does not have now. It has `others`."""
    if unit.active_state in UP and LOG_SOURCE not in found.sources:
        if others:
            return False  # A socket unit that is down is not needed.
        if EARLIER_RUN in found.sources and not unit.n_restarts:
            return False
    return found.is_certain and (len(found.sources) > 1 or not (found.listening or found.sources == (LOG_SOURCE,)))


def _seems_lost(unit: Unit, found: FoundPort, owner: PortOwnership) -> bool:
    return bool(owner.foreign_holders) and is_required(unit, found, owner)


def _demand_missing(demanded: DemandedPorts, found: FoundPort) -> None:
    demanded.ports.append(found.port)
    sources = " and ".join(found.sources)
    demanded.notices.append(f"{demanded.unit.name} does not listen on port {found.port} now; it must ({sources})")


def _describe_unproved(unit: Unit, found: FoundPort, owner: PortOwnership) -> str:
    named_by = "" if found.listening else f", and only {found.sources[0]} names it"
    if holders := owner.foreign_holders:
        return f"it is held by {describe_holders(holders, os.geteuid() if unit.of_user else None)}{named_by}"
    return f"{unit.name} does not listen on it now{named_by}"


def _name_addresses(port: Port, addresses: Iterable[str]) -> Iterator[Port]:
    """Yield a port with each address of its sockets; none that a wildcard among them contains.

    A link-local address is only valid on an interface, which a port has no place for.
    """
    found = sorted(set(map(parse_address, addresses)), key=lambda one: (one.version, one))
    wild = {one.version for one in found if one.is_unspecified}
    named = [one for one in found if one.is_unspecified or not (wild & {one.version, 6} or one.is_link_local)]
    yield from (Port(port.number, port.protocol, str(one)) for one in named)
    if not named:
        yield port


def _describe_none(unit: Unit) -> str:
    if unit.is_umbrella:
        return f"{unit.name} runs no server (Type=oneshot), so no port is proved"
    if unit.is_running:
        return f"{unit.name} listens on no port, so only its health is proved"
    return f"{unit.name} is {unit.describe()}, and no port of it is known, so none is proved; --port PORT names one"
