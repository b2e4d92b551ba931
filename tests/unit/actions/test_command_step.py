"""The base of the steps that run a command: what a resumed try finds, and what a failure shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.actions.command_step import OUTPUT_TAIL_LINES, CommandStepState, make_failure
from runbook.host.facts import JobRef
from runbook.host.queries import CommandResult
from runbook.model import Verdict
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine
from tests.unit.runs import step

REF = JobRef("/command/9", "runbook-run-1-run.service", "start")


def _state() -> CommandStepState:
    return CommandStepState(RunState("run-1", Path("/srv")), "run")


def test_each_try_has_a_token_of_its_own() -> None:
    assert _state().token != _state().token


def test_a_resumed_try_joins_the_command_that_is_still_running() -> None:
    machine, state = FakeMachine(found_commands={"run-1-run": REF}, results={REF.path: None}), _state()
    assert step("run", run="make").resume(machine, state, stopped=False) == ""
    assert state.job == REF


def test_a_command_without_a_trace_is_unknown() -> None:
    unknown = step("run", run="make").resume(FakeMachine(), _state(), stopped=False)
    assert unknown == "it is unknown whether `make` was run to its end"


@pytest.mark.parametrize(("result", "kept"), [("success", True), ("timeout", False)])
def test_of_a_command_that_was_stopped_only_a_success_counts(result: str, kept: bool) -> None:
    ended = CommandResult(result, 0 if kept else 15, "")
    machine, state = FakeMachine(found_commands={"run-1-run": REF}, results={REF.path: ended}), _state()
    token = state.token
    assert step("run", run="make").resume(machine, state, stopped=True) == ""
    assert (state.job == REF, state.token == token) == (kept, kept)


def test_a_failure_shows_the_last_lines() -> None:
    printed = "\n".join(f"line {number}" for number in range(100))
    found = make_failure(Verdict.COMMAND_FAILED, "`make`", CommandResult("exit-code", 2, printed))
    assert len(found.evidence["output"].splitlines()) == OUTPUT_TAIL_LINES
    assert found.reason.endswith("line 99")
