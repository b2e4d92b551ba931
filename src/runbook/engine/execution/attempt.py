"""One attempt of one step: check, act, wait, check again, until the step passes, fails, or is out of time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import PartialAttempt
from runbook.engine.execution.stream import EventStream
from runbook.engine.internal_error import describe_internal_error, format_trace
from runbook.errors import (
    AccessDenied,
    BusLost,
    BusTimeout,
    HostError,
    Interrupted,
    NoSuchUnit,
    NotBegun,
    RunbookError,
    UnitMasked,
)
from runbook.events import REPORT_INTERVAL, StepActing, StepRemembers, StepWaiting, Waiting
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import Deadline, Finding, FindingState, Verdict, Wake, fails, not_yet
from runbook.spec.state import RunState, StepState
from runbook.spec.step import Step
from runbook.template.namespace import TemplateError

DEFAULT_TIME_LIMIT = 120.0  # seconds for a step whose time-out is that of its unit, if systemd does not answer
MIN_REPORT_PAUSE = 2.0  # seconds between two reports of a text that changes all the time, such as STATUS= of a unit

TRACE = "traceback"  # the evidence of a step that an error of this program ended

# The evidence that a wait reports: the state of the unit, and who has its ports.
SEEN = ("ActiveState", "SubState", "Result", "MainPID", "NRestarts", "ExecMainStatus", "InvocationID", "ports")

_TIME = re.compile(r"\d+(\.\d+)?(ms|s|min|h|d)\b")  # a number of a time span

# Errors that end an attempt: the machine refuses, or a template needs a value that only the attempt finds. BusLost and
# BusTimeout are among them, but a check or an action that raises one of these two is repeated until the time-out.
REFUSAL_ERRORS = (HostError, TemplateError)
BUS_RETRY_INTERVAL = 0.2  # seconds between two checks while the bus is unavailable. A restart of dbus takes a second
FINAL_STATES = (FindingState.HOLDS, FindingState.FAILS, FindingState.STILL_STARTING)  # an attempt ends with these


def attempt(
    step: Step[Any],
    host: Host,
    waiter: Waiter,
    run: RunState,
    events: EventStream,
    until: Deadline | None = None,
    partial: PartialAttempt | None = None,
    run_has_changed: bool = False,
) -> Outcome:
    """Attempt a step once, within its own time-out and until `until` at the latest.

    `partial` is the attempt of an earlier part of this run that is to be continued.

    Raises Interrupted, after what the attempt had started was stopped. Raises NotBegun if this user has no permission
    for the first action and the run has changed nothing before.
    """
    state = step.new_state(run, partial.state if partial is not None else None)
    # An attempt is recorded as partial only after it began to act.
    acted = partial is not None
    attempted = _Attempt(step, host, waiter, events, state, partial, acted=acted, run_has_changed=run_has_changed)
    try:
        return Outcome.of_attempt(step, attempted.run(until), acted=attempted.acted)
    except REFUSAL_ERRORS as error:
        if attempted.acted:
            # What it has begun must not stay half done.
            with contextlib.suppress(HostError):
                step.cancel(host, state)
        return Outcome.of_attempt(step, make_refusal(step, error), acted=attempted.acted)
    except Interrupted as interrupted:
        # Even if something cannot be stopped, the attempt ends with the interruption.
        try:
            step.cancel(host, state)
        except HostError as error:
            interrupted.still_running = error.message
        raise
    except RunbookError:
        raise
    except Exception as error:  # A bug, or no memory is left: a failure like any other.
        with contextlib.suppress(Exception):
            step.cancel(host, state)
        return make_internal_failure(step, error, acted=attempted.acted)


class _WaitTopic(NamedTuple):
    """What a wait is for, to notice a change. Times grow all the time, and are no change."""

    state: tuple[object, ...]  # the verdict, and since when the unit is healthy
    texts: tuple[str, ...]  # the reason and the facts, without the times in them

    @classmethod
    def of(cls, finding: Finding) -> _WaitTopic:
        texts = (finding.reason, *finding.progress.facts)
        state = (finding.verdict, finding.progress.healthy_since, finding.progress.output)
        return cls(state, tuple(_TIME.sub("", text) for text in texts))


@dataclass
class _Attempt:
    """One attempt in progress. Its methods raise REFUSAL_ERRORS, Interrupted and NotBegun."""

    step: Step[Any]
    host: Host
    waiter: Waiter
    events: EventStream
    state: StepState
    partial: PartialAttempt | None  # the attempt that is to be continued, until `resume` has found out how far it came
    acted: bool  # the attempt has called `apply`, which may have changed something even if it failed
    run_has_changed: bool  # something was changed before this attempt
    _reported: _WaitTopic | None = None  # what the wait was for when it was reported last
    _reported_at: float = 0.0
    _reported_seen: Mapping[str, Any] | None = None  # the state of the unit and its ports in the last report
    _wait_began: float = 0.0
    _next_report: float = 0.0  # when the next report is due, even if nothing changes

    def run(self, until: Deadline | None) -> Finding:
        """Check, act and wait, until the step passes, fails, or is out of time."""
        deadline = Deadline.after(self.host.clock, self._time_limit()).no_later_than(until)
        while True:
            finding = self._check()
            if finding.state in FINAL_STATES:
                return finding
            if deadline.expired:
                timed_out = self._end_timed_out(finding)
                reason = f"the time of all steps is over (`timeout`); {finding.reason}"
                # no_later_than returns `until` itself if that is the earlier one.
                cut = deadline is until and timed_out.state is not FindingState.HOLDS
                return replace(timed_out, reason=reason) if cut else timed_out
            if finding.state is FindingState.TO_DO:
                self._act(finding)
                continue
            until_report = self._report_wait(finding, deadline)
            assert finding.wake is not None, f"{self.step.type_name} waits for nothing"
            self.waiter.wait(finding.wake._replace(within=min(finding.wake.within, until_report)), deadline)

    def _time_limit(self) -> float:
        try:
            return self.step.time_limit(self.host)
        except (BusLost, BusTimeout):
            return DEFAULT_TIME_LIMIT

    def _check(self) -> Finding:
        """Check the step. A partial attempt is resumed first."""
        try:
            if self.partial is not None:
                if unknown := self.step.resume(self.host, self.state, stopped=self.partial.stopped):
                    return fails(self.step.failure_verdict, unknown)
                self.partial = None
            return self.step.check(self.host, self.state)
        except (BusLost, BusTimeout) as error:
            # A check can always be repeated: the bus may come back in time.
            return not_yet(Verdict.TIMED_OUT, error.message, Wake(within=BUS_RETRY_INTERVAL))

    def _act(self, finding: Finding) -> None:
        # The action, and the state before it, are in the record before the step acts.
        self._save_state()
        acting = StepActing(
            id=self.state.id, type=self.step.type_name, reason=finding.reason, evidence=finding.evidence
        )
        self.events.emit(acting)
        acted_before, self.acted = self.acted or self.run_has_changed, True
        try:
            self.step.apply(self.host, self.state)
        except (BusLost, BusTimeout):
            pass  # The next check finds out whether systemd got the request; `apply` may run twice.
        except AccessDenied as error:
            if acted_before:
                raise
            hint = error.hint or "run it as root, or with --user for your own units"
            raise NotBegun(error.message, hint=hint) from error
        self._save_state()

    def _save_state(self) -> None:
        """Record the state from which `resume` continues the attempt."""
        if self.state.persistent:
            self.events.emit(StepRemembers(id=self.state.id, memory=self.state.dump()))

    def _report_wait(self, finding: Finding, deadline: Deadline) -> float:
        """Report what the attempt waits for: when that changes, and again after REPORT_INTERVAL.

        Returns the seconds until the next report is due: the wait must end by then.
        """
        now, topic = self.host.clock.monotonic(), _WaitTopic.of(finding)
        if self._reported is None:
            self._wait_began = self._next_report = now
        text_changed = self._reported is not None and topic.texts != self._reported.texts
        due = min(self._next_report, self._reported_at + MIN_REPORT_PAUSE) if text_changed else self._next_report
        if self._reported is not None and topic.state == self._reported.state and now < due:
            return max(due - now, 0.001)
        while self._next_report <= now:
            self._next_report += REPORT_INTERVAL
        self._reported, self._reported_at = topic, now
        progress, times, left = finding.progress, dict[str, float](), deadline.remaining
        if progress.fails_at is not None:
            left = max(0.0, min(left, progress.fails_at - now))
        if progress.healthy_since is not None:
            times = {"healthy": round(now - progress.healthy_since, 3), "healthy_for": round(progress.healthy_for, 3)}
        if progress.opens_at is not None:
            times["opens_in"] = round(progress.opens_at - now, 3)
        self.events.emit(
            StepWaiting(
                id=self.state.id,
                type=self.step.type_name,
                reason=finding.reason,
                seconds=round(now - self._wait_began, 3),
                left=round(left, 3),
                facts=progress.facts,
                output=progress.output,
                seen=self._find_new_state(finding),
                **times,
            )
        )
        return self._next_report - now

    def _find_new_state(self, finding: Finding) -> Mapping[str, Any] | None:
        """Return what the finding contains of systemd and the ports; None if the last report had the same."""
        seen = {name: finding.evidence[name] for name in SEEN if name in finding.evidence}
        if seen == (self._reported_seen or {}):
            return None
        self._reported_seen = seen
        return seen

    def _end_timed_out(self, last: Finding) -> Finding:
        """Stop what the attempt had started, and return the finding for its time-out."""
        try:
            self.step.cancel(self.host, self.state)
            return self.step.judge_timeout(self.host, self.state, last)
        except REFUSAL_ERRORS as error:
            why = f"not finished in time, and {error.message}; {last.reason}"
            return fails(Verdict.TIMED_OUT, why, **last.evidence)


def make_refusal(step: Step[Any], error: RunbookError) -> Finding:
    """Return the finding for an error that ends an attempt."""
    verdicts: Mapping[type, Verdict] = {NoSuchUnit: Verdict.UNIT_NOT_FOUND, UnitMasked: Verdict.UNIT_MASKED}
    reason = f"{error.message}; {error.hint}" if error.hint else error.message
    dbus_error = {"dbus-error": error.dbus_error} if isinstance(error, HostError) and error.dbus_error else {}
    return fails(verdicts.get(type(error), step.failure_verdict), reason, **dbus_error)


def make_internal_failure(step: Step[Any], error: Exception, *, acted: bool = False) -> Outcome:
    """Return the outcome of a step that an error of this program ended."""
    found = fails(step.failure_verdict, describe_internal_error(error), **{TRACE: format_trace(error)})
    return Outcome.of_attempt(step, found, acted=acted)


MAX_QUERY_WAIT = 90.0  # seconds for all queries of one check. Each query also has a time-out of its own
MIN_REPORTED_LOOK = 1.0  # seconds after which a wait for the answers is reported


def check_once(
    step: Step[Any], view: HostView, waiter: Waiter, run: RunState, events: EventStream | None = None
) -> Finding:
    """Return the present state of a step, without changing anything; report a long wait to `events`.

    Raises Interrupted.
    """
    state = step.new_state(run)
    deadline = Deadline.after(view.clock, MAX_QUERY_WAIT)
    next_report = view.clock.monotonic() + MIN_REPORTED_LOOK
    while True:
        try:
            finding = step.check_once(view, state)
        except HostError as error:
            return make_refusal(step, error)
        wake = finding.wake
        if finding.state is not FindingState.NOT_YET or wake is None or not wake.pending or deadline.expired:
            return finding
        if events is not None and (now := view.clock.monotonic()) >= next_report:
            next_report = now + REPORT_INTERVAL
            left = round(deadline.remaining, 3)
            name, waited = step.name or step.type_name, round(MAX_QUERY_WAIT - left, 3)
            events.emit(Waiting(name=name, reason=finding.reason, seconds=waited, left=left))
        waiter.wait(wake, deadline)
