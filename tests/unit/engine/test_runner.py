"""Whole runs on a machine made of data: what a failure means for the rest, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.engine.events import Events
from runbook.engine.runner import Runner
from runbook.errors import AccessDenied, BusLost, BusTimeout, Interrupted
from runbook.host.facts import ActiveState, Unit
from runbook.host.tasks import Answer, CommandResult
from runbook.model import Event
from runbook.step import Runbook, RunState
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import finished, incident, run, step


@pytest.mark.parametrize(("on_failure", "written"), [("abort", []), ("continue", ["restart gw.service"])])
def test_on_failure(on_failure: str, written: list[str]) -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    run(machine, step("verify-port-owner", **{"on-failure": on_failure}), step("restart"))
    assert machine.written == written


def test_always_runs_after_a_failure_and_does_not_hide_it() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, _ = run(machine, step("verify-port-owner"), always=(step("run", id="tell", run="tell people"),))
    assert machine.written == ["command tell people"]
    assert (end.status, end.reason) == ("failed", "verify-port-owner: nobody listens on port 80")


def test_an_interrupted_run_leaves_always_alone_and_stops_its_command() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: None

    def interrupted(machine: FakeMachine) -> None:
        raise Interrupted(15)

    machine.later = [(1005.0, interrupted)]
    end, events = run(machine, step("run", run="sleep 100"), always=(step("run", id="tell", run="tell"),))
    assert (end.status, end.exit) == ("interrupted", 143)
    assert machine.written == ["command sleep 100", "stop-command runbook-run-1-run.service"]
    assert events[-1].data["exit"] == 143


def test_when_looks_at_what_came_before() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers["app --version"] = [Answer(True, "", "1.1.0")]
    update = step("update", run="install", version="app --version", to="1.1.0")
    _, events = run(machine, update, step("restart", when="steps.update.changed"))
    assert finished(events) == [("update", "ok", "up-to-date"), ("restart", "skipped", None)]
    assert machine.written == []


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
    assert "ended with status 4" in end.reason


def test_a_first_change_that_is_denied_means_nothing_was_begun() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.refuse["restart"] = AccessDenied("cannot restart gw.service: not permitted", hint="run it as root")
    end, events = run(machine, step("restart"))
    assert (end.status, end.exit, end.hint) == ("not-begun", 5, "run it as root")
    assert events[-1].data["hint"] == "run it as root"


def test_a_later_change_that_is_denied_is_a_failure() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.refuse["restart"] = AccessDenied("cannot restart gw.service: not permitted")
    end, _ = run(machine, step("run", run="first"), step("restart"))
    assert (end.status, end.exit) == ("failed", 1)


def test_a_unit_that_nothing_could_bring_is_told_before_anything_is_touched() -> None:
    machine = FakeMachine()
    end, _ = run(machine, step("restart"))
    assert (end.status, end.exit, machine.written) == ("not-begun", 5, [])
    assert "systemd knows no unit gw.service" in end.reason


def test_a_unit_may_be_brought_by_an_earlier_command() -> None:
    machine = FakeMachine()

    def brings(machine: FakeMachine, command: Any) -> CommandResult:
        machine.units["gw.service"] = unit(active_state=ActiveState.INACTIVE, main_pid=0)
        return CommandResult("success", 0)

    machine.on_command = brings
    end, _ = run(machine, step("run", run="install it"), step("start"))
    assert end.status == "changed"


def test_a_bus_that_goes_away_for_a_moment_is_waited_for() -> None:
    class Flaky(FakeMachine):
        lost = 3

        def unit(self, name: str) -> Unit:
            if self.waits and self.lost:
                self.lost -= 1
                raise BusLost("cannot reach systemd: the connection is closed")
            return super().unit(name)

    machine = Flaky(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    end, _ = run(machine, step("wait-ready", **{"healthy-for": "2s"}))
    assert (end.status, machine.lost) == ("ok", 0)


def test_the_intent_is_told_before_the_machine_is_touched() -> None:
    machine = incident()
    written_when_told: list[int] = []
    runbook = Runbook.model_validate({"unit": "gw.service", "steps": [step("restart")], "path": "x"})
    events = Events(
        "r",
        machine.clock,
        (lambda e: written_when_told.append(len(machine.written)) if e.event == "step-acting" else None,),
    )
    Runner(runbook, machine, machine, events, RunState("r", Path("/srv"))).run()
    assert written_when_told == [0]


def test_the_timeout_of_the_run_ends_its_steps_but_not_always() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_command = lambda m, command: CommandResult("success", 0)
    always = (step("run", id="tell", run="tell"),)
    end, _ = run(machine, step("wait-ready", **{"on-timeout": "fail"}), timeout="10s", always=always)
    assert machine.clock.time - 1000.0 == pytest.approx(10.0)
    assert (end.status, machine.written) == ("failed", ["command tell"])


def test_secrets_are_masked_in_every_event() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: CommandResult("exit-code", 1, "login with hunter2 failed")
    seen: list[Event] = []
    runbook = Runbook.model_validate({"steps": [step("run", run="echo hunter2")], "path": "x"})
    Runner(
        runbook,
        machine,
        machine,
        Events("r", machine.clock, (seen.append,), ("hunter2",)),
        RunState("r", Path("/")),
    ).run()
    assert "hunter2" not in repr(seen)
    assert "***" in repr(seen)


def test_what_an_earlier_try_did_is_a_change() -> None:
    """The first try does it and is late; the second one finds it done."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_job["stop"] = lambda m, name: None
    down = unit(active_state=ActiveState.INACTIVE, main_pid=0)
    machine.later = [(1006.0, lambda m: m.units.update({"gw.service": down}))]
    end, events = run(machine, step("stop", timeout="5s", retries="1", delay="2s"))
    assert finished(events) == [("stop", "changed", "already-so")]
    assert end.status == "changed"


def test_what_cannot_be_stopped_in_time_is_said() -> None:
    class Stubborn(FakeMachine):
        def stop_command(self, ref: Any) -> None:
            raise BusTimeout("cannot stop runbook-x.service: it did not end")

    machine = Stubborn(units={"gw.service": unit()})
    machine.on_command = lambda m, command: None
    end, _ = run(machine, step("run", run="sleep 100", timeout="5s"))
    assert (end.status, end.exit) == ("failed", 1)
    assert "cannot stop runbook-x.service" in end.reason


def test_a_program_inside_the_unit_that_it_would_stop_does_not_begin() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)}, inside="gw.service")
    end, _ = run(machine, step("restart"))
    assert (end.exit, machine.written) == (5, [])
    assert "inside gw.service" in end.reason


def test_an_interruption_wins_over_what_cannot_be_stopped_in_time() -> None:
    class Stubborn(FakeMachine):
        def stop_command(self, ref: Any) -> None:
            raise BusTimeout("cannot stop runbook-x.service: it did not answer in time")

    def interrupted(machine: FakeMachine) -> None:
        raise Interrupted(15)

    machine = Stubborn(units={"gw.service": unit()}, later=[(1001.0, interrupted)])
    machine.on_command = lambda m, command: None
    end, _ = run(machine, step("run", run="sleep 100"))
    assert (end.status, end.exit) == ("interrupted", 143)
