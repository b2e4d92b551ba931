"""What systemd reported of a unit and who held its port, side by side over the time of a run, from its events.

A run looks at both from time to time. A moment is one look, or several that found the same; between two moments nothing
is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from runbook import events
from runbook.host.holders import Role

OWN_ROLES = (Role.CURRENT, Role.SOCKET_UNIT)
MAX_APART = 1.0  # seconds between two looks at different things that still are one moment
NOT_ACTIVE = ("inactive", "failed", "deactivating", "activating")


class Held(StrEnum):
    """Who holds a port."""

    OWN = "own"  # the unit, and no other process
    FOREIGN = "foreign"  # a process that is not of the unit's current invocation
    NOTHING = "nothing"  # no process
    UNKNOWN = "unknown"  # it cannot be determined


class UnitState(NamedTuple):
    """What systemd reported of a unit."""

    active: str  # ActiveState
    sub: str  # SubState
    pid: int  # of the main process; 0 if there is none
    restarts: int  # NRestarts
    invocation: str  # InvocationID


class HolderFact(NamedTuple):
    """A process that held a port."""

    pid: int
    role: str  # towards the unit, such as `orphan`
    unit: str  # of the process
    user: str
    command: str

    @property
    def is_own(self) -> bool:
        """True if it is of the unit."""
        return self.role in OWN_ROLES


class PortState(NamedTuple):
    """What the kernel reported of a port."""

    held: Held
    holders: tuple[HolderFact, ...]


class Look(NamedTuple):
    """What one event contains of a unit and a port; None for what was not looked at."""

    time: float
    step: str
    unit: UnitState | None
    port: PortState | None

    def fits(self, later: Look) -> bool:
        """Return True if both looks found the same. The PIDs of the unit's own processes may differ."""
        if (self.unit is None) != (later.unit is None) or (self.port is None) != (later.port is None):
            near = later.time - self.time <= MAX_APART
            return near and all(a is None or b is None or a == b for a, b in zip(self[2:], later[2:], strict=True))
        return self.kind == later.kind

    @property
    def kind(self) -> tuple[object, ...]:
        """What makes two looks different."""
        unit = self.unit[:2] if self.unit is not None else None
        foreign = self.port and tuple(one.pid for one in self.port.holders if not one.is_own)
        return unit, self.port and self.port.held, foreign


