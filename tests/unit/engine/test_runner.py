"""Whole runs on a machine made of data: what a failure means for the rest, and what is told of it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from runbook.engine.execution.stream import EventStream
from runbook.engine.runner import Runner
from runbook.errors import AccessDenied, BusLost, BusTimeout, Interrupted
from runbook.events import Event
from runbook.host.facts import ActiveState, Unit
from runbook.host.queries import Answer, CommandResult
from runbook.spec.state import RunState
from runbook.spec.step import Runbook
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import finished, incident, remediate, run, step


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
    assert "systemd has no unit gw.service" in end.reason


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

        def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
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
    events = EventStream(
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
        EventStream("r", machine.clock, (seen.append,), ("hunter2",)),
        RunState("r", Path("/")),
    ).run()
    assert "hunter2" not in repr(seen)
    assert "***" in repr(seen)


@pytest.mark.parametrize(
    ("secret", "run", "printed", "leaks"),
    [
        pytest.param("s3cr3t-token-of-many", "login", f"{'x' * 190} s3cr3t-token-of-many", "s3cr3t", id="line"),
        pytest.param("s3cr3t-token-of-many", f"curl {'x' * 43} s3cr3t-token-of-many", "", "s3cr3t", id="command"),
        pytest.param("it's-a-s3cr3t", "login 'it'\"'\"'s-a-s3cr3t'", "", "s3cr3t", id="quoted"),
        pytest.param("s3cr3t-token\n", "login", "no s3cr3t-token", "s3cr3t", id="newline"),
        pytest.param("BEGIN s3cr3t\nOF MANY LINES", "login", "BEGIN s3cr3t\nOF MANY LINES", "LINES", id="lines"),
        pytest.param("s3cr3t-token-of-many", "login", f"s3cr3t-token-of-many{'x' * 3995}", "many", id="beginning"),
    ],
)
def test_a_piece_of_a_secret_is_masked_too(secret: str, run: str, printed: str, leaks: str) -> None:
    """Texts are cut for a sentence, shown line by line, and quoted for the shell."""
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: CommandResult("exit-code", 1, printed)
    machine.answers = {"look": [Answer(False, "exited with status 1", printed)]}
    look = step("run", id="look", run="look", **{"read-only": True, "on-failure": "continue"})
    runbook = Runbook.model_validate({"steps": [look, step("run", run=run)], "path": "x"})
    seen: list[Event] = []
    events = EventStream("r", machine.clock, (seen.append,), (secret,))
    Runner(runbook, machine, machine, events, RunState("r", Path("/"))).run()
    assert leaks not in repr(seen)
    assert "***" in repr(seen)


def test_a_remediation_keeps_the_secrets_of_what_it_holds() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.answers = {"look": [Answer(False, "exited with status 1", "hunter2")]}
    look = step("run", id="look", run="look", **{"read-only": True})
    _, events = run(machine, remediate(look, fix=(step("reset-failed"),), secret=True))
    assert "hunter2" not in repr(events)


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


def test_the_time_of_the_whole_run_is_told_as_that() -> None:
    """Not as the step's own, which is longer."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, _ = run(machine, step("wait-ready", timeout="120s"), timeout="3s")
    assert machine.clock.time - 1000.0 == pytest.approx(3.0)
    assert "the time of all steps is over (`timeout`)" in end.reason
    assert "120s" not in end.reason


def test_an_interruption_after_the_end_of_a_step_does_not_lose_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("runbook.engine.runner.read_journal_tail", interrupted)
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, events = run(machine, step("verify-port-owner"))
    assert end.status == "interrupted"
    assert finished(events) == [("verify-port-owner", "failed", "not-listening")]
