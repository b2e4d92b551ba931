"""Retries with growing pauses: tenacity, with the clock and the sleep of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runbook.engine.execution.outcome import Outcome
from runbook.spec.step import Step

if TYPE_CHECKING:
    import tenacity


def run_with_retries(
    step: Step[Any],
    attempt: Callable[[], Outcome],
    sleep: Callable[[float], None],
    on_retry: Callable[[int, Outcome, float], None],
) -> tuple[Outcome, int]:
    """Return the outcome of the last attempt, and the number of attempts.

    A step is attempted until it does not fail or its `retries` are used up. One that is `still_starting` has not
    failed. `on_retry` gets each failed attempt before the next one: its number, its outcome, the pause in seconds.
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
        on_retry(state.attempt_number, result(state), state.next_action.sleep)

    retrying = tenacity.Retrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(step.retries + 1),
        wait=tenacity.wait_exponential(multiplier=step.delay, exp_base=step.backoff, max=step.max_delay),
        retry=tenacity.retry_if_result(lambda outcome: outcome.failed),
        before_sleep=before_sleep,
        retry_error_callback=result,
    )
    return retrying(attempt), retrying.statistics["attempt_number"]
