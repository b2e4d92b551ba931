"""The lanes of systemd and of the port, from the events of a run."""

from __future__ import annotations

from typing import Any

from runbook.events import Event
from runbook.report.lanes import Held, Lanes, make_lanes

ACTIVE = {"ActiveState": "active", "SubState": "running", "MainPID": 10, "NRestarts": 0, "InvocationID": "a1"}
DEAD = {"ActiveState": "inactive", "SubState": "dead", "MainPID": 0, "NRestarts": 0, "InvocationID": "a1"}
PENDING = {"ActiveState": "activating", "SubState": "auto-restart", "MainPID": 0, "NRestarts": 1}
ORPHAN = {"pid": 57, "role": "orphan", "unit": "session-1.scope", "user": "ops", "command": "gateway"}
OWN = {"pid": 10, "role": "current", "unit": "web.service", "user": "web", "command": "web"}


def port(*holders: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"ports": [{"port": "80", "listeners": ["*:80"] if holders else [], "holders": list(holders), **facts}]}


def finds(time: float, **facts: Any) -> Event:
    return Event(time, "r", "step-finished", {"id": "x", "evidence": facts})


def waits(time: float, **data: Any) -> Event:
    return Event(time, "r", "step-waiting", {"id": "x", **data})


def lanes(*events: Event, units: tuple[str, ...] = ("web.service",)) -> list[Lanes]:
    return make_lanes([Event(0, "r", "step-started", {"id": "x", "units": list(units)}), *events])


def test_active_beside_an_orphan_is_a_contradiction() -> None:
    (lane,) = lanes(finds(1, **ACTIVE, **port(ORPHAN)), finds(5, **ACTIVE, **port(OWN)))
    assert (lane.unit, lane.port) == ("web.service", "80")
    assert [(m.began, m.port and m.port.held, m.is_contradiction) for m in lane.moments] == [
        (1, Held.FOREIGN, True),
        (5, Held.OWN, False),
    ]


def test_active_with_no_listener_is_no_contradiction_as_it_may_be_starting() -> None:
    (lane,) = lanes(finds(1, **ACTIVE, **port()), finds(5, **DEAD, **port()))
    assert [(moment.is_contradiction, moment.is_silent) for moment in lane.moments] == [(False, True), (False, False)]


def test_who_has_the_port() -> None:
    cases: list[tuple[dict[str, Any], Held]] = [
        (port(), Held.NOTHING),
        (port(OWN), Held.OWN),
        (port(OWN, ORPHAN), Held.FOREIGN),
        (port(OWN, ORPHAN, verdict="owned"), Held.OWN),
        (port({**OWN, "role": "unknown"}), Held.UNKNOWN),
        (port(OWN, unseen=["*:80"]), Held.UNKNOWN),
        (port(listeners=["*:80"]), Held.UNKNOWN),
    ]
    for facts, held in cases:
        (lane,) = lanes(finds(1, **facts))
        assert lane.moments[0].port is not None
        assert lane.moments[0].port.held is held, facts
        assert lane.moments[0].unit is None, "systemd was not asked"


def test_equal_looks_are_one_moment_with_all_invocations() -> None:
    events = [finds(n, **{**ACTIVE, "MainPID": n, "InvocationID": f"i{n}"}, **port(ORPHAN)) for n in (1, 2, 3)]
    (lane,) = lanes(*events)
    (moment,) = lane.moments
    assert (moment.began, moment.ended, moment.pids, moment.invocations) == (1, 3, (1, 2, 3), ("i1", "i2", "i3"))


def test_a_crash_loop_is_two_moments_that_alternate() -> None:
    states = (ACTIVE, PENDING) * 20
    (lane,) = lanes(*(finds(n, **state, **port(ORPHAN)) for n, state in enumerate(states)))
    assert [(len(m.looks), m.alternates) for m in lane.moments] == [(20, True), (20, True)]


def test_looks_at_different_things_are_one_moment_only_if_near() -> None:
    (near,) = lanes(finds(1, **ACTIVE), finds(1.5, **port(ORPHAN)))
    assert len(near.moments) == 1
    (far,) = lanes(finds(1, **ACTIVE), finds(9, **port(ORPHAN)))
    assert [(m.unit is None, m.port is None) for m in far.moments] == [(False, True), (True, False)]


def test_a_wait_without_a_new_state_has_found_the_last_one_again() -> None:
    (lane,) = lanes(waits(1, seen={**ACTIVE, **port(ORPHAN)}), waits(16), waits(31, seen={}), waits(46))
    assert [(m.began, m.ended) for m in lane.moments] == [(1, 16)]


def test_each_port_has_lanes_of_its_own_and_a_step_of_two_units_none() -> None:
    both = {"ports": [{"port": "80", "holders": [OWN]}, {"port": "443", "holders": []}]}
    assert [lane.port for lane in lanes(finds(1, **ACTIVE, **both))] == ["80", "443"]
    assert lanes(finds(1, **ACTIVE), units=("a.service", "b.service")) == []


def test_what_was_observed_before_the_run_is_a_look() -> None:
    data = {"unit": "web.service", "systemd": ACTIVE, **port(ORPHAN)}
    (lane,) = make_lanes([Event(1, "r", "observed", data)])
    assert lane.moments[0].is_contradiction


def test_broken_facts_are_left_out() -> None:
    assert lanes(finds(1, ports="x"), finds(1, ports=[3]), Event(2, "r", "step-finished", {"evidence": 3})) == []
