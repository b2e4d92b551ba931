"""Extra tries with a growing pause between them: tenacity, with the engine's clock and sleep."""

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
    told: Callable[[int, Outcome, float], None],
) -> tuple[Outcome, int]:
    """Try until a try does not fail or `retries` are used up; give how the last one ended, and their number.

    A unit that is on its way already is not tried again.

    `told` hears of every failed try that another one follows: its number, the try, the pause in seconds.
    """
    if not step.retries:
        return attempt(), 1
    # Most steps have no extra tries, and most runs never need it.
    import tenacity  # noqa: PLC0415

    tries = 0

    def once() -> Outcome:
        nonlocal tries
        tries += 1
        return attempt()

    def before_sleep(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        told(state.attempt_number, state.outcome.result(), state.next_action.sleep)

    def last(state: tenacity.RetryCallState) -> Outcome:
        assert state.outcome is not None
        result: Outcome = state.outcome.result()
        return result

    retrying = tenacity.Retrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(step.retries + 1),
        wait=tenacity.wait_exponential(multiplier=step.delay, exp_base=step.backoff, max=step.max_delay),
        retry=tenacity.retry_if_result(lambda outcome: outcome.failed),
        before_sleep=before_sleep,
        retry_error_callback=last,
    )
    return retrying(once), tries
