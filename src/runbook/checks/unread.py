"""Read again what could not be read in time: it is no ground for a verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

UNREAD_WAIT = 5.0  # seconds in which each reading must miss something until it counts as unreadable
REREAD_INTERVAL = 0.1  # seconds between two readings


@dataclass
class UnreadSeries:
    """The readings so far that missed something, without one in between that missed nothing."""

    since: float | None = None  # when it began, in seconds of the monotonic clock

    def update(self, unread: Iterable[str], now: float) -> str:
        """Add a reading; return what to read again, empty if all was read or something is unreadable."""
        first = next(iter(unread), "")
        self.since = None if not first else now if self.since is None else self.since
        return "" if self.is_over(now) else first

    def is_over(self, now: float) -> bool:
        """True if something counts as unreadable."""
        return self.since is not None and now - self.since >= UNREAD_WAIT