class Moment(NamedTuple):
    """Looks that found the same."""

    looks: tuple[Look, ...]
    alternates: bool = False  # True if it alternates with the moment beside it

    @property
    def began(self) -> float:
        """The time of the first look."""
        return self.looks[0].time

    @property
    def ended(self) -> float:
        """The time of the last look."""
        return self.looks[-1].time

    @property
    def unit(self) -> UnitState | None:
        """What systemd reported last; None if it was not asked."""
        return next((look.unit for look in reversed(self.looks) if look.unit is not None), None)

    @property
    def port(self) -> PortState | None:
        """Who held the port; None if that was not read."""
        return next((look.port for look in reversed(self.looks) if look.port is not None), None)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that looked."""
        return tuple(dict.fromkeys(look.step for look in self.looks if look.step))

    @property
    def pids(self) -> tuple[int, ...]:
        """The main processes of the unit."""
        return tuple(dict.fromkeys(look.unit.pid for look in self.looks if look.unit is not None and look.unit.pid))

    @property
    def invocations(self) -> tuple[str, ...]:
        """The invocations of the unit."""
        found = (look.unit.invocation for look in self.looks if look.unit is not None and look.unit.invocation)
        return tuple(dict.fromkeys(found))

    @property
    def is_contradiction(self) -> bool:
        """True if systemd reports the unit as active, and another process has the port."""
        return self._is_active and self.port is not None and self.port.held is Held.FOREIGN

    @property
    def is_silent(self) -> bool:
        """True if systemd reports the unit as active, and nothing listens, as at the start of many programs."""
        return self._is_active and self.port is not None and self.port.held is Held.NOTHING

    @property
    def _is_active(self) -> bool:
        return self.unit is not None and self.unit.active not in NOT_ACTIVE

    @property
    def kind(self) -> tuple[object, ...]:
        """What makes two moments different."""
        return Look(self.began, "", self.unit, self.port).kind


class Lanes(NamedTuple):
    """A unit and one of its ports."""

    unit: str
    port: str  # empty if no port was looked at
    moments: tuple[Moment, ...]


def make_lanes(recorded: Iterable[events.Event]) -> list[Lanes]:
    """Return the lanes of each unit and port that the run looked at. Events that cannot be read are left out."""
    found: dict[str, dict[str, list[Look]]] = {}
    for time, step, unit, facts in _observe(recorded):
        state = _read_unit(facts)
        ports = {str(one.get("port")): _read_port(one) for one in _mappings(facts.get("ports"))}
        if state is None and not ports:
            continue
        lanes = found.setdefault(unit, {"": []})
        for port in ports:
            # Looks at the unit before the first look at this port belong to its lanes, too.
            lanes.setdefault(port, [Look(*look[:3], None) for look in lanes[""]])
        for port, looks in lanes.items():
            looks.append(Look(time, step, state, ports.get(port)))
    return [
        Lanes(unit, port, tuple(group_looks(looks)))
        for unit, lanes in found.items()
        for port, looks in lanes.items()
        if port or len(lanes) == 1
    ]


def group_looks(looks: Iterable[Look]) -> list[Moment]:
    """Return the moments. Two that alternate, as those of a crash loop, become two with all their looks."""
    moments: list[Moment] = []
    for look in sorted((one for one in looks if one.unit or one.port), key=lambda one: one.time):
        last = moments[-1] if moments else None
        if last is not None and not last.alternates and last.looks[-1].fits(look):
            moments[-1] = Moment((*last.looks, look))
        elif last is not None and last.kind == look.kind:
            moments[-1] = last._replace(looks=(*last.looks, look))
        else:
            moments.append(Moment((look,)))
        kinds = [one.kind for one in moments]
        if kinds[-4:-2] == kinds[-2:]:
            a, b, c, d = moments[-4:]
            moments[-4:] = [Moment((*a.looks, *c.looks), True), Moment((*b.looks, *d.looks), True)]
    return moments


def _observe(recorded: Iterable[events.Event]) -> Iterator[tuple[float, str, str, Mapping[str, Any]]]:
    """Yield the time, the step, the unit and the facts of each look at one unit."""
    units: dict[str, tuple[str, ...]] = {}
    seen: dict[str, Mapping[str, Any]] = {}
    for event in recorded:
        step = str(event.data.get("id", ""))
        facts: Mapping[str, Any] = {}
        match event.event:
            case events.EventName.STEP_STARTED:
                listed = event.data.get("units")
                units[step] = tuple(map(str, listed)) if isinstance(listed, list) else ()
                seen.pop(step, None)
            case events.EventName.OBSERVED:
                units[""] = (str(event.data.get("unit") or ""),)
                facts = {**_mapping(event.data.get("systemd")), "ports": event.data.get("ports")}
            case events.EventName.STEP_ACTING | events.EventName.STEP_FINISHED:
                facts = _mapping(event.data.get("evidence"))
            case events.EventName.STEP_WAITING:
                # The key is left out if the last report of the step had the same.
                facts = seen[step] = _mapping(event.data.get("seen", seen.get(step)))
        if facts and len(units.get(step, ())) == 1 and units[step][0]:
            yield event.time, step, units[step][0], facts


def _read_unit(facts: Mapping[str, Any]) -> UnitState | None:
    if "ActiveState" not in facts:
        return None
    numbers = (_number(facts.get("MainPID")), _number(facts.get("NRestarts")))
    return UnitState(
        str(facts["ActiveState"]), str(facts.get("SubState", "")), *numbers, str(facts.get("InvocationID") or "")
    )


def _read_port(facts: Mapping[str, Any]) -> PortState:
    holders = tuple(
        HolderFact(_number(one.get("pid")), *(str(one.get(key) or "") for key in ("role", "unit", "user", "command")))
        for one in _mappings(facts.get("holders"))
    )
    if any(not one.is_own and one.role != Role.UNKNOWN for one in holders):
        # A holder that the runbook permits (`shared-with`) is no contradiction.
        return PortState(Held.OWN if facts.get("verdict") == "owned" else Held.FOREIGN, holders)
    if facts.get("unseen") or any(not one.is_own for one in holders):
        return PortState(Held.UNKNOWN, holders)
    if holders:
        return PortState(Held.OWN, holders)
    return PortState(Held.UNKNOWN if facts.get("listeners") else Held.NOTHING, ())


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
