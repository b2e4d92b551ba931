"""The state of a run and of its steps: commands, and the part of it that is recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from runbook.host.facts import JobRef
from runbook.model import ProcessId
from runbook.spec.state import RunState, StepState


@dataclass
class JobState(StepState):
    job: JobRef | None = None
    seen: int = 0


def run_state() -> RunState:
    return RunState("run-1", Path("/srv/book"), {"A": "1", "B": "2"}, Path("/var/out"))


def test_a_string_is_a_script_and_a_list_is_argv() -> None:
    run = run_state()
    assert run.make_command("exit 3", timeout=5).argv == ("/bin/sh", "-e", "-c", "exit 3")
    assert run.make_command(("id", "-u"), timeout=5).argv == ("id", "-u")


def test_a_command_starts_in_the_folder_with_the_environment_of_both() -> None:
    made = run_state().make_command("id", timeout=5, cwd="sub", env={"B": "3"}, output="id.log")
    assert (made.cwd, made.env, made.output) == ("/srv/book/sub", {"A": "1", "B": "3"}, "/var/out/id.log")
    assert run_state().make_command("id", timeout=5, cwd="/tmp").cwd == "/tmp"


def test_a_dry_run_has_no_file_for_output() -> None:
    assert RunState("run-1", Path("/srv")).output_path("id.log") == ""


def test_each_query_has_a_number_of_its_own() -> None:
    run = run_state()
    assert [run.next_query_id(), run.next_query_id()] == [1, 2]


def test_what_is_recorded_of_a_run_is_restored() -> None:
    run, again = run_state(), run_state()
    run.baseline_restarts["gw.service"] = 2
    run.cleared["gw.service"] = 7.0
    run.query_count = 9
    again.load(run.dump())
    assert run.dump() == {"baseline_restarts": {"gw.service": 2}, "cleared": {"gw.service": 7.0}}
    assert (again.baseline_restarts, again.cleared, again.query_count) == ({"gw.service": 2}, {"gw.service": 7.0}, 0)


def test_the_ancestors_of_killed_processes_are_restored_on_the_same_boot_only() -> None:
    """On another boot, another process may have the same PID and start time."""
    killed = {ProcessId(70, 12): ("PID 74 (gw)", 8.5)}
    run = RunState("run-1", Path("/srv"), ancestors_of_killed=killed, boot="b1")
    recorded = json.loads(json.dumps(run.dump()))
    same, other = (RunState("run-1", Path("/srv"), boot=boot) for boot in ("b1", "b2"))
    for state in (same, other):
        state.load(recorded)
    assert (same.ancestors_of_killed, other.ancestors_of_killed) == (killed, {})


def test_what_is_recorded_of_a_step_is_restored() -> None:
    run = run_state()
    state = JobState(run, "restart", JobRef("/job/7", "gw.service", "restart"), 3)
    assert JobState.load(run, "restart", state.dump()) == state


def test_a_record_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="job"):
        JobState.load(run_state(), "restart", {"job": 5})
