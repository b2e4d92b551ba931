"""Time spans: read with systemd's syntax, and written."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.util.timespan import format_span, parse_past, parse_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("0", 0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("1.5h", 5400),
        ("90s", 90),
        ("2min 30s", 150),
        ("2min30s", 150),
        ("1h 30", 3630),
        (" 1 h  30 min ", 5400),
        ("1 day", 86400),
        ("2weeks", 1209600),
        ("1M", 2629800),
        ("1m", 60),
        ("1y", 31557600),
        ("30seconds 1minute 1hour", 3690),
        (".5s", 0.5),
    ],
)
def test_it_reads_what_systemd_reads(text: str, seconds: float) -> None:
    assert parse_span(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5 parsecs",
        "s",
        "min 5",
        "5s,",
        "1e3",
        "0x10",
        "5 s s",
        "infinity",
        "1_000",
        "5S",
        "1..5s",
        "1.5.5",
        "5.",
        "\u0665s",
    ],
)
def test_an_unreadable_value_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read time span `.*`; write one such as 5s, 2min or 1h 30min"):
        parse_span(text)


@pytest.mark.parametrize("text", ["-5s", "-1", "- 3min", "-.5"])
def test_a_negative_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is negative; write one"):
        parse_span(text)


@pytest.mark.parametrize("text", ["101y", "9" * 400, "99999999999999 days"])
def test_a_span_of_more_than_100_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is longer than 100 years"):
        parse_span(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.0004, "1ms"),
        (0.04, "40ms"),
        (0.4, "0.4s"),
        (5, "5s"),
        (22.44, "22.4s"),
        (59.94, "59.9s"),
        (59.96, "1min"),
        (90, "1min 30s"),
        (120, "2min"),
        (3600, "1h"),
        (3605, "1h"),
        (7860, "2h 11min"),
        (90000, "1d 1h"),
        (86400 * 3 + 59, "3d"),
    ],
)
def test_it_writes_two_units_at_most(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@given(st.integers(0, 10**9))
def test_a_written_span_is_read_back_to_the_unit_shown(seconds: int) -> None:
    text = format_span(seconds)
    smallest = {"s": 1, "n": 60, "h": 3600, "d": 86400}[text[-1]]
    assert 0 <= seconds - parse_span(text) < max(smallest * 60, 86400 if "d" in text else 0)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert parse_span(text) >= 0


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", "2026-11-30 10:30"),
        ("2h ago", "2026-11-30 10:30"),
        ("-90min", "2026-11-30 11:00"),
        ("today", "2026-11-30 00:00"),
        ("Yesterday", "2026-11-29 00:00"),
        ("2026-11-01", "2026-11-01 00:00"),
        ("2026-11-01 07:05:03", "2026-11-01 07:05:03"),
    ],
)
def test_a_time_in_the_past(text: str, time: str) -> None:
    now = datetime.fromisoformat("2026-11-30 12:30").timestamp()
    assert datetime.fromtimestamp(parse_past(text, now)) == datetime.fromisoformat(time)


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "ago", "1 fortnight", "9999999999999y", "--5s"])
def test_a_time_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read time .*; write 2h, 3d, today"):
        parse_past(text, 0.0)
