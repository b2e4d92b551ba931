"""What systemd does beside a job."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.side_effects import describe_emergency_actions, describe_taken_along, find_taken_along
from runbook.host.facts import ActiveState, JobVerb, Unit
from tests.unit.fake_machine import FakeMachine, unit

DOWN: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}


def sentence(verb: JobVerb, main: Unit, *others: Unit) -> str:
    machine = FakeMachine(units={one.name: one for one in (main, *others)})
    return describe_taken_along(main, verb, find_taken_along(machine, main, verb))


def other(name: str = "other.service", **fields: Any) -> Unit:
    return unit(name, **fields)


@pytest.mark.parametrize(
    ("field", "setting"),
    [("required_by", "Requires"), ("requisite_of", "Requisite"), ("bound_by", "BindsTo"), ("consists_of", "PartOf")],
)
def test_a_stop_and_a_restart_take_along_what_depends_on_the_unit(field: str, setting: str) -> None:
    fields: dict[str, Any] = {field: ("other.service",)}
    main = unit(**fields)
    why = f"other.service (it has {setting}=gw.service)"
    assert sentence(JobVerb.RESTART, main, other()) == f"the restart of gw.service also restarts {why}"
    stopped = f"the stop of gw.service also stops {why}, which no step starts again"
    assert sentence(JobVerb.STOP, main, other()) == stopped
    assert sentence(JobVerb.STOP, main, other(**DOWN)) == ""


def test_what_depends_on_a_unit_that_is_taken_along_goes_with_it_and_a_circle_ends() -> None:
    main, middle = unit(required_by=("middle.service",)), other("middle.service", consists_of=("far.service",))
    far = other("far.service", required_by=("gw.service", "middle.service"))
    told = sentence(JobVerb.STOP, main, middle, far)
    assert "middle.service (it has Requires=gw.service), far.service (it has PartOf=middle.service)" in told


def test_a_stop_alone_is_propagated() -> None:
    main = unit(propagates_stop_to=("other.service",))
    assert "StopPropagatedFrom=gw.service" in sentence(JobVerb.STOP, main, other())
    assert sentence(JobVerb.RESTART, main, other()) == ""


def test_a_restart_stops_what_a_stop_is_propagated_to_in_a_later_systemd() -> None:
    main = unit(propagates_stop_to=("other.service",), stopped_by_restart=("other.service",))
    why = "other.service (it has StopPropagatedFrom=gw.service), which no step starts again"
    assert sentence(JobVerb.RESTART, main, other()) == f"the restart of gw.service also stops {why}"


def test_a_reload_is_propagated_and_stops_nothing() -> None:
    main = unit(required_by=("middle.service",), propagates_reload_to=("other.service",))
    why = "other.service (gw.service has PropagatesReloadTo=other.service)"
    assert sentence(JobVerb.RELOAD, main, other("middle.service"), other(can_reload=True)) == (
        f"the reload of gw.service also reloads {why}"
    )


def test_a_start_stops_what_conflicts_and_starts_what_is_required() -> None:
    main = unit(
        **DOWN,
        conflicts=("shutdown.target", "mine.service"),
        conflicted_by=("its.service",),
        requires=("system.slice", "db.service", "up.service"),
    )
    others = [other("mine.service"), other("its.service"), other("db.service", **DOWN), other("up.service")]
    assert sentence(JobVerb.START, main, *others) == (
        "the start of gw.service also stops mine.service (gw.service has Conflicts=mine.service), its.service (it has"
        " Conflicts=gw.service), which no step starts again, and starts db.service (gw.service has Requires=db.service)"
    )


@pytest.mark.parametrize(
    ("field", "action", "told"),
    [
        ("start_limit_action", "reboot-force", "gw.service has StartLimitAction=reboot-force: systemd reboots this"),
        ("failure_action", "soft-reboot", "systemd restarts the whole user space"),
        ("success_action", "poweroff", "powers this machine off if the unit stops without an error"),
        ("job_timeout_action", "exit", "exits, and ends all of its services if the unit has a job that times out"),
        ("failure_action", "implode", "carries out implode if the unit fails"),
    ],
)
def test_an_action_of_a_unit_is_named(field: str, action: str, told: str) -> None:
    (named,) = describe_emergency_actions(unit(**{field: action}))
    assert told in named


def test_most_units_have_none() -> None:
    assert describe_emergency_actions(unit(start_limit_action="none", failure_action="")) == []
