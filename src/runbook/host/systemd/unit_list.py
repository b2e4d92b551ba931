"""Reads all units of a manager that matter for the whole machine, also of a manager of another user.

Root is not let onto the bus of a user, but systemd's own socket accepts it. The user can put another program in the
place of his manager, so its answers are not trusted.
"""

from __future__ import annotations

from dataclasses import replace

from runbook.errors import HostError
from runbook.host.facts import ActiveState, Unit, unit_path
from runbook.host.loop import Loop
from runbook.host.systemd.addresses import Endpoint
from runbook.host.systemd.bus import CALL_TIMEOUT, Bus
from runbook.host.systemd.manager import LIVE_STATES, MANAGER, MANAGER_PATH, SERVICE
from runbook.host.systemd.properties import make_unit
from runbook.model import Deadline
from runbook.util.names import parse_unit_name

USER_TIMEOUT = 0.5  # seconds in which a manager of a user must have answered all

_ASKED: tuple[tuple[list[ActiveState], list[str]], ...] = (
    ([*LIVE_STATES], ["*.service", "*.socket"]),
    ([ActiveState.FAILED], []),
)
"""The states and the patterns of the units that are read."""


def list_units(bus: Bus, deadline: Deadline, *, of_user: bool) -> tuple[Unit, ...]:
    """Read the services and sockets that are not inactive, and all other units that failed. Raises HostError."""
    names = dict.fromkeys(name for states, patterns in _ASKED for name in _list(bus, states, patterns, deadline))
    found = bus.list_properties(map(unit_path, names), what="read the units", deadline=deadline)
    return tuple(replace(make_unit(properties), of_user=of_user) for properties in found)


def list_user_units(loop: Loop, uid: int) -> tuple[Unit, ...]:
    """Read those of the manager of a user. Raises HostError if it cannot be reached, or does not answer as one does."""
    deadline = Deadline.after(loop.clock, USER_TIMEOUT)
    endpoint = Endpoint(f"unix:path=/run/user/{uid}/systemd/private", peer=True)
    bus = Bus(loop, (endpoint,), SERVICE, renewed=lambda: None, timeout=USER_TIMEOUT)
    try:
        units = list_units(bus, deadline, of_user=True)
        for unit in units:
            parse_unit_name(unit.name)
        return units
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise HostError(f"the user manager of {uid} does not answer as systemd does") from error
    finally:
        bus.close()


def _list(bus: Bus, states: list[ActiveState], patterns: list[str], deadline: Deadline) -> list[str]:
    wanted = ("(asas)", ([str(state) for state in states], patterns))
    seconds, what = min(CALL_TIMEOUT, deadline.remaining), "list the units"
    (found,) = bus.call(
        MANAGER_PATH, MANAGER, "ListUnitsByPatterns", wanted, what=what, timeout=seconds, repeat_if_lost=True
    )
    return [unit[0] for unit in found]
