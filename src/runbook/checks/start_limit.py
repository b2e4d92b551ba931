"""How many starts are left of a unit's start limit, as far as that can be determined.

systemd refuses a start after StartLimitBurst= starts within StartLimitIntervalSec=, whatever requested them. It has no
property for its counter, so the starts in the journal are counted again by the same rule (ratelimit_below() in
systemd's src/basic/ratelimit.c): a window opens with a first start and closes when its time is over.

A `reset-failed` of this program is in the journal. One by another program clears the counter and is not; neither is, in
most cases, the loss of the counter when systemd unloads the unit. So there are two counts: all starts in the journal,
and those that certainly count. The latter are the starts since the run's own first start, or those of a row of
automatic restarts, because nothing cleared the counter since; or all, if the unit failed because of its limit.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from runbook.checks.exit_reason import is_start_limit_hit
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.host.queries import Answer, Query, StartEvent, StartEventKind, StartTimesQuery
from runbook.model import frozen
from runbook.spec.state import RunState
from runbook.util.timespan import format_span

_CLEARING = (StartEventKind.CLEARED, StartEventKind.RESET)
STARTS_QUERY_TIMEOUT = 3.0  # seconds for the journal to be read
JITTER = 0.01  # seconds by which the time of a start may differ between the unit's property and the journal


@frozen
class StartBudget:
    """The starts in the window that is open now."""

    unit: Unit
    used: int  # how many starts the journal has
    expires_in: float = 0.0  # seconds until the window closes, if it is full
    certain: int = 0  # how many of the starts certainly count
    by_systemd: int = 0  # how many of the starts are restarts by systemd itself
    reset_at: float = 0.0  # when this program cleared the counter, in seconds since the epoch; 0 if not in this window
    recent: tuple[float, ...] = ()
    """For each start of the last interval, the seconds until it is older than that. The first is the oldest.

    If another program has cleared the counter, which no journal shows, the window opened at a later start than
    counted here, and may hold all of these.
    """

    @property
    def remaining(self) -> int:
        """How many more starts systemd should accept now."""
        return max(0, self.unit.start_limit_burst - self.used)

    @property
    def full_for(self) -> float:
        """Seconds for which the limit may be reached if the window opened later than counted; 0 if it cannot be."""
        spare = len(self.recent) - self.unit.start_limit_burst
        return self.recent[spare] if spare >= 0 else 0.0

    @property
    def limit(self) -> str:
        """The limit in words: "5 in 1min"."""
        return f"{self.unit.start_limit_burst} in {format_span(self.unit.start_limit_interval_usec / 1e6)}"

    def __str__(self) -> str:
        return f"{self.count}, {self.remaining} left before the start limit ({self.limit})"

    @property
    def count(self) -> str:
        """The number of starts in words, and since when: "4 starts counted"."""
        starts = "1 start" if self.used == 1 else f"{self.used} starts"
        at = time.strftime("%H:%M:%S", time.localtime(self.reset_at))
        return f"{starts} since runbook cleared the counter at {at}" if self.reset_at else f"{starts} counted"

    def evidence(self) -> dict[str, Any]:
        """Return the counts, and the limit by systemd's names."""
        return {
            "counted": self.used,
            "sure": self.certain,
            "left": self.remaining,
            "over-in": round(self.expires_in, 3),
            "StartLimitBurst": self.unit.start_limit_burst,
            "StartLimitIntervalUSec": self.unit.start_limit_interval_usec,
        }


def has_start_limit(unit: Unit) -> bool:
    """True if systemd may refuse a start because of a limit."""
    return unit.is_service and unit.start_limit_burst > 0 and unit.start_limit_interval_usec > 0


def is_interval_over(unit: Unit, now: float) -> bool:
    """True if a unit that reached its start limit has been down for longer than the interval: it may be started again.

    `now` is in seconds of CLOCK_MONOTONIC. A start that systemd refuses does not open the window anew.
    """
    since = unit.state_change_monotonic / 1e6
    return bool(since) and now - since > unit.start_limit_interval_usec / 1e6


