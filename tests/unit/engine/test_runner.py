"""Whole runs on a machine made of data: what a failure means for the other steps, and how it is reported."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from runbook.engine.execution.stream import EventStream
from runbook.engine.runner import Runner
from runbook.errors import Interrupted
from runbook.host.facts import ActiveState
from runbook.host.queries import Answer, CommandResult
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
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
    assert (end.status, end.reason) == ("failed", "verify-port-owner: no process listens on port 80")


def test_the_last_words_of_a_socket_name_its_port() -> None:
    listens = (("Stream", "0.0.0.0:80"),)
    machine = FakeMachine(units={"gw.socket": unit("gw.socket", sub_state="listening", main_pid=0, listen=listens)})
    machine.processes[1] = process(1, ppid=0, name="systemd", cgroup="/init.scope")
    listen(machine, 1, "0.0.0.0:80")
    end, _ = run(machine, step("start", unit="gw.socket"), unit="gw.socket")
    assert end.reason == "gw.socket is active (listening), port 80"


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


def test_a_unit_that_no_step_could_create_is_reported_before_anything_is_changed() -> None:
    machine = FakeMachine()
    end, _ = run(machine, step("restart"))
    assert (end.status, end.exit, machine.written) == ("not-begun", 5, [])
    assert "systemd has no unit gw.service" in end.reason


def test_a_unit_may_be_brought_by_an_earlier_command() -> None:
    machine = FakeMachine()

    def brings(machine: FakeMachine, command: Any) -> CommandResult:
        machine.units["gw.service"] = unit(active_state=ActiveState.INACTIVE, main_pid=0)
        return CommandResult("success", 0)

    machine.on_command = brings
    end, _ = run(machine, step("run", run="install it"), step("start"))
    assert end.status == "changed"


def test_the_timeout_of_the_run_ends_its_steps_but_not_always() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_command = lambda m, command: CommandResult("success", 0)
    always = (step("run", id="tell", run="tell"),)
    end, _ = run(machine, step("wait-ready", **{"on-timeout": "fail"}), timeout="10s", always=always)
    assert machine.clock.time - 1000.0 == pytest.approx(10.0)
    assert (end.status, machine.written) == ("failed", ["command tell"])


def test_an_interruption_after_the_end_of_a_step_does_not_lose_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("runbook.engine.runner.read_journal_tail", interrupted)
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, events = run(machine, step("verify-port-owner"))
    assert end.status == "interrupted"
    assert finished(events) == [("verify-port-owner", "failed", "not-listening")]


def test_a_failed_run_names_the_command_that_fixes_it() -> None:
    machine, steps = incident(), (step("restart"), step("wait-ready"))
    book = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "path": "restart gw.service"})
    events = EventStream("run-1", machine.clock, ())
    end = Runner(book, machine, machine, events, RunState("run-1", Path("/")), fix_command="runbook fix gw").run()
    assert end.hint == "runbook fix gw stops gw.service, kills PID 74 on port 80, and starts it again"
