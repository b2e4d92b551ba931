"""Retries with growing pauses: tenacity, with the clock and the waiter of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runbook.engine.execution.long_wait import LongWait
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.stream import EventStream
from runbook.events import StepRetrying
from runbook.host.interface import Waiter
from runbook.model import Deadline, Wake
from runbook.spec.step import Step

if TYPE_CHECKING:
    import tenacity


def run_with_retries(
    step: Step[Any], attempt: Callable[[], Outcome], waiter: Waiter, events: EventStream
) -> tuple[Outcome, int]:
    """Return the outcome of the last attempt, and the number of attempts.

    A step is attempted until it does not fail or its `retries` are used up. One that is `still_starting` has not
    failed. Each failed attempt is reported before the pause that follows it, and the pause from time to time.
    """
    if not step.retries:
        return attempt(), 1
    # Imported late: most runs have no step with retries.
    import tenacity  # noqa: PLC0415

    def result(state: tenacity.RetryCallState) -> Outcome:
        assert state.outcome is not None
        outcome: Outcome = state.outcome.result()
        return outcome

    def before_sleep(state: tenacity.RetryCallState) -> None:
        assert state.next_action is not None
        failed, number, seconds = result(state), state.attempt_number, state.next_action.sleep
        id_, type_, verdict, reason = failed.id, failed.type_name, str(failed.verdict), failed.reason
        retrying = StepRetrying(id=id_, type=type_, attempt=number, pause=seconds, verdict=verdict, reason=reason)
        events.emit(retrying)

    attempts = tenacity.Retrying(
        sleep=lambda seconds: _pause(step, waiter, events, seconds),
        stop=tenacity.stop_after_attempt(step.retries + 1),
        wait=tenacity.wait_exponential(multiplier=step.delay, exp_base=step.backoff, max=step.max_delay),
        retry=tenacity.retry_if_result(lambda outcome: outcome.failed),
        before_sleep=before_sleep,
        retry_error_callback=result,
    )
    return attempts(attempt), attempts.statistics["attempt_number"]


def _pause(step: Step[Any], waiter: Waiter, events: EventStream, seconds: float) -> None:
    """Pause before the next attempt, and report that from time to time."""
    deadline = Deadline.after(events.clock, seconds)
    wait = LongWait(events, step, "a pause before the next attempt", deadline)
    while not deadline.expired:
        waiter.wait(Wake(within=min(deadline.remaining, wait.until_report)), deadline)
        wait.report_if_due()
