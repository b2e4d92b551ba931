"""The steps of a rollback: made from the runbook and the events, the same each time."""

from __future__ import annotations

from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.rollback_plan import RollbackPlan, find_updates_that_ran
from runbook.events import Event, Payload, RunStarted, StepActing
from runbook.model import StepStatus, Verdict
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
from runbook.steps import registry
from tests.unit.runs import step


def update(name: str, **fields: Any) -> Step[Any]:
    return step("update", id=name, run="x ${{ to }}", version="x --version", **{"to": "2.0", **fields})


def book(*steps: Step[Any], **fields: Any) -> Runbook:
    made = {"unit": "gw.service", "port": "80", "steps": steps, "rollback": "auto", "types": registry(), **fields}
    return Runbook.model_validate(made)


def events(*payloads: Payload) -> list[Event]:
    return [Event.of(1.0, "run-1", payload) for payload in payloads]


def acted(name: str, before: str | None = "1.0") -> StepActing:
    return StepActing(id=name, type="update", reason="run it", evidence={"from": before, "to": "2.0"})


def ids(plan: RollbackPlan) -> list[str]:
    return [one.step_id for one in plan.steps]


def test_updates_are_undone_last_first_and_then_the_unit_is_restarted_and_checked() -> None:
    made = book(update("a"), update("b"), step("restart"), step("verify-port-owner"))
    plan = RollbackPlan.build(made, events(acted("a"), acted("b")))
    names = ["b", "a", "reset-failed", "restart", "verify-port-owner"]
    assert ids(plan) == [f"rollback.{name}" for name in names]
    assert plan.undo_step_ids == {"a": "rollback.a", "b": "rollback.b"}
    assert RollbackPlan.build(made, events(acted("a"), acted("b"))).steps == plan.steps


def test_nothing_is_planned_if_no_update_has_a_previous_version() -> None:
    made = book(update("a"), step("restart"))
    assert ids(RollbackPlan.build(made, events())) == []
    assert ids(RollbackPlan.build(made, events(acted("a", None)))) == []


def test_the_service_is_stopped_for_sockets_that_were_active_and_are_down() -> None:
    begun = RunStarted(waking={"gw.service": ("gw.socket", "gw.timer")})
    plan = RollbackPlan.build(book(update("a"), step("restart")), events(begun, acted("a")))
    kinds = [(one.type_name, one.units(), one.on_failure) for one in plan.steps[1:]]
    assert kinds[:5] == [
        ("reset-failed", ("gw.service",), "abort"),
        ("stop", ("gw.service",), "continue"),
        ("start", ("gw.socket",), "abort"),
        ("start", ("gw.timer",), "abort"),
        ("restart", ("gw.service",), "abort"),
    ]
    assert plan.only_if_down == {"rollback.stop": ["gw.socket"]}


def test_a_socket_that_the_runbook_does_not_restart_is_only_started() -> None:
    plan = RollbackPlan.build(book(update("a"), unit="gw.socket"), events(acted("a")))
    assert [(one.type_name, one.units()) for one in plan.steps[1:3]] == [
        ("reset-failed", ("gw.socket",)),
        ("start", ("gw.socket",)),
    ]
    restarted = book(update("a"), step("restart", unit="gw.socket"))
    assert RollbackPlan.build(restarted, events(acted("a"))).steps[2].type_name == "restart"


def test_checks_that_may_all_be_skipped_have_a_fallback() -> None:
    check = step("verify-port-owner", when="unit == 'x'")
    plan = RollbackPlan.build(book(update("a"), check), events(acted("a")))
    assert [one.type_name for one in plan.fallback_checks] == ["wait-ready"]
    assert plan.steps[-1] == plan.fallback_checks[0]


def test_ids_are_free_in_a_listed_rollback_too() -> None:
    listed = (step("restart").model_copy(update={"id": "rollback.verify-port-owner"}),)
    plan = RollbackPlan.build(book(update("a"), step("verify-port-owner"), rollback=listed), events(acted("a")))
    assert ids(plan) == ["rollback.verify-port-owner", "rollback.verify-port-owner-2"]


def test_the_state_of_each_update_is_described() -> None:
    plan = RollbackPlan.build(book(update("a"), update("b")), events(acted("a"), acted("b")))
    back = Outcome("rollback.b", "update", StepStatus.CHANGED, None, "1.0 is installed")
    assert plan.describe_updates({"rollback.b": back}) == "a was not taken back to 1.0, b is back at 1.0"
    # The command of the update failed before it changed anything.
    never_left = Outcome("rollback.b", "update", StepStatus.OK, Verdict.UP_TO_DATE, "1.0 is installed already")
    assert plan.describe_updates({"rollback.b": never_left}) == "a was not taken back to 1.0, b is still at 1.0"


def test_an_update_counts_once_with_the_version_before_its_first_attempt() -> None:
    made = book(update("a"))
    again = StepActing(id="a", type="update", reason="again", evidence={"from": "1.5", "to": "2.0"})
    assert find_updates_that_ran(made, events(acted("a"), again)) == {"a": {"from": "1.0", "to": "2.0"}}
