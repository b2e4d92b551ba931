"""Whether the doctor names the cause of a failure."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.doctor.unit import Doctor
from runbook.engine.diagnosis import HAS_DROP_IN, NAMES_CAUSE, advise_doctor
from runbook.errors import BusTimeout, HostError, Interrupted
from runbook.host.facts import ActiveState
from tests.unit.fake_machine import FakeMachine, journal_lines, listen, process, unit
from tests.unit.runs import ORPHAN

DOWN: dict[str, Any] = {
    "active_state": ActiveState.FAILED,
    "sub_state": "failed",
    "main_pid": 0,
    "restart": "no",
    "result": "exit-code",
    "inactive_exit_monotonic": 1,
}
WITH_PORT = {"start_arguments": ("/usr/bin/gw", "--port", "81")}


def down(**changes: Any) -> FakeMachine:
    return FakeMachine(units={"gw.service": unit(**{**DOWN, **changes})})


def advise(machine: FakeMachine) -> str:
    return advise_doctor(machine, machine, machine.units["gw.service"])


def test_a_port_that_another_process_has_is_a_cause() -> None:
    machine = down(**WITH_PORT)
    assert advise(machine) == ""
    machine.processes = {74: process(74, **ORPHAN)}
    listen(machine, 74, "0.0.0.0:81")
    assert advise(machine) == NAMES_CAUSE


def test_a_cause_with_a_drop_in_file() -> None:
    machine = down(type="notify", result="timeout")
    assert advise(machine) == NAMES_CAUSE
    refused = "gw.service: Got notification message from PID 7, but reception only permitted for main PID 5"
    machine = down(type="notify", result="timeout")
    machine.answers["what systemd logged of gw.service"] = [journal_lines(refused, pid=1)]
    assert advise(machine) == HAS_DROP_IN


@pytest.mark.parametrize(
    "changes",
    [
        {"result": "start-limit-hit", "exec_main_code": 1, "exec_main_status": 3},
        {"restart": "always", "restart_prevent_statuses": (3,), "exec_main_code": 1, "exec_main_status": 3},
        {},
    ],
)
def test_what_follows_from_an_exit_is_no_cause(changes: dict[str, Any]) -> None:
    assert advise(down(**changes)) == ""


@pytest.mark.parametrize("error", [HostError("cannot read /proc"), BusTimeout("no answer"), Interrupted(2)])
def test_the_failure_is_reported_if_the_doctor_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Doctor, "diagnose", fail)
    assert advise(down()) == ""
