"""The situations of tests/cases/update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.errors import AccessDenied, HostError, Interrupted
from runbook.host.facts import JobRef, JobVerb
from runbook.host.queries import Answer, CommandResult
from runbook.model import Deadline, Wake
from runbook.spec.step import Step
from runbook.template.namespace import TemplateError, TemplateNamespace
from runbook.template.text import fill, parse_text, write_quoted
from tests.unit.cases import cases, run_case
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import run, step


@pytest.mark.parametrize("path", cases("update"))
def test_case(path: Path) -> None:
    run_case(path)


def machine_of(kind: type[FakeMachine] = FakeMachine) -> FakeMachine:
    """Make a machine with a running unit and version 1.0.0."""
    machine = kind(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers = {"app --version": [Answer(True, "", "1.0.0")]}
    return machine


def held() -> Step[Any]:
    return step("update", run="install app", version="app --version", to="1.1.0", **{"stop-first": True})


def test_an_interruption_lets_go() -> None:
    """The command is stopped, then the unit is started again; nothing is waited for."""

    class Interrupting(FakeMachine):
        def wait(self, wake: Wake, deadline: Deadline) -> None:
            raise Interrupted(15)

    machine = machine_of(Interrupting)
    machine.on_command = lambda m, command: None
    end, _ = run(machine, held())
    assert (end.status, end.exit) == ("interrupted", 143)
    assert machine.written == [
        "stop gw.service",
        "command install app",
        "stop-command runbook-run-1-update.service",
        "reset-failed gw.service",
        "start gw.service",
    ]


def test_a_unit_that_may_not_be_stopped_lets_go_of_its_socket() -> None:
    class Guarded(FakeMachine):
        def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
            if (verb, unit) == (JobVerb.STOP, "gw.service"):
                raise AccessDenied("cannot stop gw.service: not allowed")
            return super().enqueue_job(verb, unit)

    machine = machine_of(Guarded)
    machine.units["gw.service"] = unit(triggered_by=("gw.socket",))
    machine.units["gw.socket"] = unit("gw.socket", main_pid=0, control_group="")
    end, _ = run(machine, held())
    assert machine.written == ["stop gw.socket", "start gw.socket", "start gw.service"]
    assert (end.status, "not allowed; gw.socket was started again" in end.reason) == ("failed", True), end.reason


def test_a_command_that_cannot_be_started_lets_go() -> None:
    machine = machine_of()
    machine.refuse["command"] = HostError("cannot run a command as nobody2: there is no such user")
    end, _ = run(machine, held())
    assert machine.written == ["stop gw.service", "command install app", "reset-failed gw.service", "start gw.service"]
    assert "there is no such user; gw.service was started again" in end.reason


def test_after_an_unknown_result_the_units_are_released() -> None:
    class Forgetful(FakeMachine):
        def read_command_result(self, ref: JobRef) -> CommandResult:
            raise HostError(f"cannot find out how {ref.unit} ended: it left no result")

    machine = machine_of(Forgetful)
    end, _ = run(machine, held())
    assert (end.status, machine.written[-1]) == ("failed", "start gw.service")


def test_without_stop_first_the_unit_is_none_of_its_business() -> None:
    assert step("update", run="x", version="y", to="1.0").units() == ()
    assert held().units() == ("gw.service",)


def test_what_the_version_command_of_a_secret_step_prints_is_not_quoted() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.answers = {"app --version": [Answer(True, "", "hunter2")]}
    _, events = run(machine, step("update", run="install app", version="app --version", to="1.1.0", secret=True))
    assert "hunter2" not in repr(events)
    assert "prints no version" in repr(events)


@pytest.mark.parametrize(
    ("run_", "installed", "seen"),
    [
        ("# from ${{ from }} to ${{ to }}\ninst ${{ to }}", "", "# from  to 1.1.0\ninst 1.1.0"),
        ("D=${D:-`pwd`}; cp -a app app-${{ from }}", "1.0.0~rc1", "D=${D:-`pwd`}; cp -a app app-1.0.0~rc1"),
        ("cat <<EOF\nfrom=${{ from }}\nEOF", "1.0.0", "cat <<EOF\nfrom=1.0.0\nEOF"),
    ],
)
def test_the_previous_version_is_inserted_wherever_from_stands(run_: str, installed: str, seen: str) -> None:
    machine = machine_of()
    machine.answers = {"app --version": [Answer(True, "", installed), Answer(True, "", "1.1.0")]}
    end, _ = run(machine, _templated(run_))
    assert (end.status, machine.written) == ("changed", [f"command {seen}"])


def test_what_cannot_be_put_in_ends_the_run_before_anything_is_stopped() -> None:
    """The last steps run, and the end is reported, as after any other failure."""
    machine = machine_of()
    machine.answers = {"app --version": [Answer(True, "", "none yet")]}
    update = _templated("cat <<EOF\nfrom=${{ from }}\nEOF", **{"stop-first": True})
    end, events = run(machine, update, always=(step("run", id="tell", run="tell people"),))
    assert (end.status, end.step, end.verdict) == ("failed", "update", "update-failed")
    assert "`from` is in or behind a here-document" in end.reason
    assert "put it into the `env` of the step" in end.reason
    assert machine.written == ["command tell people"]
    assert events[-1].event == "run-finished"


def test_what_cannot_be_put_in_lets_go_of_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise TemplateError("cannot be put in")

    machine = machine_of()
    update = held()
    monkeypatch.setattr(type(update), "start_command", refuses)
    end, _ = run(machine, update)
    assert (end.status, "cannot be put in" in end.reason) == ("failed", True)
    assert machine.written == ["stop gw.service", "reset-failed gw.service", "start gw.service"]


def _templated(text: str, **fields: Any) -> Step[Any]:
    made = step("update", run=parse_text(text, write_quoted), version="app --version", to="1.1.0", **fields)
    return fill(made, TemplateNamespace(results={}))
