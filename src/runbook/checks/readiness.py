"""The window of `wait-ready`: for how long a unit has been healthy without interruption, and what a time-out means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runbook.checks.exit_reason import describe_exit, describe_unit_file
from runbook.checks.health import HealthReport, HealthState
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.model import Finding, FindingState, Port, Verdict, fails

MAX_OTHER_STARTS = 2  # so many starts by another requester in one wait are the reason why the unit is not ready


@dataclass
class HealthWindow:
    """The time for which one invocation has been healthy. Times are seconds of the monotonic clock."""

    started_at: float | None = None  # when the wait began
    invocation: str = ""  # the invocation that has been healthy since `healthy_since`
    healthy_since: float | None = None

    def is_edge(self, report: HealthReport, now: float, healthy_for: float) -> bool:
        """True if the window begins or ends with this check."""
        begun = self.healthy_since is not None and self.invocation == report.unit.invocation_id
        return not begun or now - (self.healthy_since or now) >= healthy_for

    def extend(self, report: HealthReport, now: float) -> float:
        """Return for how long the invocation has been healthy; another invocation begins a new window."""
        if self.healthy_since is None or self.invocation != report.unit.invocation_id:
            self.healthy_since, self.invocation = now, report.unit.invocation_id
        return now - self.healthy_since

    def ready_after(self, now: float) -> float:
        """Return the seconds from the begin of the wait to that of the window."""
        return (now if self.healthy_since is None else self.healthy_since) - (self.started_at or now)


def describe_notes(report: HealthReport, state: HealthState) -> str:
    """Return what an operator must know of a unit although it is ready."""
    started = state.describe_other_starts(report.unit)
    return "".join(f"; {text}" for text in (started, describe_unit_file(report.unit)) if text)


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
    """Return what it means that a unit is not ready in time. With `fail`, a unit that is still starting fails too."""
    unused = (port for port in ports if view.judge_port(unit, port).verdict is Verdict.NOT_LISTENING)
    uses = "".join(view.describe_port_uses(unit, port) for port in unused)
    waited = f"not ready within {timeout:g}s: {last.reason}"
    if last.verdict is Verdict.NOT_LISTENING and (elsewhere := view.list_unit_listeners(unit)):
        waited += f" (it listens on {', '.join(elsewhere)}: is `port` right?)"
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
    if fail:
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
