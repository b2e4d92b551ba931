"""One attempt of one step: check, act, wait, check again, until the step passes, fails, or is out of time."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import PartialAttempt
from runbook.engine.execution.stream import EventStream
from runbook.errors import (
    AccessDenied,
    BusLost,
    BusTimeout,
    HostError,
    Interrupted,
    NoSuchUnit,
    RunbookError,
    UnitMasked,
)
from runbook.events import StepActing, StepRemembers, StepWaiting
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import Deadline, Finding, FindingState, Verdict, Wake, fails, not_yet
from runbook.spec.state import RunState, StepState
from runbook.spec.step import Step
from runbook.template import TemplateError

DEFAULT_TIME_LIMIT = 120.0  # seconds for a step whose time-out is that of its unit, if systemd does not answer
REPORT_INTERVAL = 15.0  # seconds after which a wait reports again what it waits for

REFUSAL_ERRORS = (HostError, TemplateError)
"""Errors that end an attempt: the machine refuses, or a template needs a value that only the attempt finds."""

BUS_RETRY_INTERVAL = 0.2
"""Seconds between two checks while the bus is unavailable. A restart of dbus takes about a second."""


def attempt(
    step: Step[Any],
    host: Host,
    waiter: Waiter,
    run: RunState,
    events: EventStream,
    until: Deadline | None = None,
    partial: PartialAttempt | None = None,
) -> Outcome:
    """Attempt a step once, within its own time-out and until `until` at the latest.

    `partial` is the attempt of an earlier part of this run that is to be continued.

    Raises Interrupted, after what the attempt had started was stopped. Raises AccessDenied if this user has no
    permission for the first action, so that the caller can report that nothing was changed.
    """
    state = step.new_state(run) if partial is None else partial.state_for(step, run)
    acted = partial is not None
    waiting = _WaitReporter(step, state.id, events)
    try:
        deadline = Deadline.after(host.clock, _time_limit(step, host))
        if until is not None and until.at < deadline.at:
            deadline = until
        unresumed = [] if partial is None else [partial]
        while True:
            finding = _check_or_resume(step, host, state, unresumed)
            if finding.state in (FindingState.HOLDS, FindingState.FAILS, FindingState.STILL_STARTING):
                return Outcome.of_attempt(step, finding, acted=acted)
            if deadline.expired:
                over = _end_timed_out(step, host, state, finding)
                if until is not None and deadline is until:
                    over = replace(over, reason=f"the time of all steps is over (`timeout`); {finding.reason}")
                return Outcome.of_attempt(step, over, acted=acted)
            if finding.state is FindingState.TO_DO:
                # The action, and the state before it, are in the record before the step acts.
                _save_state(state, events)
                events.emit(StepActing(id=state.id, type=step.kind, reason=finding.reason, evidence=finding.evidence))
                _apply(step, host, state, first=not acted)
                _save_state(state, events)
                acted = True
                continue
            waiting.report(finding, deadline)
            assert finding.wake is not None, f"{step.kind} waits for nothing"
            waiter.wait(finding.wake, deadline)
    except _Refused as refused:
        if acted:
            # What it has begun must not stay half done.
            with contextlib.suppress(HostError):
                step.cancel(host, state)
        return Outcome.of_attempt(step, refused.finding, acted=acted)
    except Interrupted as interrupted:
        # Even if something cannot be stopped, the attempt ends with the interruption.
        try:
            step.cancel(host, state)
        except HostError as error:
            interrupted.still_running = error.message
        raise


def _save_state(state: StepState, events: EventStream) -> None:
    """Record the state from which `resume` continues the attempt."""
    if state.persistent:
        events.emit(StepRemembers(id=state.id, memory=state.dump()))


def _check_or_resume(step: Step[Any], host: Host, state: StepState, unresumed: list[PartialAttempt]) -> Finding:
    """Check the step. A partial attempt is resumed first, once."""
    if unresumed:
        if (finding := _resume(step, host, state, unresumed[0])) is not None:
            return finding
        unresumed.clear()
    return _check(step, host, state)


def _resume(step: Step[Any], host: Host, state: StepState, partial: PartialAttempt) -> Finding | None:
    """Find out how far an earlier part came. Return None when that is known, and the step can be checked."""
    try:
        unknown = step.resume(host, state, stopped=partial.stopped)
    except (BusLost, BusTimeout) as error:
        return not_yet(step.failure_verdict, error.message, Wake(within=BUS_RETRY_INTERVAL))
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error
    return fails(step.failure_verdict, unknown) if unknown else None


class _WaitReporter:
    """Reports what an attempt waits for: when that changes, and again after REPORT_INTERVAL."""

    def __init__(self, step: Step[Any], name: str, events: EventStream) -> None:
        self._step, self._name, self._events = step, name, events
        self._reported: Verdict | None = None
        self._began = self._next = 0.0

    def report(self, finding: Finding, deadline: Deadline) -> None:
        now = deadline.clock.monotonic()
        if self._reported is None:
            self._began = now
        elif finding.verdict is self._reported and now < self._next:
            return
        self._reported, self._next = finding.verdict, now + REPORT_INTERVAL
        waited, left = round(now - self._began, 3), round(deadline.remaining, 3)
        self._events.emit(
            StepWaiting(id=self._name, type=self._step.kind, reason=finding.reason, seconds=waited, left=left)
        )


class _Refused(Exception):
    """The machine refused an action or a query; `finding` contains the reason."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.reason)
        self.finding = finding


