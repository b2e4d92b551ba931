"""`wait-ready`: waits until the unit has been healthy for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from runbook.checks.health import HealthChecker, HealthReport, HealthState
from runbook.checks.previous_exit import PreviousExitLookup
from runbook.checks.prober import PROBE_INTERVAL, Prober, ProbeRoundState
from runbook.checks.probes import Probe
from runbook.checks.readiness import HealthWindow, RecentRestarts, judge_late
from runbook.host.interface import HostView
from runbook.model import Finding, FindingState, Progress, Verdict, fails, not_yet
from runbook.spec.fields import Integer, PortList, PositiveSpan, TimeSpan, UnitName
from runbook.spec.runbook import Runbook
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Step
from runbook.util.timespan import format_span

# Reading all processes for each round would keep a machine of some thousand processes busy. A window begins and ends
# with a full reading.
OWNERSHIP_MAX_AGE = 2.0  # seconds for which an ownership of the ports counts between two rounds of probes
NO_CRASH_LOOP = (Verdict.READY, Verdict.STILL_STARTING, Verdict.NOT_LISTENING)  # verdicts that rule out a crash loop


@dataclass
class WaitReadyState(StepState):
    """The health so far, the window without interruption, the probes, and the exit before."""

    health: HealthState = field(default_factory=HealthState)
    window: HealthWindow = field(default_factory=HealthWindow)
    probe_round: ProbeRoundState = field(default_factory=ProbeRoundState)
    previous_exit: PreviousExitLookup = field(default_factory=PreviousExitLookup)
    awaits_exit_reason: bool = False  # True if the unit has failed, and the journal is being read for the reason


class WaitReady(Step[WaitReadyState]):
    """Wait until the unit has been healthy without interruption for `healthy-for`.

    Healthy means: one invocation, active as its Type= defines it, every port owned by it alone, every probe successful.
    An answer to a probe counts only if the listener that gave it is the unit's own: an orphan of the old version
    answers as well.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.PROBE_FAILED
    rollback_role: ClassVar[RollbackRole] = RollbackRole.PROVE_HEALTH

    unit: UnitName = Field(description="The unit that is waited for.")
    port: PortList = Field((), description="The port, or a list of ports, that it must own.")
    healthy_for: TimeSpan = Field(5.0, description="How long it must be healthy without interruption.")
    timeout: PositiveSpan | None = Field(120.0, description="How long one try may take.")
    max_restarts: Integer = Field(0, description="Restarts by systemd that are allowed.")
    probes: tuple[Probe, ...] = Field((), description="What must answer, each within its `timeout`.")
    on_timeout: Literal["leave", "fail"] = Field(
        "leave", description="`leave`: a unit that is still starting is left alone; `fail`: the step fails."
    )

    @model_validator(mode="after")
    def _fits(self) -> WaitReady:
        if self.timeout is not None and self.healthy_for > self.timeout:
            span, limit = format_span(self.healthy_for), format_span(self.timeout)
            raise ValueError(f"`healthy-for` ({span}) is longer than `timeout` ({limit}); it could never be reached")
        return self

    def validate_in(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if self.unit.endswith(".socket") and any(probe.journal for probe in self.probes):
            yield "probes", f"{self.unit} writes nothing into the journal; ask for the `journal` of its service"

    def check(self, view: HostView, state: WaitReadyState) -> Finding:
        now = view.clock.monotonic()
        if state.window.started_at is None:
            state.window = HealthWindow(now, self.healthy_for, self.time_limit(view))
        window = state.window
        # Without probes it checks only when something has changed, or at the end.
        report = self._check_health(view, state, state.health, OWNERSHIP_MAX_AGE if self.probes else 0.0)
        report = self._add_exit_reason(view, report, state)
        finding = self._make_finding(view, report, state, now)
        if self.probes and finding.state is FindingState.HOLDS and window.is_edge(report, now):
            report, finding = self._confirm(view, report, finding, state, now)
        if finding.state is FindingState.HOLDS:
            recheck = PROBE_INTERVAL if self.probes else window.limit
            finding = window.judge(report, finding, state.health, now, recheck)
        elif report.healthy and finding.wake is not None and finding.wake.pending:
            # A round of probes without answers yet does not end the window: a bad answer will.
            finding = replace(finding, reason=window.describe(report, now) or finding.reason)
        else:
            window.healthy_since = window.enough = None
        return replace(finding, progress=self._find_progress(report, finding, state))

    def check_once(self, view: HostView, state: WaitReadyState) -> Finding:
        now, report = view.clock.monotonic(), self._check_health(view, state, None)
        before = state.run.baseline_restarts.get(report.unit.name, 0)
        restarts = RecentRestarts.find(report.unit, before, self.healthy_for, now)
        if report.healthy and restarts.are_too_recent and restarts.count > self.max_restarts:
            return restarts.judge(view, report, state.previous_exit, state.run)
        finding = self._make_finding(view, report, state, now)
        return replace(finding, reason=f"{finding.reason}{restarts}") if report.healthy else finding

    def judge_timeout(self, view: HostView, state: WaitReadyState, last: Finding) -> Finding:
        if state.awaits_exit_reason:
            return fails(last.verdict, last.reason, **last.evidence)
        if state.window.enough is not None:
            return state.window.enough
        unit, limit = view.unit(self.unit), self.time_limit(view)
        wrong = last.verdict is Verdict.PROBE_FAILED and state.probe_round.has_wrong_answer
        fail = wrong or self.on_timeout == "fail"
        return judge_late(view, unit, state.health, last, limit, fail=fail, ports=self.port)

    def _find_progress(self, report: HealthReport, finding: Finding, state: WaitReadyState) -> Progress:
        if not report.healthy:
            state.probe_round.last_answers = ()  # They were of a unit that is no longer as it was.
            return Progress(fails_at=report.final_at)
        since, length = state.window.healthy_since, state.window.find_length(report.unit)
        texts = (*(ownership.reason for ownership in report.ports), *state.probe_round.last_answers)
        return Progress(since, length, tuple(text for text in texts if text != finding.reason))

    def _confirm(
        self, view: HostView, report: HealthReport, finding: Finding, state: WaitReadyState, now: float
    ) -> tuple[HealthReport, Finding]:
        """Read all processes: another may have received a socket since, which no event reports."""
        fresh = self._check_health(view, state, state.health)
        same = fresh.sockets == report.sockets and fresh.unit.invocation_id == report.unit.invocation_id
        if fresh.healthy and same:
            return fresh, replace(finding, evidence={**finding.evidence, **fresh.evidence()})
        return fresh, self._make_finding(view, fresh, state, now)

    def _check_health(
        self, view: HostView, state: WaitReadyState, health: HealthState | None, max_age: float = 0.0
    ) -> HealthReport:
        unit = view.unit(self.unit, max_age=max_age)
        counted_from = state.run.baseline_restarts.get(unit.name)
        began = state.run.invocations.get(unit.name, "")
        kept, once, most = health or HealthState(), health is None, self.max_restarts
        return HealthChecker(view, unit, self.port, counted_from, most, kept, began, max_age, once).check()

    def _make_finding(self, view: HostView, report: HealthReport, state: WaitReadyState, now: float) -> Finding:
        if report.healthy:
            return Prober(view, report, self.probes, state.run, state.probe_round, secret=self.secret).check(now)
        if report.final and not state.awaits_exit_reason:
            return fails(report.verdict, report.reason, **report.evidence())
        wake = report.wake(report.recheck_within)._replace(pending=state.awaits_exit_reason)
        return not_yet(report.verdict, report.reason, wake, **report.evidence())

    def _add_exit_reason(self, view: HostView, report: HealthReport, state: WaitReadyState) -> HealthReport:
        """Read from the journal how the last process exited, if the unit no longer shows it."""
        state.awaits_exit_reason = False
        if report.verdict in NO_CRASH_LOOP:
            state.previous_exit = PreviousExitLookup()
        if not report.exit_unknown:
            return report
        end = state.previous_exit.poll(view, report.unit, state.run)
        if end is None:
            state.awaits_exit_reason = True
            return report
        state.health.last_exit, state.health.not_notified = end.text, end.not_notified
        return self._check_health(view, state, state.health)
