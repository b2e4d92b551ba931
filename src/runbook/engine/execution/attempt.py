"""One try of one step: look, act, wait, look again, until it holds, fails, or the time is over."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from runbook.engine.execution.events import Events
from runbook.engine.execution.outcome import Try
from runbook.engine.execution.replay import Cut
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
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import Deadline, Finding, State, Verdict, Wake, fails, not_yet
from runbook.spec.state import Memory, RunState
from runbook.spec.step import Step
from runbook.template import TemplateError

UNKNOWN_LIMIT = 120.0
"""Seconds for a step whose own limit is the unit's, when systemd does not say it."""

SAY_AGAIN = 15.0
"""Seconds after which a wait says once more what it waits for."""

REFUSALS = (HostError, TemplateError)
"""What ends a try: the machine says no, or a value cannot be put in that only the step itself found out."""

BUS_IS_AWAY = 0.2
"""Seconds between two looks while the bus is gone: a restart of dbus takes about one."""


def attempt(
    step: Step[Any],
    host: Host,
    waiter: Waiter,
    run: RunState,
    events: Events,
    until: Deadline | None = None,
    cut: Cut | None = None,
) -> Try:
    """Try a step once, within its own time and until `until` at the latest.

    `cut` is what is left of a try that an earlier part of this run had begun, and that is gone on with.

    Raises Interrupted, after what the try had started was stopped, and AccessDenied when its first move was
    refused to this user, so that the caller can tell "nothing was touched" from a failure.
    """
    memory = step.memory(run) if cut is None else cut.memory_for(step, run)
    acted = cut is not None
    waiting = _Waiting(step, memory.id, events)
    try:
        deadline = Deadline.after(host.clock, _time_limit(step, host))
        if until is not None and until.at < deadline.at:
            deadline = until
        cuts = [] if cut is None else [cut]
        while True:
            finding = _look(step, host, memory, cuts)
            if finding.state in (State.HOLDS, State.FAILS, State.LEFT_ALONE):
                return Try(finding, acted)
            if deadline.passed:
                over = _over(step, host, memory, finding)
                if until is not None and deadline is until:
                    over = replace(over, reason=f"the time of all steps is over (`timeout`); {finding.reason}")
                return Try(over, acted)
            if finding.state is State.TO_DO:
                # The intent, and the state it starts from, are with every sink before the step acts.
                _remember(memory, events)
                events.emit(
                    "step-acting",
                    id=memory.id,
                    type=step.kind,
                    reason=finding.reason,
                    evidence=dict(finding.evidence),
                )
                _apply(step, host, memory, first=not acted)
                _remember(memory, events)
                acted = True
                continue
            waiting.tell(finding, deadline)
            assert finding.wake is not None, f"{step.kind} waits without saying for what"
            waiter.wait(finding.wake, deadline)
    except _Refused as refused:
        if acted:
            # Whatever it had begun must not be left half way.
            with contextlib.suppress(HostError):
                step.let_go(host, memory)
        return Try(refused.finding, acted)
    except Interrupted as interrupted:
        # Whatever cannot be stopped in this hurry: the interruption is what happened, and is told.
        try:
            step.let_go(host, memory)
        except HostError as error:
            interrupted.goes_on = error.message
        raise


def _remember(memory: Memory, events: Events) -> None:
    """Let the record have what whoever goes on with this try must know."""
    if memory.lasting:
        events.emit("step-remembers", id=memory.id, memory=memory.kept())


def _look(step: Step[Any], host: Host, memory: Memory, cuts: list[Cut]) -> Finding:
    """Look where a try stands; one that was cut short is first gone on with, once."""
    if cuts:
        if (taken := _take_up(step, host, memory, cuts[0])) is not None:
            return taken
        cuts.clear()
    return _check(step, host, memory)


