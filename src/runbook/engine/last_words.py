"""What a unit said last, beside a failure that it may explain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbook.errors import HostError
from runbook.host.ports import HostView, Waiter
from runbook.host.tasks import LastWords, Question
from runbook.memory import RunState
from runbook.model import Deadline, Verdict, Wake
from runbook.step import Step
from runbook.streams import lines

EXPLAINED = frozenset(
    {
        Verdict.NOT_LISTENING,
        Verdict.STILL_STARTING,
        Verdict.CRASH_LOOP,
        Verdict.START_LIMIT_HIT,
        Verdict.UNIT_FAILED,
        Verdict.UNIT_EXITED,
        Verdict.NOT_NOTIFYING,
        Verdict.PROBE_FAILED,
        Verdict.JOB_FAILED,
        Verdict.JOB_TIMEOUT,
    }
)
"""What the unit itself may have said a word about."""

PATIENCE = 2.0
"""Seconds for the journal to be read."""


def last_words(
    view: HostView, waiter: Waiter, run: RunState, step: Step[Any], verdict: Verdict | None, since: float
) -> Mapping[str, list[str]]:
    """Give what the step's unit has written into the journal since a moment (in seconds since the epoch), as evidence.

    Nothing where it has written nothing, or that cannot be read: a failure is told all the same. Raises Interrupted.
    """
    if verdict not in EXPLAINED or step.secret or not step.units():
        return {}
    (name, *_) = step.units()
    deadline = Deadline.after(view.clock, PATIENCE)
    try:
        question = Question(LastWords(name, since, view.unit(name).of_user), run.new_question(), PATIENCE)
        while (answer := view.ask(question)) is None and not deadline.passed:
            waiter.wait(Wake(pending=True), deadline)
    except HostError:
        return {}
    return {"journal": lines(answer.output)} if answer is not None and answer.good and answer.output else {}
