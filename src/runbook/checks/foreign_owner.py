"""Find another process on a port of a unit, and how long it may take to exit before it counts as in the unit's way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from runbook.checks.exit_reason import has_exited_by_itself
from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.host.interface import HostView
from runbook.model import Finding, Port, Verdict, fails

EXIT_GRACE = 2.0  # seconds that another process on the port has to exit: after a restart it may be the old main process


class ForeignOwner(NamedTuple):
    """A port that another process holds, or whose holder is unknown."""

    ownership: PortOwnership
    grace: float  # how long the other process may take to exit, in seconds


def find_foreign_owner(view: HostView, seen: Iterable[PortOwnership]) -> ForeignOwner | None:
    """Return the first port that another process holds, or whose holder is unknown."""
    found = next((one for one in seen if one.foreign_holders or one.verdict is Verdict.OWNER_UNKNOWN), None)
    if found is None:
        return None
    return ForeignOwner(found, max((_exit_grace(view, one) for one in found.foreign_holders), default=EXIT_GRACE))


def find_certain_owner(view: HostView, unit: Unit, ports: Collection[Port]) -> ForeignOwner | None:
    """Return the first port that another process holds; None if it is unknown whether one does."""
    found = find_foreign_owner(view, [view.judge_port(unit, port) for port in ports])
    if found is None or found.ownership.verdict is Verdict.OWNER_UNKNOWN:
        return None
    return ForeignOwner(found.ownership, max(EXIT_GRACE, found.grace))


def find_port_cause(
    view: HostView, unit: Unit, ports: Collection[Port], failed: str, facts: Mapping[str, Any]
) -> Finding | None:
    """Return the failure of a start whose program exited, if another process holds a port: that is the cause."""
    held = find_certain_owner(view, unit, ports) if has_exited_by_itself(unit) else None
    if held is None:
        return None
    owner = held.ownership
    return fails(owner.verdict, f"{failed}; {owner.reason}", **facts, ports=[owner.evidence()])


def judge_start_limit(
    view: HostView, unit: Unit, ports: Collection[Port], why: str, facts: Mapping[str, Any]
) -> Finding:
    """Return that the start limit is reached, and which other process holds a port: the next start would fail too."""
    if (held := find_certain_owner(view, unit, ports)) is None:
        return fails(Verdict.START_LIMIT_HIT, why, **facts)
    owner = held.ownership
    why = f"{why}, but then it would fail again: {owner.reason}"
    return fails(Verdict.START_LIMIT_HIT, why, **facts, ports=[owner.evidence()])


def _exit_grace(view: HostView, holder: Holder) -> float:
    if holder.role is not Role.OTHER_UNIT:
        return EXIT_GRACE  # It may be the old main process, or a child of it, that still exits.
    if not holder.unit.endswith(".service"):
        return 0.0  # A container or a socket unit keeps its port: no stop of it can be seen.
    # A service keeps its port too, unless it is being stopped: then it has the time that systemd gives it.
    other = view.unit(holder.unit)
    return other.timeout_stop_usec / 1e6 if other.active_state is ActiveState.DEACTIVATING else 0.0
