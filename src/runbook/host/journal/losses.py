"""What keeps entries of a unit out of the journal: journald's rate limit, a setting of the unit, or their removal.

journald counts the messages of each unit in windows, and within a window by groups of priorities. When a group is full,
it drops the rest, and writes "Suppressed N messages from …" only with the next message that comes after the window. A
service that is silent from then on leaves no trace of what was dropped. So the windows are counted here as well, as in
systemd's src/journal/journald-rate-limit.c.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runbook.host.journal.reader import INVOCATION, Journalctl, describe_unreadable
from runbook.host.queries import JournalProbe, LogSettings
from runbook.model import frozen
from runbook.util.timespan import format_span, parse_span

DROPPED = "a596d6fe7bfa4994828e72309e95d61e"
"""MESSAGE_ID= of "Suppressed N messages from …" (systemd, src/systemd/sd-messages.h)."""

CONFIG_FOLDERS = tuple(Path(f"{folder}/systemd") for folder in ("/usr/lib", "/usr/local/lib", "/run", "/etc"))
"""Where journald.conf and its drop-in files are, from the least to the most important (journald.conf(5))."""

PRIORITY_GROUPS = (0, 0, 0, 1, 2, 3, 3, 4)  # by priority: the group in which journald counts a message
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")  # the values of LogLevelMax=
LEAST, INFO = LEVELS.index("debug"), LEVELS.index("info")  # INFO is the level of a line of stdout
EARLY_UNIT = 2.0  # seconds after the start of a unit in which a journal begins that lacks none of its entries


@frozen
class RateLimit:
    """How many messages of one unit journald stores in a window, at least: with free space on disk, it stores more."""

    seconds: float = 30.0
    burst: int = 10_000
    setting: str = "RateLimitBurst= in journald.conf"

    def __str__(self) -> str:
        return f"{self.setting}, {self.burst} in {format_span(self.seconds)}"


@frozen
class Window:
    """The messages of one group of priorities that are in the journal, since its current window began."""

    began: float = 0.0  # seconds since the epoch
    count: int = 0


@frozen
class LoggedRate:
    """How fast a unit has logged."""

    windows: tuple[Window, ...] = (Window(),) * (PRIORITY_GROUPS[-1] + 1)  # one for each group
    first_at: float = 0.0  # when the first entry of the invocation came, in seconds since the epoch; 0 if none came
    began_full: bool = False  # True if earlier invocations may have used up the limit when this one began

    def add(self, entries: Iterable[tuple[float, int]], limit: RateLimit) -> LoggedRate:
        """Add entries of the invocation, each as its time and its priority, as journald counts them."""
        windows, first_at = list(self.windows), self.first_at
        for at, priority in entries:
            first_at = first_at or at
            group = PRIORITY_GROUPS[min(max(priority, 0), LEAST)]
            known = windows[group]
            in_window = known.count and at <= known.began + limit.seconds
            windows[group] = Window(known.began, known.count + 1) if in_window else Window(at, 1)
        return LoggedRate(tuple(windows), first_at, self.began_full)

    @property
    def most(self) -> int:
        """The number of messages in the fullest window."""
        return max(window.count for window in self.windows)


def parse_rated_entry(entry: Mapping[str, Any]) -> tuple[float, int]:
    """Return when journald received an entry, in seconds since the epoch, and its priority."""
    priority = entry.get("PRIORITY")  # Any process may set it.
    known = isinstance(priority, str) and priority in tuple("01234567")
    return int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6, int(priority) if known and priority else INFO


def read_earlier_rate(reader: Journalctl, probe: JournalProbe, settings: LogSettings, limit: RateLimit) -> LoggedRate:
    """Return how fast earlier invocations logged right before this one, in the same windows. Raises HostError.

    systemd notes the begin of an invocation after it has forked the first process, whose first entries may be older.
    """
    span = (f"--since=@{settings.since - limit.seconds:.6f}", f"--until=@{settings.since:.6f}")
    arguments = (*span, *reader.unit_matches(probe.unit))
    with contextlib.closing(reader.entries(*arguments, fields=("PRIORITY", INVOCATION))) as entries:
        earlier = (entry for entry in entries if entry.get(INVOCATION) != probe.invocation)
        rate = LoggedRate().add(map(parse_rated_entry, earlier), limit)
    return replace(rate, first_at=0.0, began_full=rate.most >= limit.burst)


def find_rate_limit(settings: LogSettings, *, of_user: bool) -> RateLimit | None:
    """Return the rate limit for a unit; None if journald has none. journald does not read that of a user's unit."""
    default = _read_config()
    if of_user or not (settings.rate_seconds and settings.rate_burst):
        return default if default.seconds and default.burst else None
    return RateLimit(settings.rate_seconds, settings.rate_burst, "LogRateLimitBurst=")


