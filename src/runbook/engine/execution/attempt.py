"""One try of one step: look, act, wait, look again, until it holds, fails, or the time is over."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from runbook.engine.execution.outcome import AttemptResult
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

DEFAULT_TIME_LIMIT = 120.0
"""Seconds for a step whose own limit is the unit's, when systemd does not say it."""

REPORT_INTERVAL = 15.0
"""Seconds after which a wait says once more what it waits for."""

REFUSAL_ERRORS = (HostError, TemplateError)
"""What ends a try: the machine says no, or a value cannot be put in that only the step itself found out."""

BUS_RETRY_INTERVAL = 0.2
"""Seconds between two looks while the bus is gone: a restart of dbus takes about one."""


def attempt(
    step: Step[Any],
    host: Host,
    waiter: Waiter,
    run: RunState,
    events: EventStream,
    until: Deadline | None = None,
    cut: PartialAttempt | None = None,
) -> AttemptResult:
    """Try a step once, within its own time and until `until` at the latest.

    `cut` is what is left of a try that an earlier part of this run had begun, and that is gone on with.

    Raises Interrupted, after what the try had started was stopped, and AccessDenied when its first move was
    refused to this user, so that the caller can tell "nothing was touched" from a failure.
    """
    state = step.new_state(run) if cut is None else cut.state_for(step, run)
    acted = cut is not None
    waiting = _WaitReporter(step, state.id, events)
    try:
        deadline = Deadline.after(host.clock, _time_limit(step, host))
        if until is not None and until.at < deadline.at:
            deadline = until
        cuts = [] if cut is None else [cut]
        while True:
            finding = _check_or_resume(step, host, state, cuts)
            if finding.state in (FindingState.HOLDS, FindingState.FAILS, FindingState.STILL_STARTING):
                return AttemptResult(finding, acted)
            if deadline.expired:
                over = _end_timed_out(step, host, state, finding)
                if until is not None and deadline is until:
                    over = replace(over, reason=f"the time of all steps is over (`timeout`); {finding.reason}")
                return AttemptResult(over, acted)
            if finding.state is FindingState.TO_DO:
                # The intent, and the state it starts from, are with every sink before the step acts.
                _save_state(state, events)
                events.emit(StepActing(id=state.id, type=step.kind, reason=finding.reason, evidence=finding.evidence))
                _apply(step, host, state, first=not acted)
                _save_state(state, events)
                acted = True
                continue
            waiting.report(finding, deadline)
            assert finding.wake is not None, f"{step.kind} waits without saying for what"
            waiter.wait(finding.wake, deadline)
    except _Refused as refused:
        if acted:
            # Whatever it had begun must not be left half way.
            with contextlib.suppress(HostError):
                step.cancel(host, state)
        return AttemptResult(refused.finding, acted)
    except Interrupted as interrupted:
        # Whatever cannot be stopped in this hurry: the interruption is what happened, and is told.
        try:
            step.cancel(host, state)
        except HostError as error:
            interrupted.still_running = error.message
        raise


def _save_state(state: StepState, events: EventStream) -> None:
    """Let the record have what whoever goes on with this try must know."""
    if state.persistent:
        events.emit(StepRemembers(id=state.id, memory=state.dump()))


def _check_or_resume(step: Step[Any], host: Host, state: StepState, cuts: list[PartialAttempt]) -> Finding:
    """Look where a try stands; one that was cut short is first gone on with, once."""
    if cuts:
        if (taken := _resume(step, host, state, cuts[0])) is not None:
            return taken
        cuts.clear()
    return _check(step, host, state)


def _resume(step: Step[Any], host: Host, state: StepState, cut: PartialAttempt) -> Finding | None:
    """Go on where an earlier part was cut short; None once that is known, and can be looked at like any other try."""
    try:
        unknown = step.resume(host, state, stopped=cut.stopped)
    except (BusLost, BusTimeout) as error:
        return not_yet(step.failure_verdict, error.message, Wake(within=BUS_RETRY_INTERVAL))
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error
    return fails(step.failure_verdict, unknown) if unknown else None


class _WaitReporter:
    """Says what a try waits for: when that changes, and again after a while."""

    def __init__(self, step: Step[Any], name: str, events: EventStream) -> None:
        self._step, self._name, self._events = step, name, events
        self._said: Verdict | None = None
        self._began = self._again = 0.0

    def report(self, finding: Finding, deadline: Deadline) -> None:
        now = deadline.clock.monotonic()
        if self._said is None:
            self._began = now
        elif finding.verdict is self._said and now < self._again:
            return
        self._said, self._again = finding.verdict, now + REPORT_INTERVAL
        waited, left = round(now - self._began, 3), round(deadline.remaining, 3)
        self._events.emit(
            StepWaiting(id=self._name, type=self._step.kind, reason=finding.reason, seconds=waited, left=left)
        )


class _Refused(Exception):
    """The machine refused a move; `finding` says so."""

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
        # A look can always be repeated: the bus may come back before the time is over.
        return not_yet(step.failure_verdict, error.message, Wake(within=BUS_RETRY_INTERVAL))
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error


def _end_timed_out(step: Step[Any], host: Host, state: Any, last: Finding) -> Finding:
    """Stop what the try had started, and say what it means that its time is over."""
    try:
        step.cancel(host, state)
        return step.judge_timeout(host, state, last)
    except REFUSAL_ERRORS as error:
        return fails(step.failure_verdict, f"not finished in time, and {error.message}; {last.reason}", **last.evidence)


def _apply(step: Step[Any], host: Host, state: Any, *, first: bool) -> None:
    try:
        step.apply(host, state)
    except (BusLost, BusTimeout):
        return  # Whether it was heard is for the next look to say; `apply` may run twice.
    except AccessDenied as error:
        if first:
            raise
        raise _Refused(make_refusal(step, error)) from error
    except REFUSAL_ERRORS as error:
        raise _Refused(make_refusal(step, error)) from error


def make_refusal(step: Step[Any], error: RunbookError) -> Finding:
    """Make a finding of what the machine said no to, or of what could not be put in."""
    verdict = step.failure_verdict
    if isinstance(error, NoSuchUnit):
        verdict = Verdict.UNIT_NOT_FOUND
    elif isinstance(error, UnitMasked):
        verdict = Verdict.UNIT_MASKED
    reason = f"{error.message}; {error.hint}" if error.hint else error.message
    remote = error.dbus_error if isinstance(error, HostError) else ""
    return fails(verdict, reason, **({"dbus-error": remote} if remote else {}))


MAX_QUERY_WAIT = 90.0
"""Seconds for all the questions of one look; each has a time-out of its own besides."""


def check_once(step: Step[Any], view: HostView, waiter: Waiter, run: RunState) -> Finding:
    """Say how a step stands at this moment, without changing anything. Raises Interrupted."""
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