def query_start_budget(
    view: HostView, unit: Unit, query_id: int, asked: float, run: RunState
) -> Answer[StartBudget] | None:
    """Return the starts in the window; no value if the journal cannot be read, None while the query runs.

    `asked` is when the query was first made, in seconds since the epoch. The journal is read from two windows before
    that: an earlier start cannot be in the current window. It is not read if the unit has been up for longer than a
    window.
    """
    if _is_up_longer(unit, view.clock.monotonic()):
        return Answer(True, "", StartBudget(unit, 0))
    since = asked - 2 * unit.start_limit_interval_usec / 1e6
    kind = StartTimesQuery(unit.name, since, of_user=unit.of_user)
    answer = view.query(Query(kind, query_id, STARTS_QUERY_TIMEOUT))
    if answer is None:
        return None
    if answer.value is None:
        return Answer(False, answer.detail)
    count_start = find_count_start(unit)
    events = [event for event in answer.value if event.at >= count_start]
    # systemd does not log a reset-failed. The run records its own: its entry in the journal may be lost.
    if unit.name in run.cleared:
        events.append(StartEvent(run.cleared[unit.name], StartEventKind.RESET))
    budget = count_starts(unit, sorted(events), view.clock.now(), run.first_starts.get(unit.name), asked)
    return Answer(True, "", budget)


def _is_up_longer(unit: Unit, now: float) -> bool:
    """True if it has been up for longer than the interval, so that no start of it is in the window.

    Starting a unit that is up does nothing, and a restart passes through inactive. The one exception is
    RestartMode=direct, which NRestarts counts.
    """
    up = unit.active_state is ActiveState.ACTIVE and not unit.n_restarts
    return up and now - unit.inactive_exit_monotonic / 1e6 > unit.start_limit_interval_usec / 1e6


def find_count_start(unit: Unit) -> float:
    """Return the moment before which no start counts, in seconds since the epoch; 0 if there is no such moment.

    systemd unloads a unit that is down and that no other unit refers to, and loses the counter. A unit without
    InactiveEnterTimestamp has not gone down since it was loaded, so only its current start counts; if it has no
    InactiveExitTimestamp either, none does. If a unit restarted without passing through inactive (RestartMode=direct),
    the clock may have been set back since that start, so it is no limit.
    """
    if unit.inactive_enter_monotonic or unit.n_restarts:
        return 0.0
    return unit.inactive_exit / 1e6 - JITTER if unit.inactive_exit else math.inf


def count_starts(
    unit: Unit, events: list[StartEvent], now: float, first: float | None, asked: float = math.inf
) -> StartBudget:
    """Return both counts. `first` is when the run first requested a start, `asked` when the journal was queried."""
    # An entry is later than the query: the clock was set back since.
    set_back = any(event.at > asked + JITTER for event in events)
    budget = _count_at_most(unit, events, asked, now) if set_back else count_window(unit, events, now)
    if unit.active_state is ActiveState.FAILED and is_start_limit_hit(unit):
        return replace(budget, certain=budget.used)
    if set_back:
        return budget
    automatic = events[max(0, len(events) - unit.n_restarts) :] if unit.n_restarts else []
    since_own = [] if first is None else [event for event in events if event.at >= first]
    certain = max(count_window(unit, some, now).used for some in (automatic, since_own))
    # A window over fewer events may open at another start, and hold more of them than the open one.
    return replace(budget, certain=min(certain, budget.used))


def _count_at_most(unit: Unit, events: list[StartEvent], asked: float, now: float) -> StartBudget:
    """Count after the clock was set back, so that entries of the journal seem to lie in the future.

    systemd counts by another clock, so which of the starts are within its window is unknown. All are counted, and none
    is certain. The window closes one interval after the query.
    """
    left = asked + unit.start_limit_interval_usec / 1e6 - now
    starts = sum(event.kind not in _CLEARING for event in events)
    return StartBudget(unit, starts, left) if left > 0 else StartBudget(unit, 0)


def count_window(unit: Unit, events: list[StartEvent], now: float) -> StartBudget:
    """Count as systemd does. The events are in order."""
    interval = unit.start_limit_interval_usec / 1e6
    opened, cleared, reset_at = -math.inf, -math.inf, 0.0
    window: list[StartEventKind] = []
    for at, kind in events:
        if kind in _CLEARING:
            # The next start opens a window, however soon it comes (ratelimit_reset()).
            opened, cleared, window = -math.inf, at, []
            reset_at = at if kind is StartEventKind.RESET else 0.0
            continue
        if at > opened + interval:
            reset_at = reset_at if opened == -math.inf else 0.0
            opened, window = at, []
        window.append(kind)
    recent = tuple(event.at + interval - now for event in events if event.at > max(cleared, now - interval))
    if not window or now > opened + interval:
        return StartBudget(unit, 0, recent=recent)
    used, by_systemd = len(window), window.count(StartEventKind.RESTART)
    budget = StartBudget(unit, used, opened + interval - now, recent=recent, by_systemd=by_systemd, reset_at=reset_at)
    # systemd accepts no start beyond the limit: if there are more, it lost its counter, and the window opened later.
    return replace(budget, expires_in=budget.full_for) if used > unit.start_limit_burst else budget
