"""JUnit XML from the events of runs of every kind."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from runbook.events import Event
from runbook.report.junit import JUnitReport
from tests.unit.recorded import BEGAN, STARTED, acting, ended, finished

Named = tuple[str, dict[str, Any]]

STEPS = [{"id": "a", "type": "run"}, {"id": "b", "type": "run"}]
BEGUN = ("run-started", {**STARTED[1], "steps": STEPS})
FAILED = {"verdict": "port-not-owned", "reason": "port 80 is <not> owned"}
REACHED_ONE = (BEGUN, finished("a", "failed", **FAILED, evidence={"journal": ["boom"]}), ended("failed", 1))
FIXED = (
    STARTED,
    ("step-started", {"id": "fix", "type": "remediate", "name": "fix", "units": []}),
    finished("fix.check.wait-ready", "failed", verdict="crash-loop", reason="it loops", seconds=1.5),
    finished("fix.fix.start"),
    finished("fix.check.wait-ready", "ok", verdict="ready", reason="healthy for 3s", seconds=3.0),
    finished("fix", "remediated", verdict="fixed", reason="crash-loop was fixed"),
    ended("remediated"),
)
NOT_BEGUN = (
    ("run-finished", {"status": "not-begun", "exit": 5, "reason": "no such unit", "hint": "did you mean web?"}),
)
ODD = (
    STARTED,
    finished("a", "failed", reason="\x1b[31m]]> \x00 \ud800 \ufffe & \u202e", verdict="x"),
    ended("failed", 1),
)


def report_of(*events: Named) -> bytes:
    report = JUnitReport()
    for number, (name, data) in enumerate(events):
        report(Event(BEGAN + number, "20261130-2000-x6q", name, data))
    return report.to_file()


def suite_of(*events: Named) -> ElementTree.Element:
    suite = ElementTree.fromstring(report_of(*events)).find("testsuite")
    assert suite is not None
    return suite


def outcomes(suite: ElementTree.Element) -> dict[str, list[str]]:
    """Return by the name of each test case what it came to, without its output."""
    return {
        case.get("name", ""): [one.tag for one in case if one.tag != "system-out"] for case in suite.iter("testcase")
    }


def output_of(suite: ElementTree.Element, name: str) -> str:
    return suite.findtext(f"testcase[@name='{name}']/system-out", "")


def test_a_step_that_passed_is_a_case_with_its_time_and_sentence() -> None:
    suite = suite_of(STARTED, acting("a"), finished("a"), ended())
    assert outcomes(suite) == {"a": []}
    case = suite.find("testcase")
    assert case is not None
    assert (case.get("classname"), case.get("time")) == ("upgrade web", "0.500")
    assert output_of(suite, "a") == "changed (job-done): it is so"


def test_the_suite_has_the_counts_and_the_end_of_the_run() -> None:
    suite = suite_of(*REACHED_ONE)
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped", "time", "timestamp")}
    assert counts == {
        "tests": "2", "failures": "1", "errors": "0", "skipped": "1", "time": "2.000",
        "timestamp": "2026-09-21T14:13:20",
    }  # fmt: skip
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties == {
        "run-id": "20261130-2000-x6q", "file": "x.yaml", "unit": "web.service", "status": "failed", "exit": "1",
        "reason": "web.service runs",
    }  # fmt: skip


def test_a_failed_step_has_its_verdict_and_its_evidence_and_later_ones_are_skipped() -> None:
    suite = suite_of(*REACHED_ONE)
    assert outcomes(suite) == {"a": ["failure"], "b": ["skipped"]}
    failure, skipped = suite.find(".//failure"), suite.find(".//skipped")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == (FAILED["verdict"], FAILED["reason"])
    assert failure.text == "journal: boom"
    assert skipped is not None
    assert skipped.get("message") == "not reached"


def test_a_check_that_was_fixed_is_no_failure_and_shows_what_it_was() -> None:
    suite = suite_of(*FIXED)
    assert outcomes(suite) == {"fix": [], "fix.check.wait-ready": [], "fix.fix.start": []}
    assert output_of(suite, "fix") == "remediated (fixed): crash-loop was fixed"
    assert output_of(suite, "fix.check.wait-ready").splitlines() == [
        "failed (crash-loop): it loops",
        "ok (ready): healthy for 3s",
    ]
    assert suite.find("testcase[@name='fix.check.wait-ready'][@time='4.500']") is not None


def test_a_check_that_failed_last_is_no_failure_if_its_remediation_ended_well() -> None:
    """A later check of the same round may have passed before the first one was carried out again."""
    suite = suite_of(STARTED, *FIXED[2:4], FIXED[5], ended("remediated"))
    assert outcomes(suite)["fix.check.wait-ready"] == []


def test_what_was_not_fixed_is_a_failure_of_both() -> None:
    suite = suite_of(STARTED, FIXED[2], finished("fix", "failed", verdict="not-fixed"), ended("failed", 1))
    assert outcomes(suite) == {"fix.check.wait-ready": ["failure"], "fix": ["failure"]}


def test_a_skipped_step_and_one_of_an_earlier_part() -> None:
    kept = ("step-kept", finished("a")[1])
    suite = suite_of(STARTED, kept, finished("b", "skipped", verdict=None, reason="its `when` is false"), ended())
    assert outcomes(suite) == {"a": [], "b": ["skipped"]}
    assert "in an earlier part of the run" in output_of(suite, "a")


@pytest.mark.parametrize(
    ("events", "type_", "message"),
    [
        (NOT_BEGUN, "not-begun", "no such unit; next: did you mean web?"),
        ((STARTED, finished("a"), ended("interrupted", 130)), "interrupted", "web.service runs"),
        ((STARTED, finished("a")), "cut-short", "the run has not ended"),
        ((STARTED, finished("a"), ended("remediated", 6)), "remediated", "web.service runs"),
    ],
    ids=["not begun", "interrupted", "no end", "fail-on-remediation"],
)
def test_what_no_step_is_to_blame_for_is_an_error(events: tuple[Named, ...], type_: str, message: str) -> None:
    suite = suite_of(*events)
    assert outcomes(suite)["the run"] == ["error"]
    error = suite.find(".//error")
    assert error is not None
    assert (error.get("type"), error.get("message")) == (type_, message)


def test_a_plan_runs_nothing() -> None:
    planned: dict[str, Any] = {
        "id": "a",
        "type": "run",
        "impact": "mutating",
        "verdict": None,
        "reason": "would run",
        "evidence": {},
    }
    suite = suite_of(("step-planned", planned), ("plan-finished", {"status": "ok", "exit": 0, "reason": "nothing"}))
    assert outcomes(suite) == {"a": ["skipped"]}


def test_characters_that_xml_does_not_permit_are_replaced() -> None:
    failure = suite_of(*ODD).find(".//failure")
    assert failure is not None
    assert failure.get("message") == "\\x1b[31m]]> \\x00 \ufffd \ufffd & \\u202e"
