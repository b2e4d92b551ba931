"""The window of wait-ready, and what a time-out means for a unit in each state."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.health import HealthReport, HealthState
from runbook.checks.readiness import HealthWindow, describe_notes, judge_late
from runbook.host.facts import ActiveState
from runbook.model import Verdict, Wake, not_yet
from tests.unit.fake_machine import FakeMachine, unit

LATE = not_yet(Verdict.STILL_STARTING, "the reason", Wake())


def report(invocation: str = "a" * 32) -> HealthReport:
    return HealthReport(unit(invocation_id=invocation), (), Verdict.READY, "")


def test_another_invocation_begins_another_window() -> None:
    window = HealthWindow(started_at=10.0)
    assert window.is_edge(report(), 12.0, 5.0)
    assert window.extend(report(), 12.0) == 0
    assert not window.is_edge(report(), 14.0, 5.0)
    assert window.extend(report(), 17.0) == 5.0
    assert window.is_edge(report(), 17.0, 5.0)
    assert window.ready_after(17.0) == 2.0
    assert window.extend(report("b" * 32), 18.0) == 0


@pytest.mark.parametrize(
    ("facts", "health", "fail", "verdict"),
    [
        ({}, {}, False, "still-starting"),
        ({}, {"other_starts": 2}, False, "unit-changed"),
        ({"active_state": ActiveState.FAILED}, {}, False, "unit-failed"),
        ({"active_state": ActiveState.DEACTIVATING, "job_type": "stop"}, {}, False, "unit-changed"),
        ({"active_state": ActiveState.DEACTIVATING, "job_type": "restart"}, {}, False, "still-starting"),
    ],
)
def test_what_a_time_out_means(facts: dict[str, Any], health: dict[str, Any], fail: bool, verdict: str) -> None:
    found = judge_late(FakeMachine(), unit(**facts), HealthState(**health), LATE, 3.0, fail=fail)
    assert found.verdict == verdict
    assert found.reason.startswith("not ready within 3s: the reason")


def test_with_fail_a_unit_that_is_still_starting_is_a_failure() -> None:
    found = judge_late(FakeMachine(), unit(), HealthState(), LATE, 3.0, fail=True)
    assert (found.state, found.verdict) == ("fails", "still-starting")


def test_a_file_that_changed_is_noted() -> None:
    changed = HealthReport(unit(need_daemon_reload=True), (), Verdict.READY, "")
    assert "daemon-reload" in describe_notes(changed, HealthState())
    assert describe_notes(report(), HealthState()) == ""
