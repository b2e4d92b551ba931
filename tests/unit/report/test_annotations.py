"""Annotations at the lines of a runbook, in the forms of GitHub and of GitLab."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from runbook.errors import Problem
from runbook.report.annotations import CodeQualityReport, WorkflowCommands, find_repository_path
from tests.unit.recorded import STARTED, ended, finished
from tests.unit.report.test_junit import FIXED, NOT_BEGUN, REACHED_ONE, Named
from tests.unit.report.test_results import results_of

AT_LINES = ("run-started", {**STARTED[1], "file": "ops/x.yaml", "lines": {"a": 5, "fix": 7, "fix.check.b": 9}})


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)


def report_of(*events: Named) -> CodeQualityReport:
    report = CodeQualityReport()
    results_of(*events, into=report)
    return report


def commands(*events: Named) -> list[str]:
    return [one.to_command() for one in report_of(*events).list_annotations()]


def issues(report: CodeQualityReport) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(report.to_file())
    return found


def test_a_failed_step_is_at_its_line_with_the_next_command() -> None:
    end = ("run-finished", {**ended("failed", 1)[1], "step": "a", "hint": "runbook doctor web"})
    assert commands(AT_LINES, finished("a", "failed", verdict="x"), end) == [
        "::error file=ops/x.yaml,line=5,title=a%3A x::it is so%0Anext: runbook doctor web"
    ]


def test_a_nested_step_has_its_own_line_and_one_without_that_of_the_step_around_it() -> None:
    failed = [finished(name, "failed", verdict="x") for name in ("fix.check.b", "fix.fix.c", "rollback.d")]
    lines = [re.search(r"line=(\d+)", one) for one in commands(AT_LINES, *failed, ended("failed", 1))]
    assert [found and found[1] for found in lines] == ["9", "7", None]


def test_what_was_fixed_and_what_passed_is_not_annotated() -> None:
    assert commands(*FIXED) == []


def test_a_step_after_which_the_run_continued_is_a_warning() -> None:
    (one,) = commands(AT_LINES, finished("a", "failed", continues=True), ended())
    assert one.startswith("::warning file=ops/x.yaml,line=5,")
    (issue,) = issues(report_of(AT_LINES, finished("a", "failed", continues=True), ended()))
    assert issue["severity"] == "minor"


def test_a_run_that_could_not_begin_has_no_line() -> None:
    assert commands(*NOT_BEGUN) == ["::error title=not-begun::no such unit; next: did you mean web?"]


def test_the_escapes_are_those_that_github_documents() -> None:
    start = ("run-started", {**AT_LINES[1], "file": "a,b:c%.yaml"})
    hostile = finished("a", "failed", verdict="x,y", reason="50%\r\n::error::forged\x1b[31m")
    assert commands(start, hostile, ended("failed", 1)) == [
        "::error file=a%2Cb%3Ac%25.yaml,line=5,title=a%3A x%2Cy::50%25\\r%0A::error::forged\\x1b[31m"
    ]


def test_the_report_has_the_fields_that_gitlab_documents() -> None:
    found = issues(report_of(AT_LINES, *REACHED_ONE[1:]))
    assert [issue.keys() for issue in found] == [{"description", "check_name", "fingerprint", "severity", "location"}]
    (issue,) = found
    assert issue["description"] == "a: port-not-owned: port 80 is <not> owned"
    assert issue["check_name"] == "port-not-owned"
    assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
    assert issue["location"] == {"path": "ops/x.yaml", "lines": {"begin": 5}}
    assert re.fullmatch(r"[0-9a-f]{64}", issue["fingerprint"])


def test_a_fingerprint_is_that_of_the_problem_and_not_of_its_words() -> None:
    one, same, other = (
        issues(report_of(AT_LINES, finished(step, "failed", reason=reason), ended("failed", 1)))[0]["fingerprint"]
        for step, reason in (("a", "PID 5"), ("a", "PID 6"), ("b", "PID 5"))
    )
    assert one == same != other


def test_mistakes_in_a_file_are_each_at_their_line() -> None:
    report = report_of(("run-finished", {"status": "invalid", "exit": 2, "reason": "x"}))
    report.problems += [
        Problem("./x.yaml", 3, 1, "unknown key `a`", "remove it"),
        Problem("./x.yaml", 4, 1, "unknown key `a`"),
    ]
    assert [one.to_command() for one in report.list_annotations()] == [
        "::error file=x.yaml,line=3,title=invalid-runbook::unknown key `a`; remove it",
        "::error file=x.yaml,line=4,title=invalid-runbook::unknown key `a`",
    ]
    assert len({issue["fingerprint"] for issue in issues(report)}) == 2


def test_nothing_that_was_run_is_an_empty_report() -> None:
    assert issues(CodeQualityReport()) == []
    assert issues(report_of(*FIXED)) == []


def test_a_path_is_that_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_repository_path("./ops/../x.yaml") == "x.yaml"
    assert find_repository_path("-") == ""
    monkeypatch.setenv("CI_PROJECT_DIR", "/builds/shop")
    assert find_repository_path("/builds/shop/ops/x.yaml") == "ops/x.yaml"
    assert find_repository_path("/etc/runbook/x.yaml") == "/etc/runbook/x.yaml"


def test_the_runner_obeys_no_command_until_the_annotations() -> None:
    out = io.StringIO()
    log = WorkflowCommands(out)
    log.begin()
    log.begin()
    print("  | ::add-mask::forged", file=out)
    log.end(report_of(*NOT_BEGUN).list_annotations())
    stop, forged, go_on, annotation = out.getvalue().splitlines()
    token = stop.removeprefix("::stop-commands::")
    assert re.fullmatch(r"[0-9a-f]{32}", token)
    assert (forged.strip(" |"), go_on) == ("::add-mask::forged", f"::{token}::")
    assert annotation.startswith("::error title=not-begun::")