def _take_up(step: Step[Any], host: Host, memory: Memory, cut: Cut) -> Finding | None:
    """Go on where an earlier part was cut short; None once that is known, and can be looked at like any other try."""
    try:
        unknown = step.take_up(host, memory, stopped=cut.stopped)
    except (BusLost, BusTimeout) as error:
        return not_yet(step.fails_as, error.message, Wake(within=BUS_IS_AWAY))
    except REFUSALS as error:
        raise _Refused(refusal(step, error)) from error
    return fails(step.fails_as, unknown) if unknown else None


class _Waiting:
    """Says what a try waits for: when that changes, and again after a while."""

    def __init__(self, step: Step[Any], name: str, events: Events) -> None:
        self._step, self._name, self._events = step, name, events
        self._said: Verdict | None = None
        self._began = self._again = 0.0

    def tell(self, finding: Finding, deadline: Deadline) -> None:
        now = deadline.clock.monotonic()
        if self._said is None:
            self._began = now
        elif finding.verdict is self._said and now < self._again:
            return
        self._said, self._again = finding.verdict, now + SAY_AGAIN
        self._events.emit(
            "step-waiting",
            id=self._name,
            type=self._step.kind,
            reason=finding.reason,
            seconds=round(now - self._began, 3),
            left=round(deadline.left, 3),
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
        return UNKNOWN_LIMIT
    except REFUSALS as error:
        raise _Refused(refusal(step, error)) from error


def _check(step: Step[Any], host: Host, memory: Any) -> Finding:
    try:
        return step.check(host, memory)
    except (BusLost, BusTimeout) as error:
        # A look can always be repeated: the bus may come back before the time is over.
        return not_yet(step.fails_as, error.message, Wake(within=BUS_IS_AWAY))
    except REFUSALS as error:
        raise _Refused(refusal(step, error)) from error


def _over(step: Step[Any], host: Host, memory: Any, last: Finding) -> Finding:
    """Stop what the try had started, and say what it means that its time is over."""
    try:
        step.let_go(host, memory)
        return step.timed_out(host, memory, last)
    except REFUSALS as error:
        return fails(step.fails_as, f"not finished in time, and {error.message}; {last.reason}", **last.evidence)


def _apply(step: Step[Any], host: Host, memory: Any, *, first: bool) -> None:
    try:
        step.apply(host, memory)
    except (BusLost, BusTimeout):
        return  # Whether it was heard is for the next look to say; `apply` may run twice.
    except AccessDenied as error:
        if first:
            raise
        raise _Refused(refusal(step, error)) from error
    except REFUSALS as error:
        raise _Refused(refusal(step, error)) from error


def refusal(step: Step[Any], error: RunbookError) -> Finding:
    """Make a finding of what the machine said no to, or of what could not be put in."""
    verdict = step.fails_as
    if isinstance(error, NoSuchUnit):
        verdict = Verdict.UNIT_NOT_FOUND
    elif isinstance(error, UnitMasked):
        verdict = Verdict.UNIT_MASKED
    reason = f"{error.message}; {error.hint}" if error.hint else error.message
    remote = error.remote if isinstance(error, HostError) else ""
    return fails(verdict, reason, **({"dbus-error": remote} if remote else {}))


LONGEST_ANSWER = 90.0
"""Seconds for all the questions of one look; each has a time-out of its own besides."""


def glance(step: Step[Any], view: HostView, waiter: Waiter, run: RunState) -> Finding:
    """Say how a step stands at this moment, without changing anything. Raises Interrupted."""
    memory = step.memory(run)
    deadline = Deadline.after(view.clock, LONGEST_ANSWER)
    while True:
        try:
            finding = step.glance(view, memory)
        except HostError as error:
            return refusal(step, error)
        waits_for_answer = finding.state is State.NOT_YET and finding.wake is not None and finding.wake.pending
        if not waits_for_answer or deadline.passed:
            return finding
        assert finding.wake is not None
        waiter.wait(finding.wake, deadline)
