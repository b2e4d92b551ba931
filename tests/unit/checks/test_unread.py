"""For how long what could not be read is read again."""

from __future__ import annotations

from runbook.checks.unread import UNREAD_WAIT, UnreadSeries


def test_what_was_missed_is_read_again_for_a_while() -> None:
    series = UnreadSeries()
    assert [series.update(["a"], 10.0), series.update(["b", "a"], 9.9 + UNREAD_WAIT)] == ["a", "b"]
    assert not series.is_over(9.9 + UNREAD_WAIT)
    assert series.update(["a"], 10.0 + UNREAD_WAIT) == ""
    assert series.is_over(10.0 + UNREAD_WAIT)


def test_a_reading_of_all_begins_the_series_anew() -> None:
    series = UnreadSeries()
    series.update(["a"], 10.0)
    assert series.update([], 100.0) == ""
    assert series.update(["a"], 101.0) == "a"
    assert not series.is_over(101.0)
