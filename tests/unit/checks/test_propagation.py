"""Which units a job reaches."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.propagation import find_reached
from runbook.host.facts import ActiveState, JobVerb, Unit
from tests.unit.fake_machine import FakeMachine, unit

START, STOP, RESTART, RELOAD = JobVerb.START, JobVerb.STOP, JobVerb.RESTART, JobVerb.RELOAD
DOWN: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}


def machine(**units: dict[str, Any]) -> FakeMachine:
    """Return a machine with a.service, b.service and so on, which run, changed as the test says."""
    made = {f"{name}.service": unit(f"{name}.service", **units.get(name, {})) for name in ("a", "b", "c", "d")}
    return FakeMachine(made)


def reached(view: FakeMachine, verb: JobVerb, of: str = "a") -> dict[str, str]:
    """Return what a job does to each unit that it changes."""
    found = find_reached(view, view.units[f"{of}.service"], verb)
    return {one.unit.name.removesuffix(".service"): str(one.verb) for one in found if one.is_changed}


B: tuple[str, ...] = ("b.service",)


@pytest.mark.parametrize(
    ("field", "start", "stop", "restart"),
    [
        # Without what a start does, as b is up: see below.
        ("required_by", {}, {"b": "stop"}, {"b": "restart"}),
        ("requisite_of", {}, {"b": "stop"}, {"b": "restart"}),
        ("bound_by", {}, {"b": "stop"}, {"b": "restart"}),
        ("consists_of", {}, {"b": "stop"}, {"b": "restart"}),
        ("propagates_stop_to", {}, {"b": "stop"}, {}),
        ("stopped_by_restart", {}, {}, {"b": "stop"}),
        ("conflicts", {"b": "stop"}, {}, {"b": "stop"}),
        ("conflicted_by", {"b": "stop"}, {}, {"b": "stop"}),
        ("joins_namespace_of", {}, {}, {}),
        ("triggers", {}, {}, {}),
        ("triggered_by", {}, {}, {}),
    ],
)
def test_each_dependency_on_a_unit_that_is_up(
    field: str, start: dict[str, str], stop: dict[str, str], restart: dict[str, str]
) -> None:
    view = machine(a={field: B})
    assert [reached(view, verb) for verb in (START, STOP, RESTART, RELOAD)] == [start, stop, restart, {}]
    down = machine(a={field: B}, b=DOWN)
    assert [reached(down, verb) for verb in (START, STOP, RESTART)] == [{}, {}, {}]


@pytest.mark.parametrize("field", ["requires", "binds_to", "wants", "upholds"])
def test_a_start_and_a_restart_start_what_is_down(field: str) -> None:
    down = machine(a={field: B}, b=DOWN)
    assert [reached(down, verb) for verb in (START, STOP, RESTART)] == [{"b": "start"}, {}, {"b": "start"}]
    assert reached(machine(a={field: B}), RESTART) == {}


def test_a_reload_is_propagated_to_units_that_can_reload() -> None:
    able = {"can_reload": True}
    view = machine(a={"propagates_reload_to": B, "required_by": ("d.service",)}, b=able, c=able)
    view.units["b.service"] = unit("b.service", can_reload=True, propagates_reload_to=("c.service",))
    assert reached(view, RELOAD) == {"b": "reload", "c": "reload"}
    assert reached(machine(a={"propagates_reload_to": B}), RELOAD) == {}


def test_a_job_continues_from_the_units_that_it_changes() -> None:
    """As seen on 252 and 257."""
    chain: dict[str, Any] = {"a": {"consists_of": B}, "b": {"consists_of": ("c.service",)}}
    assert reached(machine(**chain), STOP) == {"b": "stop", "c": "stop"}
    chain["b"] |= DOWN
    assert reached(machine(**chain), STOP) == reached(machine(**chain), RESTART) == {}
    pulled: dict[str, Any] = {"a": {"wants": B}, "b": {"wants": ("c.service",)}, "c": DOWN}
    assert reached(machine(**pulled), START) == {}
    pulled["b"] |= DOWN
    assert reached(machine(**pulled), START) == {"b": "start", "c": "start"}


def test_a_conflict_stops_what_follows_the_other_unit() -> None:
    view = machine(a={"conflicts": B}, b={"consists_of": ("c.service",)}, c={"wants": ("d.service",)}, d=DOWN)
    assert reached(view, START) == {"b": "stop", "c": "stop"}


def test_a_restart_starts_what_a_restarted_unit_pulls_in() -> None:
    view = machine(a={"consists_of": B}, b={"wants": ("d.service",)}, d=DOWN)
    assert reached(view, RESTART) == {"b": "restart", "d": "start"}
    assert reached(view, STOP) == {"b": "stop"}


def test_a_unit_is_reached_once_by_its_nearest_dependency_and_a_circle_ends() -> None:
    view = machine(a={"required_by": B, "consists_of": B}, b={"required_by": ("a.service", "c.service")})
    found = find_reached(view, view.units["a.service"], STOP)
    assert [(one.unit.name, one.why) for one in found] == [
        ("b.service", "it has Requires=a.service"),
        ("c.service", "it has Requires=b.service"),
    ]


def test_a_unit_that_a_start_leaves_alone_may_be_restarted_for_another_reason() -> None:
    view = machine(a={"wants": ("b.service", "c.service"), "consists_of": B}, b={"required_by": ("c.service",)})
    assert reached(view, RESTART) == {"b": "restart", "c": "restart"}


def test_the_caller_may_go_on_from_other_units() -> None:
    target = Unit("all.target", active_state=ActiveState.ACTIVE, wants=("sub.target", "a.service"))
    view = machine(a={"wants": ("d.service",)})
    view.units |= {"sub.target": Unit("sub.target", active_state=ActiveState.ACTIVE, wants=B)}
    found = find_reached(view, target, START, lambda one: one.unit.name.endswith(".target"))
    assert [one.unit.name for one in found] == ["sub.target", "a.service", "b.service"]
    assert not any(one.is_changed for one in found)
