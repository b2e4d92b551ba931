"""Diagnoses a unit of a machine that consists of data."""

from __future__ import annotations

from typing import Any

from runbook.doctor.findings import Cause, UnitDiagnosis
from runbook.doctor.unit import Doctor
from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Process
from runbook.model import Port
from tests.unit.fake_machine import FakeMachine, listen, process, unit

SESSION = "/user.slice/user-1000.slice/session-9.scope"
COMMAND = ("/usr/bin/gateway", "--port", "18789")
FAILED: dict[str, Any] = {
    "active_state": ActiveState.FAILED,
    "sub_state": "failed",
    "result": "exit-code",
    "main_pid": 0,
    "exec_main_code": 1,
    "exec_main_status": 78,
    "n_restarts": 5,
}
"""Facts of a unit whose start limit is reached."""


def diagnose(machine: FakeMachine, name: str = "gw.service", *ports: Port, uid: int = 0) -> UnitDiagnosis:
    return Doctor(machine, machine, uid).diagnose(name, ports)


def healthy(**changes: Any) -> FakeMachine:
    """Return a machine whose unit listens on its port."""
    machine = FakeMachine({"gw.service": unit(**{"start_arguments": COMMAND, **changes})}, {100: process(100)})
    listen(machine, 100, "127.0.0.1:18789")
    return machine


def incident(**changes: Any) -> FakeMachine:
    """Return a machine on which an older copy of the program, started in a login, has the unit's port."""
    facts = {"start_arguments": COMMAND, **changes}
    machine = FakeMachine({"gw.service": unit(**facts)}, {74: orphan()})
    if machine.units["gw.service"].main_pid:
        machine.processes[100] = process(100)
    machine.refused_ports["gw.service"] = (Port(18789),)
    listen(machine, 74, "127.0.0.1:18789", "[::1]:18789")
    return machine


def orphan(**changes: Any) -> Process:
    facts = {"cgroup": SESSION, "ppid": 70, "uid": 1000, "user": "agentops", "environment": ("HOME", "PATH")}
    return process(74, started=100.0, command=COMMAND, **{**facts, **changes})


def gw(machine: FakeMachine) -> Unit:
    return machine.units["gw.service"]


def causes(machine: FakeMachine, *ports: Port) -> list[str]:
    return [cause.sentence for cause in diagnose(machine, "gw.service", *ports).causes]


def only(machine: FakeMachine, part: str) -> Cause:
    """Return the only cause whose sentence contains a text."""
    (found,) = [cause for cause in diagnose(machine).causes if part in cause.sentence]
    return found
