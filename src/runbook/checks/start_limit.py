"""What is left of a unit's start limit, as far as that can be known.

systemd refuses a start when StartLimitBurst= starts have begun within StartLimitIntervalSec=, whoever asked for them;
and it shows nobody its counter. So it is counted again, from the starts that its manager wrote into the journal: by
the same rule (ratelimit_below() in systemd's src/basic/ratelimit.c), a window that opens with a first start and is
closed when its time is over. What somebody else cleared by `reset-failed` is not to be seen there, and only sometimes
what systemd forgot when it unloaded the unit. So there are two counts: all that is in the journal; and what is sure,
because the run's own first start, or a row of automatic restarts, came after whatever was cleared, or because the unit
is down for its limit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from runbook.checks.exit_reason import is_start_limit_hit
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.host.queries import Query, StartTimesQuery
from runbook.spec.state import RunState
from runbook.util.timespan import format_span

STARTS_QUERY_TIMEOUT = 3.0
"""Seconds for the journal to be read."""

JITTER = 0.01
"""Seconds between a unit's own time of a start and the journal's."""


@dataclass(frozen=True)
class StartBudget:
    """How many starts were counted in the window that is open, how many of them are sure to count, and in how many
    seconds the window is over."""

    unit: Unit
    used: int
    expires_in: float = 0.0
    certain: int = 0

    @property
    def remaining(self) -> int:
        """How many more starts systemd should grant now."""
        return max(0, self.unit.start_limit_burst - self.used)

    @property
    def limit(self) -> str:
        """The limit in words: "5 in 1min"."""
        return f"{self.unit.start_limit_burst} in {format_span(self.unit.start_limit_interval_usec / 1e6)}"

    def __str__(self) -> str:
        starts = "1 start" if self.used == 1 else f"{self.used} starts"
        return f"{starts} counted, {self.remaining} left before the start limit ({self.limit})"

    def evidence(self) -> dict[str, Any]:
        """Give the count, and the limit in systemd's names."""
        return {
            "counted": self.used,
            "sure": self.certain,
            "left": self.remaining,
            "over-in": round(self.expires_in, 3),
            "StartLimitBurst": self.unit.start_limit_burst,
            "StartLimitIntervalUSec": self.unit.start_limit_interval_usec,
        }


def has_start_limit(unit: Unit) -> bool:
    """Whether a start of it may be refused for its limit."""
    return unit.is_service and unit.start_limit_burst > 0 and unit.start_limit_interval_usec > 0


def query_start_budget(
    view: HostView, unit: Unit, number: int, asked: float, run: RunState
) -> tuple[bool, StartBudget | None]:
    """Ask what is left: tell whether the answer is there, and give it; None where it cannot be known.

    `number` is that of the question, `asked` when it was first asked, in seconds since the epoch. The journal is read
    from two windows before that: what happened before the last but one has no part in this one. It need not be read
    where the unit has been up for longer than a window.
    """
    if _is_up_longer(unit, view.clock.monotonic()):
        return True, StartBudget(unit, 0)
    since = asked - 2 * unit.start_limit_interval_usec / 1e6
    answer = view.query(Query(StartTimesQuery(unit.name, since, unit.of_user), number, STARTS_QUERY_TIMEOUT))
    if answer is None:
        return False, None
    if not answer.ok:
        return True, None
    known = find_count_start(unit)
    moments = [(float(at), str(what)) for at, what in json.loads(answer.output or "[]") if at >= known]
    if unit.name in run.cleared:
        moments.append((run.cleared[unit.name], "cleared"))
    return True, count_starts(unit, sorted(moments), view.clock.now(), run.first_starts.get(unit.name), asked)


def _is_up_longer(unit: Unit, now: float) -> bool:
    """Whether it has been up for longer than the interval, so that no start of it is in the window.

    A start of what is up does nothing, and a restart comes by way of inactive. The one way around that is
    RestartMode=direct, which NRestarts counts.
    """
    up = unit.active_state is ActiveState.ACTIVE and not unit.n_restarts
    return up and now - unit.inactive_exit_monotonic / 1e6 > unit.start_limit_interval_usec / 1e6


def find_count_start(unit: Unit) -> float:
    """Give a moment before which no start counts, in seconds since the epoch; 0 where there is no such moment.

    systemd unloads a unit that is down and that no other one names, and the counter goes with it. One that it has not
    seen go down was loaded since the last time that it did: what it has not seen start has no start at all. One that
    was restarted by itself, without a way through inactive (RestartMode=direct), may have had its clock set back since.
    """
    if unit.inactive_enter_monotonic or unit.n_restarts:
        return 0.0
    return unit.inactive_exit / 1e6 - JITTER if unit.inactive_exit else math.inf


def count_starts(
    unit: Unit, moments: list[tuple[float, str]], now: float, first: float | None, asked: float = math.inf
) -> StartBudget:
    """Make both counts; `first` is when the run itself first asked for a start, `asked` when the journal was asked."""
    set_back = any(at > asked + JITTER for at, _ in moments)
    all_of_it = _count_at_most(unit, moments, asked, now) if set_back else count_window(unit, moments, now)
    if unit.active_state is ActiveState.FAILED and is_start_limit_hit(unit):
        return replace(all_of_it, certain=all_of_it.used)
    if set_back:
        return all_of_it
    by_itself = moments[max(0, len(moments) - unit.n_restarts) :] if unit.n_restarts else []
    own = [] if first is None else [moment for moment in moments if moment[0] >= first]
    sure = max(count_window(unit, some, now).used for some in (by_itself, own))
    return replace(all_of_it, certain=min(sure, all_of_it.used))


def _count_at_most(unit: Unit, moments: list[tuple[float, str]], asked: float, now: float) -> StartBudget:
    """Count where the clock was set back, so that what stands in the journal seems to be yet to come.

    systemd counts by another clock. Which of these starts are within its window cannot be told: so all are, and none is
    sure to be; the window is over when its time has gone by since they were looked for.
    """
    left = asked + unit.start_limit_interval_usec / 1e6 - now
    return StartBudget(unit, sum(what == "start" for _, what in moments), left) if left > 0 else StartBudget(unit, 0)


def count_window(unit: Unit, moments: list[tuple[float, str]], now: float) -> StartBudget:
    """Count as systemd does; moments are in seconds since the epoch, in order."""
    interval = unit.start_limit_interval_usec / 1e6
    opened, used = 0.0, 0
    for at, what in moments:
        if what != "start" or at > opened + interval:
            opened, used = at, 0
        used += what == "start"
    if used == 0 or now > opened + interval:
        return StartBudget(unit, 0)
    return StartBudget(unit, used, opened + interval - now)
