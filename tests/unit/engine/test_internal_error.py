"""Errors of this program itself: a run that has one fails like any other, releases what it holds, and ends in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.engine import internal_error, remediation, rollback, runner
from runbook.engine.execution.stream import EventStream
from runbook.engine.internal_error import describe_internal_error, format_trace
from runbook.engine.rollback_plan import RollbackPlan
from runbook.events import Event, Notice
from runbook.host.facts import ActiveState
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.steps import registry
from runbook.steps.restart import Restart
from runbook.steps.run import Run
from runbook.steps.stop import Stop
from runbook.steps.verify_port_owner import VerifyPortOwner
from runbook.util import timespan
from tests.unit.engine.test_rollback import OLD, Installed, _book, carry_out, undone
from tests.unit.fake_machine import FakeMachine
from tests.unit.runs import finished, incident, remediate, run, step

BUGS = [
    MemoryError(),
    KeyError("x"),
    RecursionError("too deep"),
    AssertionError(),
    OSError(12, "Cannot allocate memory"),
]


def fail(error: Exception) -> Any:
    """Return a method that raises an error."""

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    return broken


def breaks(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: Exception, *, after: int = 0) -> None:
    """Make one call of a method fail, the one after so many good ones."""
    good, calls = getattr(where, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == after + 1:
            raise error
        return good(*args, **kwargs)

    monkeypatch.setattr(where, name, broken)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
@pytest.mark.parametrize("method", ["check", "apply", "time_limit"])
def test_a_run_is_rolled_back(monkeypatch: pytest.MonkeyPatch, bug: Exception, method: str) -> None:
    made = Installed("one", broken=False)
    breaks(monkeypatch, Restart, method, bug)
    steps = [*_book("one"), step("restart"), step("verify-port-owner")]
    status, exit_status, reason, events = carry_out(made, *steps)
    assert (status, exit_status) == ("rolled-back", 4)
    assert made.versions == {"one": OLD}
    assert ("rollback.verify-port-owner", "ok", "owned") in undone(events)
    assert reason.startswith(f"restart: internal error ({type(bug).__name__}")
    failed = next(e for e in events if e.event == "step-finished" and e.data["id"] == "restart")
    assert failed.data["evidence"]["traceback"][0] == "Traceback (most recent call last):"


def test_without_a_rollback_it_fails_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, Restart, "check", MemoryError())
    made = Installed("one", broken=False)
    end, events = run(made.machine, step("restart"), always=(step("run", id="last", run="install one 1.2.0"),))
    assert (end.status, end.exit, end.step) == ("failed", 1, "restart")
    assert end.reason.startswith("restart: internal error (MemoryError, in ")
    assert end.hint == "this is an error of runbook itself: report it with the output of runbook show run-1"
    assert ("last", "changed", "command-done") in finished(events)
    assert events[-1].event == "run-finished"


def test_what_was_started_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine()
    machine.on_command = lambda _machine, _command: None
    breaks(monkeypatch, Run, "check", KeyError("x"), after=1)
    end, _ = run(machine, step("run", run="sleep 100"), unit=None, port=())
    assert end.status == "failed"
    assert any(line.startswith("stop-command") for line in machine.written)


def test_it_is_retried_like_any_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, Restart, "check", KeyError("x"))
    end, events = run(Installed("one", broken=False).machine, step("restart", retries=1))
    assert (end.status, [e.data["attempt"] for e in events if e.event == "step-retrying"]) == ("changed", [1])


@pytest.mark.parametrize(("method", "after"), [("_make_namespace", 1), ("_run_once", 0)])
def test_an_error_between_attempts(monkeypatch: pytest.MonkeyPatch, method: str, after: int) -> None:
    breaks(monkeypatch, runner.Runner, method, KeyError("x"), after=after)
    end, events = run(Installed("one", broken=False).machine, step("restart"))
    assert (end.status, end.step) == ("failed", "restart")
    assert events[-1].event == "run-finished"


def test_an_error_in_the_rollback_leaves_the_always_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RollbackPlan, "build", fail(KeyError("x")))
    made = Installed("one")
    last = step("run", id="last", run="install two 1.2.0")
    status, exit_status, reason, events = carry_out(made, *_book("one"), step("restart"), always=(last,))
    assert (status, exit_status) == ("failed", 1)
    assert "; and the rollback failed: internal error (KeyError: 'x'" in reason
    assert ("last", "changed", "command-done") in finished(events)


def test_an_error_in_a_step_of_the_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, VerifyPortOwner, "check", KeyError("x"))
    made = Installed("one")
    status, exit_status, reason, _ = carry_out(made, *_book("one"), step("restart"), step("verify-port-owner"))
    assert (status, exit_status) == ("failed", 1)
    assert "and the rollback failed at rollback.verify-port-owner: internal error" in reason
    assert made.versions == {"one": OLD}


def test_a_fix_with_an_error_has_its_units_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name in ((Stop, "check"), (remediation.Remediation, "_begin_round")):
        with monkeypatch.context() as patch:
            breaks(patch, where, name, MemoryError(), after=int(where is Stop))
            machine = incident()
            fix = (step("stop"), step("kill-orphan"), step("start"))
            end, _ = run(machine, remediate(step("verify-port-owner"), fix=fix))
        assert (end.status, end.verdict) == ("failed", "not-fixed")
        assert "internal error (MemoryError" in end.reason
        assert machine.units["gw.service"].active_state is ActiveState.ACTIVE


@pytest.mark.parametrize("event", ["step-started", "step-acting", "step-finished"])
def test_a_report_with_an_error_has_the_run_rolled_back(event: str) -> None:
    """Whatever it cannot report of the restart."""

    def report(seen: Event) -> None:
        if seen.event == event and seen.data["id"] == "restart":
            raise KeyError("x")

    made = Installed("one", broken=False)
    steps = (*_book("one"), step("restart"), step("verify-port-owner"))
    fields = {"unit": "gw.service", "port": "80", "steps": steps, "path": "x", "types": registry(), "rollback": "auto"}
    book = Runbook.model_validate(fields)
    seen: list[Event] = []
    events = EventStream("r", made.machine.clock, (seen.append, report))
    end = runner.Runner(book, made.machine, made.machine, events, RunState("r", Path("/"), outputs=Path("/out"))).run()
    assert (end.status, made.versions) == ("rolled-back", {"one": OLD})
    assert end.reason.startswith("restart: internal error (KeyError: 'x'")
    assert [one.data["status"] for one in seen if one.event == "step-finished" and one.data["id"] == "restart"][-1] == (
        "failed"
    )


@pytest.mark.parametrize(
    "name", ["describe_state_left", "find_advice", "find_closed_sockets", "find_stopped_dependents", "describe_start"]
)
def test_what_cannot_be_described_does_not_hide_the_failure(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(runner, name, fail(KeyError("x")))
    status, exit_status, reason, events = carry_out(Installed("one"), *_book("one"), step("restart"))
    assert (status, exit_status) == ("rolled-back", 4)
    assert "rolled back: one is back" in reason
    assert events[-1].event == "run-finished"


def test_an_error_outside_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback.Rollback, "run_if_wanted", fail(KeyError("x")))
    status, exit_status, reason, events = carry_out(Installed("one"), *_book("one"), step("restart"))
    assert (status, exit_status) == ("failed", 1)
    assert reason.startswith("internal error (KeyError: 'x'")
    assert events[-1].event == "run-finished"


def test_a_report_with_an_error_fails_the_step_and_the_record_goes_on() -> None:
    machine = FakeMachine()
    seen: list[Event] = []
    calls = [0]

    def broken(_event: Event) -> None:
        calls[0] += 1
        raise KeyError("x")

    events = EventStream("r", machine.clock, (broken, seen.append))
    with pytest.raises(KeyError):
        events.emit(Notice(text="first"))
    events.emit(Notice(text="second"))
    assert [event.data["text"] for event in seen] == ["first", "second"]
    assert calls == [2]


def test_the_secrets_in_an_error_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "p4ss'w\"ord\nin two lines"
    monkeypatch.setattr(Restart, "check", fail(ValueError(f"bad value {secret!r}")))
    machine = Installed("one", broken=False).machine
    book = Runbook.model_validate({"unit": "gw.service", "steps": [step("restart")], "path": "x"})
    seen: list[Event] = []
    events = EventStream("r", machine.clock, (seen.append,), (secret,))
    runner.Runner(book, machine, machine, events, RunState("r", Path("/"))).run()
    assert [part for part in ("p4ss", "in two") if part in repr(seen)] == []


# What is reported of an error


def raised(text: object) -> Exception:
    """Return an exception that this program raises by a mistake."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        timespan.parse_span(text)  # type: ignore[arg-type]
    return caught.value


def test_the_place_is_named() -> None:
    error = raised(None)
    sentence = describe_internal_error(error)
    assert sentence.startswith("internal error (AttributeError: 'NoneType' object has no attribute 'strip', in util/")
    assert ".py, line " in sentence
    assert format_trace(error)[0] == "Traceback (most recent call last):"
    assert format_trace(error)[-1].startswith("AttributeError")


def test_an_error_from_elsewhere_without_words() -> None:
    assert describe_internal_error(MemoryError()) == "internal error (MemoryError)"


def test_of_very_much_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("x\n" * 5000)
    assert len(describe_internal_error(error)) < 400
    assert len(format_trace(error)) == internal_error.MAX_TRACE_LINES
