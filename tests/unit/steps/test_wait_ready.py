"""The situations of tests/cases/wait-ready, and one that lies between two looks at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.engine.execution.attempt import attempt
from runbook.engine.execution.stream import EventStream
from runbook.errors import HostError
from runbook.host.facts import Unit
from runbook.host.queries import Answer
from runbook.model import Port, ProcessId, Verdict
from runbook.spec.state import RunState
from runbook.steps import registry
from tests.unit.cases import cases, run_case
from tests.unit.fake_machine import FakeMachine, listen, process, unit


@pytest.mark.parametrize("path", cases("wait-ready"))
def test_case(path: Path) -> None:
    run_case(path)


class Leaving(FakeMachine):
    """A unit that is in this network at the first reading only."""

    seen = 0
    then: HostError | ProcessId = ProcessId(100, 1000)

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        self.seen += 1
        if self.seen == 1:
            return None
        if isinstance(self.then, HostError):
            raise self.then
        return self.then


@pytest.mark.parametrize("then", [ProcessId(100, 1000), HostError("there is nobody to ask from")])
def test_it_leaves_this_network_while_it_is_judged_who_answered(then: HostError | ProcessId) -> None:
    """The process that answered is in this network, and the sockets that were judged are in the other."""
    machine = Leaving(units={"gw.service": unit()}, processes={100: process(100)})
    machine.then = then
    machine.answers = {
        "tcp 127.0.0.1:80": [Answer(True, "connected")],
        "tcp 127.0.0.1:80 within PID 100": [Answer(False, "connection refused")],
    }
    fields = {"unit": "gw.service", "healthy-for": 0, "timeout": 5, "on-timeout": "fail"}
    step = registry()["wait-ready"].model_validate({"id": "wait", **fields, "probes": [{"tcp": {"port": 80}}]})
    found = attempt(step, machine, machine, RunState("run-1", Path("/srv")), EventStream("run-1", machine.clock, ()))
    said = then.message if isinstance(then, HostError) else "tcp 127.0.0.1:80 in the unit's network: connection refused"
    assert (str(found.verdict), found.reason) == ("probe-failed", f"not ready within 5s: {said}")


@pytest.mark.parametrize("healthy_for", [0, 1, 7])
def test_who_was_given_the_socket_meanwhile_is_found_at_the_end(healthy_for: int) -> None:
    """No event reports it, and between two rounds of probes not all processes are read."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "127.0.0.1:80")
    machine.answers = {"tcp 127.0.0.1:80": [Answer(True, "connected")]}
    machine.slow = 0.3

    def given(machine: FakeMachine) -> None:
        machine.processes[200] = process(200, cgroup="/user.slice/user-1000.slice/session-1.scope")
        listen(machine, 200, "127.0.0.1:80", first_inode=100 * 100)

    machine.later = [(machine.clock.time + max(0.2, healthy_for - 0.1), given)]
    fields = {"unit": "gw.service", "port": 80, "healthy-for": healthy_for, "timeout": 20}
    step = registry()["wait-ready"].model_validate({"id": "wait", **fields, "probes": [{"tcp": {"port": 80}}]})
    found = attempt(step, machine, machine, RunState("run-1", Path("/srv")), EventStream("run-1", machine.clock, ()))
    assert found.verdict is Verdict.PORT_SHARED, found.reason
    assert machine.clock.time < 1000 + healthy_for + 4


@pytest.mark.parametrize("lives", [0.02, 0.05, 0.2])
def test_a_loop_that_is_faster_than_the_journal(lives: float) -> None:
    """Each reading finds another invocation. The journal is queried about one at a time, and that wait ends."""
    machine = FakeMachine(units={"gw.service": unit(n_restarts=1)}, processes={100: process(100)}, slow=0.08)

    def anew(count: int) -> Callable[[FakeMachine], None]:
        def happen(machine: FakeMachine) -> None:
            machine.units["gw.service"] = unit(n_restarts=count, invocation_id=f"{count:032x}")
            machine.answers[f"exit before {count:032x} of gw.service"] = [Answer(True, "")]

        return happen

    machine.later = [(machine.clock.time + count * lives, anew(count)) for count in range(2, 400)]
    step = registry()["wait-ready"].model_validate({"id": "wait", "unit": "gw.service", "timeout": 120})
    run = RunState("run-1", Path("/srv"), baseline_restarts={"gw.service": 0})
    found = attempt(step, machine, machine, run, EventStream("run-1", machine.clock, ()))
    assert found.verdict is Verdict.CRASH_LOOP
    assert machine.clock.time < 1000 + 1.5
    assert run.query_count < 20
