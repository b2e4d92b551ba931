"""One try of one step: look, act, wait, look again, until it holds, fails, or the time is over."""

from __future__ import annotations

import contextlib
from typing import Any

from runbook.engine.events import Events
from runbook.engine.outcome import Try
from runbook.errors import AccessDenied, BusLost, BusTimeout, HostError, Interrupted, NoSuchUnit, UnitMasked
from runbook.host.ports import Host, Waiter
from runbook.model import Deadline, Finding, State, Verdict, Wake, fails, not_yet
from runbook.step import RunState, Step

UNKNOWN_LIMIT = 120.0
"""Seconds for a step whose own limit is the unit's, when systemd does not say it."""

BUS_IS_AWAY = 0.2
"""Seconds between two looks while the bus is gone: a restart of dbus takes about one."""


def attempt(
    step: Step[Any], host: Host, waiter: Waiter, run: RunState, events: Events, until: Deadline | None = None
) -> Try:
    """Try a step once, within its own time and until `until` at the latest.

    Raises Interrupted, after what the try had started was stopped, and AccessDenied when its first move was
    refused to this user, so that the caller can tell "nothing was touched" from a failure.
    """
    memory = step.memory(run)
    acted = False
    said = ""
    try:
        deadline = Deadline.after(host.clock, _time_limit(step, host))
        if until is not None and until.at < deadline.at:
            deadline = until
        while True:
            finding = _check(step, host, memory)
            if finding.state in (State.HOLDS, State.FAILS, State.LEFT_ALONE):
                return Try(finding, acted)
            if deadline.passed:
                return Try(_over(step, host, memory, finding), acted)
            if finding.state is State.TO_DO:
                # The intent, and the state it starts from, are with every sink before the step acts.
                events.emit(
                    "step-acting",
                    id=memory.id,
                    type=step.kind,
                    reason=finding.reason,
                    evidence=dict(finding.evidence),
                )
                _apply(step, host, memory, first=not acted)
                acted = True
                continue
            if finding.verdict != said:
                said = finding.verdict
                events.emit("step-waiting", id=memory.id, type=step.kind, reason=finding.reason)
            assert finding.wake is not None, f"{step.kind} waits without saying for what"
            waiter.wait(finding.wake, deadline)
    except _Refused as refused:
        return Try(refused.finding, acted)
    except Interrupted:
        # Whatever cannot be stopped in this hurry: the interruption is what happened, and is told.
        with contextlib.suppress(HostError):
            step.let_go(host, memory)
        raise


class _Refused(Exception):
    """The machine refused a move; `finding` says so."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.reason)
        self.finding = finding


def _time_limit(step: Step[Any], host: Host) -> float:
    try:
        return step.time_limit(host)
    except (BusLost, BusTimeout):
        return UNKNOWN_LIMIT
    except HostError as error:
        raise _Refused(refusal(step, error)) from error


def _check(step: Step[Any], host: Host, memory: Any) -> Finding:
    try:
        return step.check(host, memory)
    except (BusLost, BusTimeout) as error:
        # A look can always be repeated: the bus may come back before the time is over.
        return not_yet(step.fails_as, error.message, Wake(within=BUS_IS_AWAY))
    except HostError as error:
        return refusal(step, error)


def _over(step: Step[Any], host: Host, memory: Any, last: Finding) -> Finding:
    """Stop what the try had started, and say what it means that its time is over."""
    try:
        step.let_go(host, memory)
        return step.timed_out(host, memory, last)
    except HostError as error:
        return fails(step.fails_as, f"not finished in time, and {error.message}; {last.reason}", **last.evidence)


def _apply(step: Step[Any], host: Host, memory: Any, *, first: bool) -> None:
    try:
        step.apply(host, memory)
    except BusLost:
        return  # Whether it was heard is for the next look to say; `apply` may run twice.
    except AccessDenied as error:
        if first:
            raise
        raise _Refused(refusal(step, error)) from error
    except HostError as error:
        raise _Refused(refusal(step, error)) from error


def refusal(step: Step[Any], error: HostError) -> Finding:
    """Make a finding of what the machine said no to."""
    verdict = step.fails_as
    if isinstance(error, NoSuchUnit):
        verdict = Verdict.UNIT_NOT_FOUND
    elif isinstance(error, UnitMasked):
        verdict = Verdict.UNIT_MASKED
    reason = f"{error.message}; {error.hint}" if error.hint else error.message
    return fails(verdict, reason, **({"dbus-error": error.remote} if error.remote else {}))
