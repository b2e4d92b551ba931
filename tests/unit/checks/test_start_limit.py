"""Counts starts in the journal as systemd's rate limit does."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runbook.checks.start_limit import count_starts, count_window, find_count_start
from runbook.host.facts import ActiveState
from runbook.host.queries import StartEvent, StartEventKind
from tests.unit.fake_machine import unit


def starts(*moments: float) -> list[StartEvent]:
    return [StartEvent(100.0 + moment, StartEventKind.START) for moment in moments]


@pytest.mark.parametrize(
    ("moments", "now", "used"),
    [
        ([], 0, 0),
        ([0], 1, 1),
        ([0, 10, 20], 30, 3),
        ([0, 10, 20], 60, 3),
        ([0, 10, 20], 61, 0),
        # The window opened with the first and is over at 60: the fourth opens another.
        ([0, 50, 55, 61], 62, 1),
        ([0, 50, 55, 61, 65], 70, 2),
    ],
)
def test_a_window_opens_with_a_start_and_closes_when_its_time_is_over(
    moments: list[float], now: float, used: int
) -> None:
    found = count_window(unit(), starts(*moments), 100.0 + now)
    assert (found.used, found.remaining) == (used, 5 - used)


@pytest.mark.parametrize(("now", "used"), [(111.0, 1), (169.9, 1), (170.1, 0)])
def test_a_cleared_counter_opens_no_window(now: float, used: int) -> None:
    """The window opens with the first start after that: here at 110, for a minute."""
    moments = sorted([*starts(0, 1, 2, 10), StartEvent(105.0, StartEventKind.CLEARED)])
    assert count_window(unit(), moments, now).used == used


def test_a_counter_that_this_program_cleared() -> None:
    moments = sorted([*starts(0, 1, 2, 10), StartEvent(105.0, StartEventKind.RESET)])
    found = count_window(unit(), moments, 111.0)
    assert (found.used, found.reset_at) == (1, 105.0)
    assert str(found).startswith("1 start since runbook cleared the counter at ")
    # A later window has nothing to do with it.
    moments.append(StartEvent(171.0, StartEventKind.RESTART))
    found = count_window(unit(), moments, 172.0)
    assert (found.used, found.by_systemd, found.reset_at) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("moments", "now", "used", "full_for"),
    [
        # A second window has opened; but the counter may have been cleared after the first start.
        ([0, 50, 51, 52, 53, 61], 61, 1, 49.0),
        ([0, 50, 51, 52, 61], 61, 1, 0.0),
        ([0, 1, 2, 3, 4], 62, 0, 0.0),
    ],
)
def test_a_counter_that_another_program_may_have_cleared(
    moments: list[float], now: float, used: int, full_for: float
) -> None:
    found = count_window(unit(), starts(*moments), 100.0 + now)
    assert (found.used, found.full_for) == (used, full_for)


def test_more_starts_than_the_limit_show_that_the_counter_was_lost() -> None:
    """systemd unloaded the unit after the first or the second start. A window that is full opened at the third."""
    found = count_window(unit(), starts(0, 10, 40, 41, 42, 43, 44), 145.0)
    assert (found.used, found.remaining, found.expires_in) == (7, 0, 55.0)


@pytest.mark.parametrize(
    ("facts", "first", "sure"),
    [
        ({}, None, 0),  # Any of them may have been cleared since.
        ({"n_restarts": 3}, None, 3),
        ({}, 103.5, 1),
        ({"active_state": ActiveState.FAILED, "result": "exit-code"}, None, 5),
        ({"active_state": ActiveState.FAILED, "result": "exit-code", "restart": "no"}, None, 0),
    ],
)
def test_what_is_sure_to_count(facts: dict[str, Any], first: float | None, sure: int) -> None:
    found = count_starts(unit(**facts), starts(0, 1, 2, 3, 4), 110.0, first)
    assert (found.used, found.certain) == (5, sure)
    assert found.expires_in == 50.0


@pytest.mark.parametrize(
    ("facts", "since"),
    [
        ({"inactive_exit": 7_000_000}, 0.0),
        ({"inactive_enter_monotonic": 0, "inactive_exit": 7_000_000}, 6.99),
        ({"inactive_enter_monotonic": 0, "inactive_exit": 7_000_000, "n_restarts": 1}, 0.0),
        ({"inactive_enter_monotonic": 0}, math.inf),
    ],
    ids=["it went down before", "its first start", "restarted without going down", "never started"],
)
def test_since_when_systemd_counts_its_starts(facts: dict[str, Any], since: float) -> None:
    assert find_count_start(unit(**facts)) == since


@pytest.mark.parametrize(
    ("facts", "now", "used", "sure"),
    [
        ({"n_restarts": 3}, 65.0, 4, 0),
        ({"active_state": ActiveState.FAILED, "result": "exit-code"}, 65.0, 4, 4),
        ({}, 123.0, 0, 0),  # Its window has closed since the query.
    ],
)
def test_a_clock_that_was_set_back(facts: dict[str, Any], now: float, used: int, sure: int) -> None:
    """By their times, three starts are an hour from the fourth. By systemd's clock they are not."""
    moments = sorted(
        [*starts(3600, 3601, 3602), StartEvent(162.0, StartEventKind.START), StartEvent(170.0, StartEventKind.CLEARED)]
    )
    found = count_starts(unit(**facts), moments, 100.0 + now, None, asked=162.5)
    assert (found.used, found.certain) == (used, sure)
