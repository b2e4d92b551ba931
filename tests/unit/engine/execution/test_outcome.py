"""The outcome of a step: from a finding, into an event, and back."""

from __future__ import annotations

import pytest

from runbook.engine.execution.outcome import EXIT_STATUSES, Outcome
from runbook.events import StepFinished
from runbook.model import Finding, FindingState, RunStatus, StepStatus, Verdict, fails, holds
from tests.unit.runs import step


@pytest.mark.parametrize(
    ("finding", "acted", "status", "failed"),
    [
        (holds(Verdict.JOB_DONE, "so"), False, StepStatus.OK, False),
        (holds(Verdict.JOB_DONE, "so"), True, StepStatus.CHANGED, False),
        (fails(Verdict.JOB_FAILED, "no"), True, StepStatus.FAILED, True),
        (Finding(FindingState.STILL_STARTING, Verdict.STILL_STARTING, "late"), False, StepStatus.FAILED, False),
    ],
)
def test_the_status_of_an_attempt(finding: Finding, acted: bool, status: StepStatus, failed: bool) -> None:
    outcome = Outcome.of_attempt(step("restart"), finding, acted=acted)
    assert (outcome.status, outcome.failed, outcome.acted) == (status, failed, acted)


def test_an_outcome_is_read_from_the_event_that_it_became() -> None:
    made = Outcome("x", "run", StepStatus.FAILED, Verdict.STILL_STARTING, "late", 2, 1.5, {"to": "2"}, True)
    assert Outcome.from_payload(StepFinished(**made.facts())) == made


def test_a_word_of_another_version_is_an_error() -> None:
    known = Outcome("x", "run", StepStatus.OK, None, "").facts()
    with pytest.raises(ValueError, match="from-the-future"):
        Outcome.from_payload(StepFinished(**{**known, "verdict": "from-the-future"}))
    with pytest.raises(ValueError, match="from-the-future"):
        Outcome.from_payload(StepFinished(**{**known, "status": "from-the-future"}))


def test_what_a_template_can_use() -> None:
    outcome = Outcome("x", "update", StepStatus.CHANGED, Verdict.UPDATED, "", evidence={"from": "1", "to": "2", "x": 3})
    assert outcome.template_facts() == {
        "status": "changed",
        "changed": "true",
        "verdict": "updated",
        "from": "1",
        "to": "2",
    }


def test_every_status_but_interrupted_has_an_exit_status() -> None:
    assert set(RunStatus) - EXIT_STATUSES.keys() == {RunStatus.INTERRUPTED}
