"""Whole runs on a machine made of data: what a failure means for the rest, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbook.engine.events import Events
from runbook.engine.planner import Planner
from runbook.engine.runner import RunEnd, Runner
from runbook.errors import AccessDenied, BusLost, Interrupted
from runbook.host.facts import ActiveState, Answer, CommandResult, JobResult, Unit
from runbook.model import Deadline, Event, Wake
from runbook.step import Runbook, RunState, Step, registry
from tests.unit.fake_machine import FakeMachine, listen, process, start_anew, unit

ORPHAN = {"name": "openclaw", "user": "agentops", "cgroup": "/user.slice/user-1000.slice/session-9.scope"}


def step(kind: str, **fields: Any) -> Step[Any]:
    """Make a step with its id, as the document would."""
    takes = {"unit": "gw.service", "port": "80"}
    model = registry()[kind]
    filled = {name: takes[name] for name in model.takes if name not in fields}
    return model.model_validate({"id": kind, **filled, **fields})


def remediate(*checks: Step[Any], fix: tuple[Step[Any], ...], **fields: Any) -> Step[Any]:
    """Make a remediation with the ids of its steps prefixed."""
    named = [replace_id(check, f"remediate.check.{check.id}") for check in checks]
    mends = [replace_id(one, f"remediate.fix.{one.id}") for one in fix]
    return registry()["remediate"].model_validate({"id": "remediate", "check": named, "fix": mends, **fields})


def replace_id(one: Step[Any], name: str) -> Step[Any]:
    return one.model_copy(update={"id": name})


FIX = ("stop", "kill-orphan", "reset-failed", "start")


def incident() -> FakeMachine:
    """Make the birth incident: the unit dies of an orphan that holds its port."""
    machine = FakeMachine(units={"gw.service": unit(active_state=ActiveState.ACTIVE)})
    machine.processes = {100: process(100), 74: process(74, **ORPHAN)}
    listen(machine, 74, "127.0.0.1:80", "[::1]:80")

    def starts(machine: FakeMachine, name: str) -> JobResult:
        start_anew(machine, name)
        if 74 not in machine.processes:
            listen(machine, 200, "127.0.0.1:80", "[::1]:80")
        return JobResult.DONE

    machine.on_job = {"start": starts, "restart": starts}
    return machine


def run(machine: FakeMachine, *steps: Step[Any], **book: Any) -> tuple[RunEnd, list[Event]]:
    """Carry steps out and give the end and the events."""
    seen: list[Event] = []
    runbook = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "path": "x.yaml", **book})
    events = Events("run-1", machine.clock, (seen.append,))
    runner = Runner(runbook, machine, machine, events, RunState("run-1", Path("/srv"), outputs=Path("/out")))
    return runner.run(), seen


def finished(events: list[Event]) -> list[tuple[str, str, str]]:
    """Give id, status and verdict of every step that ended."""
    return [(e.data["id"], e.data["status"], e.data["verdict"]) for e in events if e.event == "step-finished"]


def test_the_incident_is_healed() -> None:
    machine = incident()
    end, events = run(
        machine,
        step("restart"),
        remediate(step("wait-ready", **{"healthy-for": "2s"}), step("verify-port-owner"), fix=tuple(map(step, FIX))),
    )
    assert (end.status, end.exit) == ("remediated", 0), end.reason
    assert finished(events) == [
        ("restart", "changed", "job-done"),
        ("remediate.check.wait-ready", "failed", "orphan-holds-port"),
        ("remediate.fix.stop", "changed", "job-done"),
        ("remediate.fix.kill-orphan", "changed", "killed"),
        ("remediate.fix.reset-failed", "changed", "reset"),
        ("remediate.fix.start", "changed", "job-done"),
        ("remediate.check.wait-ready", "ok", "ready"),
        ("remediate.check.verify-port-owner", "ok", "owned"),
        ("remediate", "remediated", "mended"),
    ]
    assert [w for w in machine.written if w.startswith("end")] == ["end 74 SIGTERM"]
    assert events[0].event == "run-started"
    assert events[-1].event == "run-finished"
    assert events[-1].data["status"] == "remediated"


def test_checks_that_hold_touch_nothing() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    end, events = run(machine, remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert (end.status, machine.written) == ("ok", [])
    assert finished(events)[-1] == ("remediate", "ok", "holds")


def test_a_refusal_that_can_be_foreseen_stops_nothing() -> None:
    """Half a fix is worse than none: the unit would be down, and the port still taken."""
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")
    end, events = run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert (end.status, end.exit, machine.written) == ("failed", 1, [])
    assert "nginx.service is a live service" in end.reason
    assert "nothing was stopped" in end.reason
    assert finished(events)[-1] == ("remediate", "failed", "not-mended")


def test_a_fix_that_breaks_later_starts_the_unit_again() -> None:
    machine = incident()
    machine.dies_on[74] = None
    end, _ = run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert end.status == "failed"
    assert machine.written == ["stop gw.service", "end 74 SIGTERM", "end 74 SIGKILL", "start gw.service"]
    assert "gw.service is active (running), PID 200" in end.reason


def test_a_unit_that_was_down_before_the_fix_is_not_started() -> None:
    machine = incident()
    machine.dies_on[74] = None
    machine.units["gw.service"] = unit(active_state=ActiveState.FAILED, sub_state="failed", main_pid=0, control_group="")
    run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert "start gw.service" not in machine.written


def test_still_starting_sets_off_no_fix() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, events = run(machine, remediate(step("wait-ready", timeout="20s"), fix=tuple(map(step, FIX))), step("stop"))
    assert (end.status, end.exit, machine.written) == ("still-starting", 3, [])
    assert finished(events)[-1] == ("remediate", "failed", "still-starting")


def test_rounds_are_counted() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_job["restart"] = lambda m, name: start_anew(m, name) or JobResult.DONE
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=(step("restart"),), rounds="3"))
    assert machine.written == ["restart gw.service"] * 3
    assert "fixed 3 times, and still verify-port-owner" in end.reason


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
    end, events = run(machine, step("run", run="broken", retries="1"))
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
    end, events = run(machine, step("restart"))
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
        "r", machine.clock, (lambda e: written_when_told.append(len(machine.written)) if e.event == "step-acting" else None,)
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
        runbook, machine, machine, Events("r", machine.clock, (seen.append,), ("hunter2",)), RunState("r", Path("/"))
    ).run()
    assert "hunter2" not in repr(seen)
    assert "***" in repr(seen)


# -- the plan


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
    assert remedy["undetermined-by"] == "restart can change this"


def test_the_plan_of_a_healthy_machine_changes_nothing() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    events = plan(machine, step("start"), remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert [impact for _, impact in planned(events)] == ["none", "none", "read-only", "none", "none", "none", "none"]
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
        machine, step("restart"), remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))), act=Planner.check
    )
    assert finished(events) == [("remediate.check.verify-port-owner", "failed", "orphan-holds-port")]
    assert events[-1].data["exit"] == 1


