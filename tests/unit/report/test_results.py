"""What the files made of a run have in common: which step failed at last, and what ended the run."""

from __future__ import annotations

from runbook.events import Event
from runbook.report.results import RunResults, clean_text
from tests.unit.recorded import BEGAN, STARTED, ended, finished
from tests.unit.report.test_junit import FIXED, REACHED_ONE, Named


def results_of(*events: Named, into: RunResults | None = None) -> RunResults:
    """Return the results of events, one second apart."""
    results = into or RunResults()
    for number, (name, data) in enumerate(events):
        results(Event(BEGAN + number, "20261130-2000-x6q", name, data))
    return results


def failed(results: RunResults) -> list[str]:
    return [name for name, step in results.steps.items() if results.has_failed(step)]


def test_a_failure_that_was_fixed_is_none() -> None:
    assert failed(results_of(*REACHED_ONE)) == ["a"]
    assert failed(results_of(*FIXED)) == []


def test_each_end_is_a_row_in_its_order() -> None:
    assert [row.id for row in results_of(*FIXED).rows] == [
        "fix.check.wait-ready", "fix.fix.start", "fix.check.wait-ready", "fix",
    ]  # fmt: skip


def test_a_step_of_an_earlier_part_is_one_row() -> None:
    kept = finished("a")[1]
    assert len(results_of(STARTED, finished("a"), ("step-kept", kept), ended()).rows) == 1
    assert len(results_of(STARTED, ("step-kept", kept), ended()).rows) == 1


def test_control_characters_become_visible() -> None:
    assert clean_text("\x1b[31m\ud800\n") == "\\x1b[31m\ufffd\n"
