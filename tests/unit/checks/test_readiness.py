"""The window of wait-ready, and what a time-out means for a unit in each state."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.exit_reason import USEC_INFINITY
from runbook.checks.health import HealthReport, HealthState
from runbook.checks.readiness import HealthWindow, describe_notes, judge_late
from runbook.host.facts import ActiveState
from runbook.model import Finding, Verdict, Wake, holds, not_yet
from tests.unit.fake_machine import FakeMachine, unit

LATE = not_yet(Verdict.STILL_STARTING, "the reason", Wake())


def report(invocation: str = "a" * 32) -> HealthReport:
    return HealthReport(unit(invocation_id=invocation), (), Verdict.READY, "")


def judge(window: HealthWindow, now: float, **facts: Any) -> Finding:
    seen = HealthReport(unit(**facts), (), Verdict.READY, "")
    return window.judge(seen, holds(Verdict.READY, ""), HealthState(), now, 60.0)


def test_another_invocation_begins_another_window() -> None:
    window = HealthWindow(10.0, 5.0, 120.0)
    assert window.is_edge(report(), 12.0)
    assert judge(window, 12.0).state == "not-yet"
    assert not window.is_edge(report(), 14.0)
    assert window.is_edge(report(), 17.0)
    assert judge(window, 17.0).reason == "healthy for 5s, ready after 2.0s"
    assert judge(window, 18.0, invocation_id="b" * 32).reason == "healthy for 0.0s of 5s"


WATCHED = {"watchdog_usec": 8_000_000}


def test_the_watchdog_makes_the_window_longer() -> None:
    window = HealthWindow(10.0, 5.0, 120.0)
    assert judge(window, 12.0, **WATCHED).reason == "healthy for 0.0s of 8.5s (WatchdogSec=)"
    assert judge(window, 20.4, **WATCHED).state == "not-yet"
    assert window.enough is not None  # The time of the run may end now: the unit was healthy for long enough.
    assert window.enough.reason.startswith("healthy for 8.4s, ready after 2.0s; it was watched for less than its")
    assert judge(window, 20.5, **WATCHED).reason == "healthy for 8.5s, ready after 2.0s"
    assert judge(window, 21.0, invocation_id="b" * 32, **WATCHED).state == "not-yet"
    assert window.enough is None


@pytest.mark.parametrize(
    "facts",
    [{"watchdog_usec": 0}, {"watchdog_usec": USEC_INFINITY}, {"watchdog_usec": 8_000_000, "sub_state": "exited"}],
)
def test_a_unit_without_a_watchdog(facts: dict[str, Any]) -> None:
    window = HealthWindow(10.0, 5.0, 120.0)
    judge(window, 12.0, **facts)
    assert judge(window, 17.0, **facts).reason == "healthy for 5s, ready after 2.0s"


def test_a_watchdog_that_takes_longer_than_the_step() -> None:
    window = HealthWindow(10.0, 5.0, 10.0)
    judge(window, 12.0, **WATCHED)
    found = judge(window, 17.0, **WATCHED)
    assert found.reason == (
        "healthy for 5s, ready after 2.0s; it was watched for less than its WatchdogSec=8s, "
        "so whether it keeps sending keep-alive pings is not proved"
    )


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
    assert "daemon-reload" in describe_notes(changed, HealthState(), 5.0)
    assert describe_notes(report(), HealthState(), 5.0) == ""