def describe_losses(
    reader: Journalctl, unit: str, settings: LogSettings, rate: LoggedRate, limit: RateLimit | None, *, own: bool
) -> str:
    """Return what may have kept an entry out of the journal, as the end of a sentence; empty if nothing is known.

    Raises HostError. `own`: the unit belongs to the caller's own manager.
    """
    found = [
        _describe_dropped(reader, unit, settings, rate, own=own) or _describe_full_window(unit, rate, limit),
        _describe_settings(unit, settings),
        _describe_removed(reader, settings),
    ]
    return "".join(f"; {text}" for text in found if text)


def _describe_dropped(reader: Journalctl, unit: str, settings: LogSettings, rate: LoggedRate, *, own: bool) -> str:
    """Return how many messages journald reports as dropped. Only journald itself has the transport `driver`.

    A report comes before the first message that is stored again. If that is the first one of this invocation, what was
    dropped was of earlier ones, unless they had used up the limit.
    """
    # journald attributes what a user's units write to their manager, which is a unit of the system.
    counted = f"user@{os.getuid()}.service" if own else unit
    matches = (f"--since=@{settings.since:.6f}", f"MESSAGE_ID={DROPPED}", "_TRANSPORT=driver")
    dropped = 0
    with contextlib.closing(reader.entries(*matches, fields=("MESSAGE", "N_DROPPED"))) as entries:
        for entry in entries:
            is_own = parse_rated_entry(entry)[0] > rate.first_at > 0 or rate.began_full
            if is_own and str(entry.get("MESSAGE", "")).endswith(f" from {counted}"):
                dropped += int(entry.get("N_DROPPED") or 0)
    if not dropped:
        return ""
    messages = "1 message" if dropped == 1 else f"{dropped} messages"
    why = "its rate limit (RateLimitBurst= in journald.conf)" if own else "its rate limit (LogRateLimitBurst=)"
    return f"journald reports {messages} of {counted} that it dropped because of {why}, and this may be one of them"


def _describe_full_window(unit: str, rate: LoggedRate, limit: RateLimit | None) -> str:
    if limit is None or rate.most < limit.burst:
        return ""
    many = f"{rate.most} entries of {unit} came within {format_span(limit.seconds)}"
    return f"{many}, so journald may have dropped more because of its rate limit ({limit})"


def _describe_settings(unit: str, settings: LogSettings) -> str:
    if 0 <= settings.max_level < LEAST:
        lower = "and a line of stdout counts as info" if settings.max_level < INFO else ""
        return (
            f"LogLevelMax={LEVELS[settings.max_level]} of {unit} keeps out less important ones{lower and ', ' + lower}"
        )
    return f"LogFilterPatterns= of {unit} keeps some out" if settings.has_patterns else ""


def _describe_removed(reader: Journalctl, settings: LogSettings) -> str:
    """Return that the journal of this boot does not reach back to the start of the invocation."""
    if describe_unreadable(own=False):
        return ""  # Of what other users may read, the first entry shows nothing.
    with contextlib.closing(reader.entries("--boot", fields=("MESSAGE",))) as entries:
        first = next(iter(entries), {})
    late = int(first.get("__MONOTONIC_TIMESTAMP", 0)) / 1e6 - settings.since_monotonic
    if not settings.since_monotonic or late <= EARLY_UNIT:
        return ""
    return f"the journal begins {format_span(round(late))} after the start of this invocation, so earlier ones are gone"


def _read_config() -> RateLimit:
    """Return the rate limit of journald.conf and of its drop-in files; its defaults as far as they set nothing."""
    main = [folder / "journald.conf" for folder in CONFIG_FOLDERS]
    drop_ins = {file.name: file for folder in CONFIG_FOLDERS for file in folder.glob("journald.conf.d/*.conf")}
    files = [file for file in main if file.is_file()][-1:] + [drop_ins[name] for name in sorted(drop_ins)]
    limit = RateLimit()
    for file in files:
        with contextlib.suppress(OSError):
            limit = _parse_config(file.read_text(errors="replace"), limit)
    return limit


def _parse_config(text: str, limit: RateLimit) -> RateLimit:
    """Return a limit with what a file sets. A value that journald would not accept is skipped."""
    default = RateLimit()
    for name, value in re.findall(r"^\s*(RateLimit\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.M):
        with contextlib.suppress(ValueError):
            if name in ("RateLimitIntervalSec", "RateLimitInterval"):
                limit = replace(limit, seconds=parse_span(value) if value else default.seconds)
            elif name == "RateLimitBurst":
                limit = replace(limit, burst=int(value) if value else default.burst)
    return limit
