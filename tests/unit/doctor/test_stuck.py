"""Units that do nothing although they did not fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.checks.exit_reason import USEC_INFINITY
from runbook.doctor.findings import FindingKind, MachineFinding, Severity
from runbook.doctor.machine import MachineDoctor
from runbook.host.facts import ActiveState
from tests.unit.doctor.diagnosed import healthy
from tests.unit.fake_machine import FakeMachine, unit

HOUR = 3600.0


def find(machine: FakeMachine) -> list[MachineFinding]:
    return list(MachineDoctor(machine, machine, 0).diagnose().findings)


def test_a_unit_that_is_frozen() -> None:
    (found,) = find(healthy(freezer_state="frozen"))
    assert (found.kind, found.severity, found.subject) == (FindingKind.FROZEN, Severity.PROBLEM, "gw.service")
    assert found.reason == "is frozen, so none of its processes runs (systemctl thaw gw.service lets them run)"
    assert found.next == "runbook doctor gw.service"
    machine = healthy()
    machine.frozen_cgroups = ("gw.service",)
    assert [one.kind for one in find(machine)] == [FindingKind.FROZEN]


@pytest.mark.parametrize("state", ["T", "t"])
def test_a_main_process_that_is_stopped(state: str) -> None:
    machine = healthy()
    machine.processes[100] = replace(machine.processes[100], state=state)
    (found,) = find(machine)
    assert (found.kind, found.severity) == (FindingKind.FROZEN, Severity.PROBLEM)
    assert "PID 100 (gateway), the main process of gw.service, is stopped" in found.reason


def starting(**changes: Any) -> FakeMachine:
    facts = {"active_state": ActiveState.ACTIVATING, "sub_state": "start", "state_change_monotonic": 100_000_000}
    return FakeMachine({"gw.service": unit(**{**facts, "main_pid": 0, "timeout_start_usec": 90_000_000, **changes})})


def test_a_start_that_does_not_end() -> None:
    (found,) = find(starting())
    assert (found.kind, found.severity) == (FindingKind.STUCK, Severity.PROBLEM)
    assert found.reason == "it has been activating (start) for 15min, and TimeoutStartSec= is 1min 30s"
    assert find(starting(state_change_monotonic=800_000_000)) == []
    assert find(starting(timeout_start_usec=USEC_INFINITY)) == []


@pytest.mark.parametrize(("kind", "severity"), [("notify", Severity.PROBLEM), ("oneshot", Severity.WARNING)])
@pytest.mark.parametrize("limit", [0, USEC_INFINITY])
def test_a_start_without_a_limit_that_is_hours_old(kind: str, severity: Severity, limit: int) -> None:
    machine = starting(type=kind, timeout_start_usec=limit, state_change_monotonic=1_000_000)
    machine.clock.time += 3 * HOUR
    (found,) = find(machine)
    assert (found.kind, found.severity) == (FindingKind.STUCK, severity)
    assert found.reason.endswith("it has no time limit (TimeoutStartSec=)")


def test_a_stop_that_does_not_end() -> None:
    facts = {"active_state": ActiveState.DEACTIVATING, "sub_state": "stop-sigterm", "timeout_stop_usec": 10_000_000}
    (found,) = find(starting(**facts))
    assert found.reason == "it has been deactivating (stop-sigterm) for 15min, and TimeoutStopSec= is 10s"
    assert find(starting(**{**facts, "timeout_stop_usec": 200_000_000})) == []


def test_a_unit_that_fails_before_its_main_process_again_and_again() -> None:
    facts = {"sub_state": "auto-restart", "n_restarts": 4, "exec_main_start_monotonic": 0}
    (found,) = find(starting(**facts))
    assert (found.kind, found.severity) == (FindingKind.LOOP, Severity.PROBLEM)
    assert "4 times" in found.reason
