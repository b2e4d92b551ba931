"""Retries: how many, after which pauses, and what counts in the end."""

from __future__ import annotations

import pytest

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.retry import run_with_retries
from runbook.engine.execution.stream import EventStream
from runbook.events import Event
from runbook.host.facts import ActiveState
from runbook.host.queries import CommandResult
from runbook.model import StepStatus
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import finished, run, step


def test_a_step_is_tried_again_with_growing_pauses() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    script = [CommandResult("exit-code", 1), CommandResult("exit-code", 1), CommandResult("success", 0)]
    machine.on_command = lambda m, command: script.pop(0)
    end, events = run(machine, step("run", run="flaky", retries="3", delay="2s", backoff="3", **{"max-delay": "5s"}))
    assert end.status == "changed"
    assert [e.data["pause"] for e in events if e.event == "step-retrying"] == [2.0, 5.0]
    assert machine.clock.time - 1000.0 == pytest.approx(7.0)
    assert next(e.data["attempts"] for e in events if e.event == "step-finished") == 3


def test_the_last_of_the_tries_decides() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: CommandResult("exit-code", 4)
    end, _ = run(machine, step("run", run="broken", retries="1"))
    assert (end.status, len(machine.written)) == ("failed", 2)
    assert "exited with status 4" in end.reason


def test_what_an_earlier_try_did_is_a_change() -> None:
    """The first attempt makes the change but times out; the second one finds it made."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_job["stop"] = lambda m, name: None
    down = unit(active_state=ActiveState.INACTIVE, main_pid=0)
    machine.later = [(1006.0, lambda m: m.units.update({"gw.service": down}))]
    end, events = run(machine, step("stop", timeout="5s", retries="1", delay="2s"))
    assert finished(events) == [("stop", "changed", "already-so")]
    assert end.status == "changed"


def test_a_step_that_is_still_starting_is_not_attempted_again() -> None:
    left = Outcome("x", "wait-ready", StepStatus.FAILED, None, "not ready", still_starting=True)
    machine, seen = FakeMachine(), list[Event]()
    events = EventStream("run-1", machine.clock, (seen.append,))
    assert run_with_retries(step("wait-ready", retries="3"), lambda: left, machine, events) == (left, 1)
    assert (seen, machine.waits) == ([], [])
