"""Run the case files of tests/cases: a machine as data, a step, and the expected result."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from runbook.engine.execution.attempt import attempt, check_once
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.stream import EventStream
from runbook.host.facts import JobResult
from runbook.host.queries import Answer, CommandResult, FileChange, PreviousExit, StartEvent, StartEventKind
from runbook.model import Port
from runbook.spec.state import RunState
from runbook.steps import registry
from tests.unit.fake_machine import UNSEEN, FakeMachine, close_in_accept, facts_of, listen, process, start_anew, unit

CASES = Path(__file__).parent.parent / "cases"


def cases(kind: str) -> list[Any]:
    """Return the case files of a step type as pytest's parameters. At least one must exist."""
    found = sorted((CASES / kind).glob("*.yaml"))
    assert found, f"no case for {kind}"
    return [pytest.param(path, id=path.stem) for path in found]


def run_case(path: Path) -> None:
    """Set up the machine of a case, run one attempt of the step, and compare the outcome."""
    case = yaml.safe_load(path.read_text())
    machine = machine_of(case)
    ((kind, fields),) = case["step"].items()
    step = registry()[kind].model_validate({"id": kind, **(fields or {})})
    ports = {name: tuple(map(Port, numbers)) for name, numbers in case.get("ports", {}).items()}
    run = RunState("run-1", Path("/srv"), ports=ports, baseline_restarts=dict(case.get("started-by-run", {})))
    expect = case["expect"]
    if case.get("check-once"):
        outcome = Outcome.of_attempt(step, check_once(step, machine, machine, run), acted=False)
    else:
        outcome = attempt(step, machine, machine, run, EventStream("run-1", machine.clock, ()))
        assert str(outcome.status) == expect["status"], outcome
    assert str(outcome.verdict) == expect["verdict"], outcome
    assert re.search(expect["reason"], outcome.reason), outcome.reason
    assert machine.written == expect.get("written", []), machine.written
    assert outcome.acted == bool(machine.written)
    if "after" in expect:
        assert machine.clock.time - 1000.0 == pytest.approx(expect["after"], abs=0.06)


def machine_of(case: dict[str, Any]) -> FakeMachine:
    """Return the machine that a case describes."""
    machine = FakeMachine(
        hidden=case.get("hidden", 0), hinders=dict(case.get("obstacles", {})), slow=case.get("slow", 0.0)
    )
    machine.pid_churn = case.get("pid-churn", False)
    machine.unreadable = tuple(case.get("unreadable-pids", ()))
    machine.frozen_cgroups = tuple(case.get("frozen", ()))
    machine.reload_loses = case.get("reload-loses", [])
    machine.reload_breaks = case.get("reload-breaks", [])
    for name, facts in case.get("units", {}).items():
        machine.units[name] = unit(name, **facts_of(facts or {}))
    for pid, facts in case.get("processes", {}).items():
        _add_process(machine, pid, dict(facts or {}))
    listen(machine, UNSEEN, *case.get("unseen-sockets", ()))
    for moment in case.get("later", []):
        machine.later.append((1000.0 + moment["at"], partial(_happen, moment=moment)))
    for question, answers in case.get("answers", {}).items():
        machine.answers[question] = [
            Answer(a.get("ok", True), a.get("detail", ""), _value(a), _reached(a), a.get("wrong", False))
            for a in answers
        ]
    for verb, how in case.get("jobs", {}).items():
        machine.on_job[verb] = _job(how)
    if "command" in case:
        how = case["command"]
        result = CommandResult(how["result"], how.get("status", 0), how.get("output", "")) if how else None
        machine.on_command = lambda m, command: result
    return machine


def _value(answer: dict[str, Any]) -> str | FileChange | PreviousExit | tuple[StartEvent, ...] | None:
    """Return the value of an answer, by the key that the case has for it."""
    if "change" in answer:
        return FileChange(**answer["change"])
    if "exit" in answer:
        return PreviousExit(**answer["exit"])
    if "starts" in answer:
        return tuple(StartEvent(at, StartEventKind.START) for at in answer["starts"])
    output: str | None = answer.get("output")
    return output


def _reached(answer: dict[str, Any]) -> Port | None:
    address, _, number = answer.get("reached", "").rpartition(":")
    return Port(int(number), address=address) if number else None


def _add_process(machine: FakeMachine, pid: int, facts: dict[str, Any]) -> None:
    sockets = facts.pop("listens", [])
    inode = facts.pop("inode", None)
    if "dies-on" in facts:
        word = facts.pop("dies-on")
        machine.dies_on[pid] = signal.Signals[f"SIG{word}"] if word != "nothing" else None
    if "spared" in facts:
        machine.spared[pid] = facts.pop("spared")
    named = facts_of(facts)
    if "command" in named:
        named["command"] = tuple(named["command"].split())
    machine.processes[pid] = process(pid, **named)
    listen(machine, pid, *sockets, first_inode=inode)


def _happen(machine: FakeMachine, moment: dict[str, Any]) -> None:
    for name, facts in moment.get("units", {}).items():
        machine.units[name] = replace(machine.units[name], **facts_of(facts))
    for pid in moment.get("gone", []):
        machine.kill(pid)
    for pid, number in moment.get("closed", {}).items():
        close_in_accept(machine, pid, number)
    machine.unreadable = tuple(moment.get("unreadable-pids", machine.unreadable))
    machine.frozen_cgroups = tuple(moment.get("frozen", machine.frozen_cgroups))
    if "unseen-sockets" in moment:
        machine.sockets.pop(UNSEEN, None)
        listen(machine, UNSEEN, *moment["unseen-sockets"])
    if "command-ends" in moment:
        machine.results |= dict.fromkeys(machine.results, CommandResult(moment["command-ends"], 0))
    for pid, facts in moment.get("processes", {}).items():
        _add_process(machine, pid, dict(facts))


def _job(how: dict[str, Any]) -> Any:
    def do(machine: FakeMachine, name: str) -> JobResult | None:
        if how.get("starts"):
            start_anew(machine, name)
        machine.units[name] = replace(machine.units[name], **facts_of(how.get("unit", {})))
        return JobResult(how["result"]) if how.get("result") else None

    return do
