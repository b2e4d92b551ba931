"""The window of `wait-ready`: for how long a unit has been healthy without interruption, and what a time-out means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runbook.checks.exit_reason import USEC_INFINITY, describe_exit, describe_unit_file
from runbook.checks.health import HealthReport, HealthState
from runbook.checks.previous_exit import PreviousExitLookup
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.model import Finding, FindingState, Port, Verdict, Wake, fails, frozen, holds, not_yet
from runbook.spec.state import RunState
from runbook.util.timespan import format_span

WATCHDOG_SLACK = 0.5  # seconds; systemd's timers are up to 0.25 s late

MAX_OTHER_STARTS = 2  # so many starts by another requester in one wait are the reason why the unit is not ready


@dataclass
class HealthWindow:
    """The time for which one invocation has been healthy. Times are seconds of the monotonic clock."""

    started_at: float | None = None  # when the wait began
    healthy_for: float = 0.0  # how long the window must be at least, in seconds
    limit: float = 0.0  # how long the whole wait may take, in seconds
    invocation: str = ""  # the invocation that has been healthy since `healthy_since`
    healthy_since: float | None = None
    enough: Finding | None = None  # the result if the time ends while only the watchdog makes the window longer

    def is_edge(self, report: HealthReport, now: float) -> bool:
        """True if the window begins or ends with this check."""
        begun = self.healthy_since is not None and self.invocation == report.unit.invocation_id
        return not begun or now - (self.healthy_since or now) >= self.find_length(report.unit)

    def judge(self, report: HealthReport, finding: Finding, state: HealthState, now: float, recheck: float) -> Finding:
        """Return that the unit is ready, or that the window is not over yet: then check again within `recheck`.

        Another invocation begins a new window.
        """
        if self.healthy_since is None or self.invocation != report.unit.invocation_id:
            self.healthy_since, self.invocation, self.enough = now, report.unit.invocation_id, None
        healthy, length = now - self.healthy_since, self.find_length(report.unit)
        if healthy >= self.healthy_for:
            took, window = self.healthy_since - (self.started_at or now), min(healthy, length)
            times = {"ready-after": round(took, 3), "healthy-for": round(window, 3)}
            stayed = f"healthy for {round(window, 1):g}s, " if window else ""
            reason = f"{stayed}ready after {took:.1f}s{describe_notes(report, state, window)}"
            self.enough = holds(Verdict.READY, reason, **finding.evidence, **times)
            if healthy >= length:
                return self.enough
        wake = report.wake(min(length - healthy, recheck))
        return not_yet(Verdict.STILL_STARTING, self.describe(report, now), wake, **finding.evidence)

    def describe(self, report: HealthReport, now: float) -> str:
        """Return for how long the unit has been healthy; empty if no window of this invocation has begun."""
        if self.healthy_since is None or self.invocation != report.unit.invocation_id:
            return ""
        length = self.find_length(report.unit)
        why = " (WatchdogSec=)" if length > self.healthy_for else ""
        return f"healthy for {now - self.healthy_since:.1f}s of {length:g}s{why}"

    def find_length(self, unit: Unit) -> float:
        """Return how long the window must be, in seconds.

        A unit that sends no keep-alive pings is healthy for as long as its watchdog waits, and is then killed. So the
        window covers the time of the watchdog, if it can end before the time limit.
        """
        needed = watchdog_window(unit)
        begun = (self.healthy_since or 0.0) - (self.started_at or 0.0)
        return max(self.healthy_for, needed) if begun + needed < self.limit else self.healthy_for


def watchdog_window(unit: Unit) -> float:
    """Return the seconds after which systemd has certainly killed a unit that sends no pings; 0 without a watchdog."""
    watched = unit.is_service and unit.sub_state != "exited" and unit.watchdog_usec not in (0, USEC_INFINITY)
    return unit.watchdog_usec / 1e6 + WATCHDOG_SLACK if watched else 0.0


def describe_notes(report: HealthReport, state: HealthState, window: float) -> str:
    """Return what an operator must know of a unit although it is ready; `window` is how long it was healthy."""
    started = state.describe_other_starts(report.unit)
    notes = (started, _describe_unwatched(report.unit, window), describe_unit_file(report.unit))
    return "".join(f"; {text}" for text in notes if text)


def _describe_unwatched(unit: Unit, window: float) -> str:
    if window >= watchdog_window(unit):
        return ""
    span = format_span(unit.watchdog_usec / 1e6)
    short = f"it was watched for less than its WatchdogSec={span}"
    return f"{short}, so whether it keeps sending keep-alive pings is not proved"


@frozen
class RecentRestarts:
    """The restarts of a unit by systemd, for a single check: it waits for no window, and the unit may be in a loop."""

    count: int
    seconds: float  # since the unit became active
    are_too_recent: bool  # True if the unit has not been active for as long as its window would be

    @classmethod
    def find(cls, unit: Unit, before: int, healthy_for: float, now: float) -> RecentRestarts:
        """Return the restarts since NRestarts was `before`; `now` is seconds of the monotonic clock."""
        seconds = max(0.0, now - unit.active_enter_monotonic / 1e6)
        return cls(max(0, unit.n_restarts - before), seconds, seconds < max(healthy_for, watchdog_window(unit)))

    def __str__(self) -> str:
        if not self.count:
            return ""
        often = "once" if self.count == 1 else f"{self.count} times, the last time"
        return f"; systemd restarted it {often} {format_span(max(1, round(self.seconds)))} ago"

    def judge(self, view: HostView, report: HealthReport, lookup: PreviousExitLookup, run: RunState) -> Finding:
        """Return that the unit may be healthy only until its next crash, and the last exit from the journal."""
        facts, end = report.evidence(), lookup.poll(view, report.unit, run)
        if end is None:
            return not_yet(Verdict.CRASH_LOOP, f"reading how {report.unit.name} exited", Wake(pending=True), **facts)
        verdict = Verdict.NOT_NOTIFYING if end.not_notified else Verdict.CRASH_LOOP
        return fails(verdict, f"{report.unit.name} is {report.unit.describe()}{self}: {end.text}", **facts)


def judge_late(
    view: HostView,
    unit: Unit,
    state: HealthState,
    last: Finding,
    timeout: float,
    *,
    fail: bool,
    ports: Iterable[Port] = (),
) -> Finding:
    """Return what it means that a unit is not ready in time.

    With `fail`, a unit that is still starting fails too: because the runbook wants that, or because a probe got a wrong
    answer from it.
    """
    unused = (port for port in ports if view.judge_port(unit, port).verdict is Verdict.NOT_LISTENING)
    uses = "".join(view.describe_port_uses(unit, port) for port in unused)
    waited = f"not ready within {timeout:g}s: {last.reason}"
    if last.verdict is Verdict.NOT_LISTENING and (elsewhere := view.list_unit_listeners(unit)):
        waited += f" (it listens on {', '.join(map(str, elsewhere))}: is `port` right?)"
    waited += uses
    if not unit.is_running:
        # Between two restarts it reads activating; but no process of it runs.
        down = Verdict.UNIT_FAILED if last.verdict is Verdict.STILL_STARTING else last.verdict
        return fails(down, f"{waited}; {unit.name} is {unit.describe()}: {describe_exit(unit)}", **last.evidence)
    if state.other_starts >= MAX_OTHER_STARTS:
        why = state.describe_other_starts(unit)
        return fails(Verdict.UNIT_CHANGED, f"{waited}; {why}", **last.evidence)
    if unit.active_state is ActiveState.DEACTIVATING and unit.job_type not in ("start", "restart"):
        why = f"{unit.name} is {unit.describe()}: it is being stopped, and no start is to follow"
        return fails(Verdict.UNIT_CHANGED, f"{waited}; {why}", **last.evidence)
    if fail or last.verdict in (Verdict.UNIT_FROZEN, Verdict.UNIT_EXITED):
        return fails(last.verdict, waited, **last.evidence)
    subject = "it" if unit.describe() in last.reason else f"{unit.name} is {unit.describe()} and"
    reason = f"{waited}; {subject} was left alone{_describe_leftovers(view, unit)}"
    return Finding(FindingState.STILL_STARTING, Verdict.STILL_STARTING, reason, last.evidence)


def _describe_leftovers(view: HostView, unit: Unit) -> str:
    """Return the leftovers in a unit without a main process: it may be waiting for their exit."""
    found = () if unit.main_pid else view.find_leftovers(unit)
    if not found:
        return ""
    named = ", ".join(str(holder.process) for holder in found[:3])
    return f"; in it {'is' if len(found) == 1 else 'are'} {named}, left over from an earlier invocation"
