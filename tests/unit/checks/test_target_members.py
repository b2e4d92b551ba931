"""What a stop or a restart of a target reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.checks.target_members import TargetMembers, add_untouched, find_target_refusal
from runbook.host.facts import ActiveState, JobVerb, Unit
from runbook.model import Verdict, holds
from tests.unit.fake_machine import FakeMachine, unit

TARGET = Unit("app.target", active_state=ActiveState.ACTIVE, wants=("one.service", "two.service"))


def machine(target: Unit = TARGET, **units: dict[str, Any]) -> FakeMachine:
    """Return a machine with one.service and two.service, which run, changed as the test says."""
    found = {name: unit(f"{name}.service", **units.get(name, {})) for name in ("one", "two", *units)}
    return FakeMachine({one.name: one for one in (target, *found.values())})


def part_of(*names: str, **facts: Any) -> Unit:
    return replace(TARGET, consists_of=names, **facts)


@pytest.mark.parametrize(
    ("target", "units", "reached", "untouched"),
    [
        (TARGET, {}, (), ("one.service", "two.service")),
        (part_of("one.service"), {}, ("one.service",), ("two.service",)),
        (part_of("one.service", "two.service"), {}, ("one.service", "two.service"), ()),
        # A unit that is a part of the target need not be wanted by it.
        (part_of("three.service"), {"three": {}}, ("three.service",), ("one.service", "two.service")),
        (TARGET, {"one": {"active_state": ActiveState.INACTIVE}}, (), ("two.service",)),
        (TARGET, {"one": {"stop_when_unneeded": True}}, ("one.service",), ("two.service",)),
        (replace(TARGET, stopped_by_restart=("one.service",)), {}, ("one.service",), ("two.service",)),
        # Along a chain: two requires one.
        (part_of("one.service"), {"one": {"required_by": ("two.service",)}}, ("one.service", "two.service"), ()),
    ],
)
def test_the_members_of_a_target(
    target: Unit, units: dict[str, Any], reached: tuple[str, ...], untouched: tuple[str, ...]
) -> None:
    assert TargetMembers.find(machine(target, **units), target, JobVerb.RESTART) == TargetMembers(reached, untouched)


def test_what_a_stop_is_propagated_to_a_restart_may_leave_alone() -> None:
    target = replace(TARGET, propagates_stop_to=("one.service",))
    assert TargetMembers.find(machine(), target, JobVerb.STOP).untouched == ("two.service",)
    assert TargetMembers.find(machine(), target, JobVerb.RESTART).untouched == ("one.service", "two.service")


def test_the_members_of_a_target_in_a_target() -> None:
    view = machine()
    inner = Unit("inner.target", active_state=ActiveState.ACTIVE, wants=("one.service", "app.target"))
    outer = replace(TARGET, wants=("inner.target",))
    view.units |= {"inner.target": inner, "app.target": outer}
    assert TargetMembers.find(view, outer, JobVerb.RESTART).untouched == ("one.service",)


def test_what_a_service_pulls_in_is_not_a_member() -> None:
    view = machine(one={"wants": ("three.service",)}, three={})
    assert TargetMembers.find(view, TARGET, JobVerb.STOP).untouched == ("one.service", "two.service")
    assert TargetMembers.find(view, view.units["one.service"], JobVerb.STOP) == TargetMembers((), ())


@pytest.mark.parametrize(
    ("verb", "verdict"), [(JobVerb.RESTART, Verdict.NOT_RESTARTED), (JobVerb.STOP, Verdict.JOB_FAILED)]
)
def test_a_job_that_would_do_nothing_is_refused(verb: JobVerb, verdict: Verdict) -> None:
    found = find_target_refusal(machine(), TARGET, verb)
    assert found is not None
    assert (found.state, found.verdict) == ("fails", verdict)
    assert found.reason == (
        f"to {verb} app.target would leave everything running: one.service and two.service are not a part of it; "
        f"{verb} them by name, or add PartOf=app.target to their [Unit] sections"
    )


def test_a_single_unit_has_its_own_sentence() -> None:
    found = find_target_refusal(machine(), replace(TARGET, wants=("one.service",)), JobVerb.RESTART)
    assert found is not None
    assert found.reason.endswith(
        "one.service is not a part of it; restart it by name, or add PartOf=app.target to its [Unit] section"
    )


@pytest.mark.parametrize(
    "target", [part_of("one.service"), replace(TARGET, wants=()), replace(TARGET, active_state=ActiveState.INACTIVE)]
)
def test_a_job_that_does_something_is_not_refused(target: Unit) -> None:
    assert find_target_refusal(machine(target), target, JobVerb.RESTART) is None
    assert find_target_refusal(machine(), TARGET, JobVerb.START) is None


def test_what_was_not_restarted_is_named() -> None:
    target = part_of("one.service")
    done = add_untouched(machine(target), target, JobVerb.RESTART, holds(Verdict.JOB_DONE, "new invocation"))
    assert done.reason == "new invocation; two.service was not restarted with it (no PartOf=app.target)"
    one = unit("one.service")
    assert add_untouched(machine(), one, JobVerb.RESTART, holds(Verdict.JOB_DONE, "done")).reason == "done"