def _time_limit(step: Step[Any], host: Host) -> float:
    try:
        return step.time_limit(host)
    except (BusLost, BusTimeout):
        return DEFAULT_TIME_LIMIT
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error


def _check(step: Step[Any], host: Host, state: Any) -> Finding:
    try:
        return step.check(host, state)
    except (BusLost, BusTimeout) as error:
        # A check can always be repeated: the bus may come back in time.
        return not_yet(step.failure_verdict, error.message, Wake(within=BUS_RETRY_INTERVAL))
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error


def _end_timed_out(step: Step[Any], host: Host, state: Any, last: Finding) -> Finding:
    """Stop what the attempt had started, and return the finding for its time-out."""
    try:
        step.cancel(host, state)
        return step.judge_timeout(host, state, last)
    except REFUSAL_ERRORS as error:
        return fails(step.failure_verdict, f"not finished in time, and {error.message}; {last.reason}", **last.evidence)


def _apply(step: Step[Any], host: Host, state: Any, *, first: bool) -> None:
    try:
        step.apply(host, state)
    except (BusLost, BusTimeout):
        return  # The next check finds out whether systemd got the request; `apply` may run twice.
    except AccessDenied as error:
        if first:
            raise
        raise _Refused(make_refusal(step, error)) from error
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error


def make_refusal(step: Step[Any], error: RunbookError) -> Finding:
    """Return the finding for an error that ends an attempt."""
    verdict = step.failure_verdict
    if isinstance(error, NoSuchUnit):
        verdict = Verdict.UNIT_NOT_FOUND
    elif isinstance(error, UnitMasked):
        verdict = Verdict.UNIT_MASKED
    reason = f"{error.message}; {error.hint}" if error.hint else error.message
    dbus_error = error.dbus_error if isinstance(error, HostError) else ""
    return fails(verdict, reason, **({"dbus-error": dbus_error} if dbus_error else {}))


MAX_QUERY_WAIT = 90.0  # seconds for all queries of one check. Each query also has a time-out of its own


def check_once(step: Step[Any], view: HostView, waiter: Waiter, run: RunState) -> Finding:
    """Return the present state of a step, without changing anything. Raises Interrupted."""
    state = step.new_state(run)
    deadline = Deadline.after(view.clock, MAX_QUERY_WAIT)
    while True:
        try:
            finding = step.check_once(view, state)
        except HostError as error:
            return make_refusal(step, error)
        waits_for_answer = finding.state is FindingState.NOT_YET and finding.wake is not None and finding.wake.pending
        if not waits_for_answer or deadline.expired:
            return finding
        assert finding.wake is not None
        waiter.wait(finding.wake, deadline)
