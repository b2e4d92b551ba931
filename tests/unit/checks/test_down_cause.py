"""Why a unit is down: the first of its causes."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.down_cause import find_down_cause
from runbook.host.facts import ActiveState
from tests.unit.fake_machine import FakeMachine, unit

INACTIVE: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "main_pid": 0}
FAILED: dict[str, Any] = {"active_state": ActiveState.FAILED, "main_pid": 0, "restart": "no", "result": "exit-code"}


@pytest.mark.parametrize(
    ("facts", "verdict", "reason"),
    [
        (
            {**INACTIVE, "result": "exec-condition"},
            "condition-not-met",
            "gw.service was not started: its ExecCondition=",
        ),
        ({**INACTIVE, "condition_result": False}, "condition-not-met", "a Condition or Assert of gw.service"),
        ({**INACTIVE}, "unit-exited", "gw.service is down: THE EXIT"),
        ({**INACTIVE, "type": "oneshot"}, "unit-exited", "once its work is done"),
        ({**FAILED, "type": "notify", "result": "timeout", "active_enter_monotonic": 1}, "not-notifying", "failed:"),
        ({**FAILED, "result": "start-limit-hit"}, "start-limit-hit", "its starts (5 in 60s) were used up"),
        ({**FAILED, "exec_main_code": 1, "exec_main_status": 3}, "unit-failed", "exited with status 3"),
    ],
)
def test_the_first_cause(facts: dict[str, Any], verdict: str, reason: str) -> None:
    down = unit(**facts)
    found, why = find_down_cause(FakeMachine(), down, "THE EXIT", was_running=False, was_stopped=False)
    assert found == verdict
    assert reason in why


def test_the_service_behind_a_socket_is_named() -> None:
    socket = unit("gw.socket", **FAILED | {"result": "trigger-limit-hit"}, triggers=("gw.service",))
    _, why = find_down_cause(FakeMachine(), socket, "", was_running=False, was_stopped=False)
    assert "because gw.service was started too often" in why


@pytest.mark.parametrize(("ran", "stopped", "verdict"), [(True, True, "unit-changed"), (False, True, "unit-exited")])
def test_a_stop_counts_only_for_an_invocation_that_was_found_running(ran: bool, stopped: bool, verdict: str) -> None:
    found, _ = find_down_cause(FakeMachine(), unit(**INACTIVE), "", was_running=ran, was_stopped=stopped)
    assert found == verdict


def test_an_exit_after_which_systemd_would_restart_it_was_a_stop() -> None:
    down = unit(**INACTIVE, exec_main_code=1, restart="always")
    found, _ = find_down_cause(FakeMachine(), down, "", was_running=True, was_stopped=False)
    assert found == "unit-changed"
