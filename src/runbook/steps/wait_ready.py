"""`wait-ready`: the unit is healthy, and stays so for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from runbook.checks import previous_exit
from runbook.checks.exit_reason import describe_exit, describe_unit_file
from runbook.checks.health import HealthChecker, HealthReport, HealthState
from runbook.checks.prober import PROBE_INTERVAL, Prober, ProbeRoundState
from runbook.checks.probes import Probe
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.model import Finding, FindingState, Verdict, fails, holds, not_yet
from runbook.spec.fields import Integer, PortList, PositiveSpan, TimeSpan, UnitName
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Runbook, Step
from runbook.util.timespan import format_span

OWNERSHIP_MAX_AGE = 2.0
"""Seconds for which it need not be found anew that the unit owns its ports, between two rounds of probes.

A look at all processes for each would keep a machine of some thousand busy. A window begins and ends with one.
"""

NO_CRASH_LOOP = (Verdict.READY, Verdict.STILL_STARTING, Verdict.NOT_LISTENING)
"""What a unit that was restarted more often than allowed is not, until somebody else starts it anew."""

MAX_FOREIGN_STARTS = 2
"""Starts by somebody else in one wait from which on it is they that keep the unit from being ready."""


@dataclass
class WaitReadyState(StepState):
    """The clocks of one wait, in seconds of the monotonic clock, and what is asked of the probes.

    `invocation` is what has been healthy since `healthy_since`. `only_words`: it has failed, and is to be told how.
    """

    health: HealthState = field(default_factory=HealthState)
    started_at: float | None = None
    invocation: str = ""
    healthy_since: float | None = None
    probe_round: ProbeRoundState = field(default_factory=ProbeRoundState)
    previous_exit: previous_exit.PreviousExitLookup = field(default_factory=previous_exit.PreviousExitLookup)
    awaits_exit_reason: bool = False


class WaitReady(Step[WaitReadyState]):
    """Hold until the unit has been healthy without a break for `healthy-for`.

    Healthy is: one and the same invocation, active in the way its Type= means it, every port owned by it alone,
    every probe green. An answer to a probe counts only while the listener that gave it is the unit's own: an
    orphan of the old version answers as well.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.PROBE_FAILED
    rollback_role: ClassVar[RollbackRole] = RollbackRole.PROVE_HEALTH

    unit: UnitName = Field(description="The unit that is waited for.")
    port: PortList = Field((), description="The port, or a list of ports, that it must own.")
    healthy_for: TimeSpan = Field(5.0, description="How long it must have been healthy without a break.")
    timeout: PositiveSpan | None = Field(120.0, description="How long one try may take.")
    max_restarts: Integer = Field(0, description="Restarts by systemd that are allowed.")
    probes: tuple[Probe, ...] = Field((), description="What must answer, each with a `timeout`.")
    on_timeout: Literal["leave", "fail"] = Field(
        "leave",
        description="`leave`: a unit that lives is left alone, as still starting; `fail`: the step fails.",
    )

    @model_validator(mode="after")
    def _fits(self) -> WaitReady:
        if self.timeout is not None and self.healthy_for > self.timeout:
            spans = format_span(self.healthy_for), format_span(self.timeout)
            raise ValueError("`healthy-for` ({}) is longer than `timeout` ({}); it could never be met".format(*spans))
        return self

    def validate_in(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if self.unit.endswith(".socket") and any(probe.journal for probe in self.probes):
            yield "probes", f"{self.unit} writes nothing into the journal; ask for the `journal` of its service"

    def check(self, view: HostView, state: WaitReadyState) -> Finding:
        now = view.clock.monotonic()
        if state.started_at is None:
            state.started_at = now
        # Without probes it looks only when something has changed, or at the end.
        look = self._check_health(view, state, state.health, OWNERSHIP_MAX_AGE if self.probes else 0.0)
        look = self._add_exit_reason(view, look, state)
        finding = self._make_finding(view, look, state, now)
        if self.probes and finding.state is FindingState.HOLDS and self._is_window_edge(look, state, now):
            look, finding = self._confirm(view, look, finding, state, now)
        if finding.state is FindingState.HOLDS:
            return self._check_window(look, finding, state, now)
        # A round of probes that is still out breaks nothing: its answers will.
        if not (look.healthy and finding.wake is not None and finding.wake.pending):
            state.healthy_since = None
        return finding

    def check_once(self, view: HostView, state: WaitReadyState) -> Finding:
        return self._make_finding(view, self._check_health(view, state, None), state, view.clock.monotonic())

    def judge_timeout(self, view: HostView, state: WaitReadyState, last: Finding) -> Finding:
        if state.awaits_exit_reason:
            return fails(last.verdict, last.reason, **last.evidence)
        unit = view.unit(self.unit)
        waited = f"not ready within {self.timeout:g}s: {last.reason}"
        if last.verdict is Verdict.NOT_LISTENING and (elsewhere := view.list_unit_listeners(unit)):
            waited += f" (it listens on {', '.join(elsewhere)}: is `port` right?)"
        if not unit.is_running:
            # Between two restarts it reads activating; but nothing of it lives.
            dead = Verdict.UNIT_FAILED if last.verdict is Verdict.STILL_STARTING else last.verdict
            return fails(dead, f"{waited}; {unit.name} is {unit.describe()}: {describe_exit(unit)}", **last.evidence)
        if state.health.foreign_starts >= MAX_FOREIGN_STARTS:
            why = state.health.describe_foreign_starts(unit)
            return fails(Verdict.UNIT_CHANGED, f"{waited}; {why}", **last.evidence)
        if unit.active_state is ActiveState.DEACTIVATING and unit.job_type not in ("start", "restart"):
            why = f"{unit.name} is {unit.describe()}: it is being stopped, and no start is to follow"
            return fails(Verdict.UNIT_CHANGED, f"{waited}; {why}", **last.evidence)
        if self.on_timeout == "fail":
            return fails(last.verdict, waited, **last.evidence)
        now = f"{unit.name} is {unit.describe()}"
        alone = "it was left alone" if unit.describe() in last.reason else f"{now} and was left alone"
        return Finding(
            FindingState.STILL_STARTING,
            Verdict.STILL_STARTING,
            f"{waited}; {alone}{_describe_leftovers(view, unit)}",
            last.evidence,
        )

    def _is_window_edge(self, look: HealthReport, state: WaitReadyState, now: float) -> bool:
        """Whether the window begins or ends with this look."""
        begun = state.healthy_since is not None and state.invocation == look.unit.invocation_id
        return not begun or now - (state.healthy_since or now) >= self.healthy_for

    def _confirm(
        self, view: HostView, look: HealthReport, finding: Finding, state: WaitReadyState, now: float
    ) -> tuple[HealthReport, Finding]:
        """Look at all processes: somebody may have been given a socket since, which nothing announces."""
        fresh = self._check_health(view, state, state.health)
        same = fresh.sockets == look.sockets and fresh.unit.invocation_id == look.unit.invocation_id
        if fresh.healthy and same:
            return fresh, replace(finding, evidence={**finding.evidence, **fresh.evidence()})
        return fresh, self._make_finding(view, fresh, state, now)

    def _check_health(
        self, view: HostView, state: WaitReadyState, patience: HealthState | None, max_age: float = 0.0
    ) -> HealthReport:
        unit = view.unit(self.unit, max_age=max_age)
        counted_from = state.run.baseline_restarts.get(unit.name)
        began = state.run.invocations.get(unit.name, "")
        return HealthChecker(view, unit, self.port, counted_from, self.max_restarts, patience, began, max_age).check()

    def _make_finding(self, view: HostView, look: HealthReport, state: WaitReadyState, now: float) -> Finding:
        if look.healthy:
            return Prober(view, look, self.probes, state.run, state.probe_round, secret=self.secret).check(now)
        if look.final and not state.awaits_exit_reason:
            return fails(look.verdict, look.reason, **look.evidence())
        wake = replace(look.wake(look.recheck_within), pending=state.awaits_exit_reason)
        return not_yet(look.verdict, look.reason, wake, **look.evidence())

    def _add_exit_reason(self, view: HostView, look: HealthReport, state: WaitReadyState) -> HealthReport:
        """Have the journal tell how the last process ended, where the unit tells it no more."""
        state.awaits_exit_reason = False
        if look.verdict in NO_CRASH_LOOP:
            state.previous_exit = previous_exit.PreviousExitLookup()
        if not look.exit_unknown:
            return look
        end = state.previous_exit.poll(view, look.unit, state.run)
        if end is None:
            state.awaits_exit_reason = True
            return look
        state.health.last_exit, state.health.not_notified = end.text, end.not_notified
        return self._check_health(view, state, state.health)

    def _check_window(self, look: HealthReport, finding: Finding, state: WaitReadyState, now: float) -> Finding:
        """Let the clock of the window run on, or start it anew with another invocation."""
        if state.healthy_since is None or state.invocation != look.unit.invocation_id:
            state.healthy_since, state.invocation = now, look.unit.invocation_id
        healthy = now - state.healthy_since
        if healthy < self.healthy_for:
            left = self.healthy_for - healthy
            wake = look.wake(min(left, PROBE_INTERVAL) if self.probes else left)
            reason = f"healthy for {healthy:.1f}s of {self.healthy_for:g}s"
            return not_yet(Verdict.STILL_STARTING, reason, wake, **finding.evidence)
        took = state.healthy_since - (state.started_at or now)
        times = {"ready-after": round(took, 3), "healthy-for": self.healthy_for}
        stayed = f"healthy for {self.healthy_for:g}s, " if self.healthy_for else ""
        reason = f"{stayed}ready after {took:.1f}s{_describe_notes(look, state)}"
        return holds(Verdict.READY, reason, **finding.evidence, **times)


def _describe_notes(look: HealthReport, state: WaitReadyState) -> str:
    """Say what an operator must know of a unit that is ready all the same."""
    started = state.health.describe_foreign_starts(look.unit)
    return "".join(f"; {text}" for text in (started, describe_unit_file(look.unit)) if text)


def _describe_leftovers(view: HostView, unit: Unit) -> str:
    """Name what is left over from earlier runs in a unit that has no main process yet: it may be what it waits for."""
    found = () if unit.main_pid else view.find_leftovers(unit)
    if not found:
        return ""
    named = ", ".join(str(holder.process) for holder in found[:3])
    return f"; in it {'is' if len(found) == 1 else 'are'} {named}, left over from an earlier invocation"
