"""The stream of events: its sinks, and the secrets that it masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.engine.execution.stream import EventStream
from runbook.engine.runner import Runner
from runbook.events import Event, Notice
from runbook.host.queries import Answer, CommandResult
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import remediate, run, step


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
    """Reports shorten texts, show them line by line, and quote them for the shell."""
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


def test_an_event_reaches_the_sinks_in_their_order() -> None:
    seen: list[tuple[str, str]] = []
    sinks = (lambda e: seen.append(("first", e.event)), lambda e: seen.append(("second", e.event)))
    stream = EventStream("r", FakeMachine().clock, sinks)
    event = stream.emit(Notice(text="x"))
    assert seen == [("first", "notice"), ("second", "notice")]
    assert stream.emitted == [event]
