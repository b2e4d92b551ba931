"""Time spans in systemd's syntax: "2min 30s", "500ms", "1.5h"; a bare number means seconds."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from runbook.util.wording import shorten

_UNITS = {
    1e-6: ("us", "usec", "µs", "μs"),
    1e-3: ("ms", "msec"),
    1.0: ("", "s", "sec", "second", "seconds"),
    60.0: ("m", "min", "minute", "minutes"),
    3600.0: ("h", "hr", "hour", "hours"),
    86400.0: ("d", "day", "days"),
    604800.0: ("w", "week", "weeks"),
    2629800.0: ("M", "month", "months"),
    31557600.0: ("y", "year", "years"),
}
"""The words of systemd.time(7), by their length in seconds: a month is 30.44 days, a year 365.25."""

_SECONDS = {word: seconds for seconds, words in _UNITS.items() for word in words}
_PIECE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-zµμ]*)\s*", re.ASCII)

MAX_SPAN = 100 * 31557600.0  # A hundred years, in seconds. A longer span is a mistake
MAX_SPAN_TEXT = 40  # characters of a wrong span in a message

_TENTH = 0.1
_MINUTE = 60.0
_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def parse_span(text: str) -> float:
    """Return a time span in seconds.

    Raises ValueError with a sentence for the operator, also for a negative span and for `infinity`: every wait of a
    runbook has an end. The grammar is that of systemd.time(7), PARSING TIME SPANS.
    """
    total, at, bare = 0.0, 0, text.strip()
    shown, how = f"time span `{shorten(text, MAX_SPAN_TEXT)}`", "write one such as 5s, 2min or 1h 30min"
    if re.match(r"-\s*[\d.]", bare):
        raise ValueError(f"{shown} is negative; {how}")
    while at < len(bare):
        piece = _PIECE.match(bare, at)
        # "1.5.5" is not 1.5 and .5: only a unit or a space ends a number.
        runs_on = piece and not piece[2] and piece.end() < len(bare) and not piece[0][-1].isspace()
        if piece is None or runs_on or piece[2] not in _SECONDS:
            break
        total += float(piece[1]) * _SECONDS[piece[2]]
        at = piece.end()
    if not bare or at < len(bare):
        raise ValueError(f"cannot read {shown}; {how}")
    if total > MAX_SPAN:
        raise ValueError(f"{shown} is longer than 100 years; {how}")
    return total


def parse_past(text: str, now: float) -> float:
    """Return a time in the past, in seconds since the epoch: "2h" or "2h ago", "today", "2026-11-30 12:00", local time.

    Raises ValueError with a sentence for the operator.
    """
    words = text.strip().lower()
    midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": 0, "yesterday": 1}
    if words in days:
        return (midnight - timedelta(days=days[words])).timestamp()
    try:
        if re.match(r"\d{4}-", words):
            return datetime.fromisoformat(text.strip()).timestamp()
        return now - parse_span(text.strip().removeprefix("-").removesuffix("ago"))
    except (ValueError, OverflowError, OSError) as error:
        how = "write 2h, 3d, today, yesterday, 2026-11-30 or 2026-11-30 12:00"
        raise ValueError(f"cannot read time `{shorten(text, MAX_SPAN_TEXT)}`; {how}") from error


def format_span(seconds: float) -> str:
    """Return a span in text: "40ms", "0.4s", "41s", "1min 30s", "2h 11min".

    Below a minute it is exact to a tenth of a second; above, to the smaller of the two units that it shows.
    """
    if 0 < seconds < _TENTH:
        return f"{max(1, round(seconds * 1000))}ms"
    tenths = round(max(0.0, seconds), 1)
    if tenths < _MINUTE:
        return f"{tenths:.1f}".removesuffix(".0") + "s"
    left, pieces = round(seconds), list[str]()
    for size, unit in _STEPS:
        count, left = divmod(left, size)
        if count or pieces:
            pieces.append(f"{count}{unit}" if count else "")
    return " ".join(pieces[:2]).strip()
