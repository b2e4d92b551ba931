"""Plans on a machine made of data: what would be found and done, and that nothing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runbook.engine.events import Events
from runbook.engine.planner import Planner
from runbook.engine.runner import RunEnd
from runbook.host.tasks import Answer
from runbook.model import Event
from runbook.step import Runbook, RunState, Step
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import FIX, finished, incident, remediate, step


def plan(machine: FakeMachine, *steps: Step[Any], act: Callable[[Planner], RunEnd] = Planner.plan) -> list[Event]:
    """Plan steps and give the events; whatever the steps are, nothing may be written."""
    seen: list[Event] = []
    runbook = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "path": "x.yaml"})
    act(Planner(runbook, machine, machine, Events("r", machine.clock, (seen.append,)), RunState("r", Path("/srv"))))
    assert machine.written == []
    return seen


def planned(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.data["id"], e.data["impact"]) for e in events if e.event == "step-planned"]


def test_the_plan_in_the_incident() -> None:
    events = plan(incident(), remediate(step("wait-ready"), step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert planned(events) == [
        ("remediate", "mutating"),
        ("remediate.check.wait-ready", "read-only"),
        ("remediate.check.verify-port-owner", "read-only"),
        ("remediate.fix.stop", "mutating"),
        ("remediate.fix.kill-orphan", "mutating"),
        ("remediate.fix.reset-failed", "mutating"),
        ("remediate.fix.start", "mutating"),
    ]
    kill = next(e.data for e in events if e.data.get("id") == "remediate.fix.kill-orphan")
    assert kill["evidence"]["ports"][0]["holders"][0]["pid"] == 74
    assert events[-1].data["would-change"] is True
    assert events[-1].data["exit"] == 0


def test_what_an_earlier_step_can_change_is_undetermined_and_names_it() -> None:
    events = plan(incident(), step("restart"), remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert planned(events)[:2] == [("restart", "mutating"), ("remediate", "undetermined")]
    remedy = next(e.data for e in events if e.data.get("id") == "remediate")
    assert remedy["undetermined-by"] == ["restart"]


def test_the_plan_of_a_healthy_machine_changes_nothing() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    events = plan(machine, step("start"), remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert [impact for _, impact in planned(events)] == [
        "none",
        "none",
        "read-only",
        "none",
        "none",
        "none",
        "none",
    ]
    assert events[-1].data["would-change"] is False


def test_a_when_on_a_step_that_has_not_run_is_undetermined() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers["app --version"] = [Answer(True, "", "1.0.0")]
    update = step("update", run="install", version="app --version", to="1.1.0")
    events = plan(machine, update, step("restart", when="steps.update.changed"))
    assert planned(events) == [("update", "mutating"), ("restart", "undetermined")]


def test_check_looks_at_reading_steps_only() -> None:
    machine = incident()
    events = plan(
        machine,
        step("restart"),
        remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))),
        act=Planner.check,
    )
    assert finished(events) == [("remediate.check.verify-port-owner", "failed", "orphan-holds-port")]
    assert events[-1].data["exit"] == 1
