"""Builders of steps, runbooks and runs, for a machine that consists of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from runbook.engine.execution.replay import ResumeState
from runbook.engine.execution.stream import EventStream
from runbook.engine.planner import Planner
from runbook.engine.runner import Runner
from runbook.events import Event, RunFinished
from runbook.host.facts import ActiveState, JobResult
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import INHERITED_FIELDS, Step
from runbook.steps import registry
from tests.unit.fake_machine import FakeMachine, listen, process, start_anew, unit

ORPHAN = {"name": "openclaw", "user": "agentops", "cgroup": "/user.slice/user-1000.slice/session-9.scope"}


def step(kind: str, **fields: Any) -> Step[Any]:
    """Return a step with its id, as the document makes it."""
    takes = {"unit": "gw.service", "port": "80"}
    model = registry()[kind]
    filled = {name: takes[name] for name in INHERITED_FIELDS if name in model.model_fields and name not in fields}
    return model.model_validate({"id": kind, **filled, **fields})


def remediate(*checks: Step[Any], fix: tuple[Step[Any], ...], **fields: Any) -> Step[Any]:
    """Return a remediation whose steps have prefixed ids."""
    named = [replace_id(check, f"remediate.check.{check.id}") for check in checks]
    fixes = [replace_id(one, f"remediate.fix.{one.id}") for one in fix]
    return registry()["remediate"].model_validate({"id": "remediate", "check": named, "fix": fixes, **fields})


def replace_id(one: Step[Any], name: str) -> Step[Any]:
    return one.model_copy(update={"id": name})


FIX = ("stop", "kill-orphan", "reset-failed", "start")


def upgrade() -> tuple[Step[Any], ...]:
    """Return the steps of an upgrade that fixes the first incident."""
    checks = (step("wait-ready", **{"healthy-for": "2s"}), step("verify-port-owner"))
    return step("restart"), remediate(*checks, fix=tuple(map(step, FIX)))


def incident() -> FakeMachine:
    """Return the machine of the first incident: an orphan holds the unit's port, so the unit exits again and again."""
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


def run(
    machine: FakeMachine, *steps: Step[Any], earlier: Iterable[Event] = (), **book: Any
) -> tuple[RunFinished, list[Event]]:
    """Run steps, and return the last event and all events. With events of an `earlier` part, resume that run."""
    seen: list[Event] = []
    runbook = Runbook.model_validate(
        {"unit": "gw.service", "port": "80", "steps": steps, "path": "x.yaml", "types": registry(), **book}
    )
    events = EventStream("run-1", machine.clock, (seen.append,))
    state = RunState("run-1", Path("/srv"), outputs=Path("/out"))
    runner = Runner(runbook, machine, machine, events, state, resume_state=ResumeState.from_events(earlier))
    return runner.run(), seen


def plan(
    machine: FakeMachine, *steps: Step[Any], act: Callable[[Planner], object] = Planner.plan, **book: Any
) -> list[Event]:
    """Plan steps, and return the events. A plan writes nothing."""
    seen: list[Event] = []
    runbook = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "path": "x.yaml", **book})
    act(
        Planner(runbook, machine, machine, EventStream("r", machine.clock, (seen.append,)), RunState("r", Path("/srv")))
    )
    assert machine.written == []
    return seen


def finished(events: list[Event]) -> list[tuple[str, str, str]]:
    """Return id, status and verdict of each step that has finished."""
    return [(e.data["id"], e.data["status"], e.data["verdict"]) for e in events if e.event == "step-finished"]
