"""What `validate` writes for a CI system: annotations at the mistakes, and GitLab's report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runbook import errors
from tests.unit.cli.invoke import failure, runbook

WRONG = "unit: gw\nsteps:\n  - restrat\n  - start: {unitt: x}\n"


@pytest.fixture(autouse=True)
def _in_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_WORKSPACE", "CI_PROJECT_DIR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(WRONG)
    Path("right.yaml").write_text("unit: gw\nsteps: [restart]\n")


def test_each_mistake_is_annotated_at_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "::" not in runbook("validate", "wrong.yaml").stdout
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = runbook("validate", "wrong.yaml", "right.yaml", "none.yaml")
    assert result.exit_code == errors.EXIT_INVALID
    first, second, third = result.stdout.splitlines()
    assert first.startswith(
        "::error file=wrong.yaml,line=3,title=invalid-runbook::unknown step type `restrat`; did you"
    )
    assert second.startswith("::error file=wrong.yaml,line=4,title=invalid-runbook::unknown key `unitt`")
    assert third.startswith("::error file=none.yaml,line=1,title=invalid-runbook::cannot read none.yaml")
    assert runbook("validate", "wrong.yaml", "--annotate").stdout.count("::error ") == 2
    assert "::error" not in runbook("validate", "wrong.yaml", "--output", "json").stdout
    assert runbook("validate", "right.yaml").stdout == "1 file, no errors\n"


def test_the_report_of_gitlab_has_each_mistake_and_is_empty_without_one() -> None:
    assert runbook("validate", "wrong.yaml", "--code-quality", "q.json").exit_code == errors.EXIT_INVALID
    found = json.loads(Path("q.json").read_text())
    assert [issue["location"] for issue in found] == [
        {"path": "wrong.yaml", "lines": {"begin": 3}},
        {"path": "wrong.yaml", "lines": {"begin": 4}},
    ]
    assert runbook("validate", "right.yaml", "--code-quality", "q.json").exit_code == 0
    assert json.loads(Path("q.json").read_text()) == []


def test_a_report_that_cannot_be_written_is_refused_first() -> None:
    assert isinstance(failure("validate", "wrong.yaml", "--code-quality", "none/q.json"), errors.NotBegun)


def test_apply_annotates_a_mistake_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = runbook("apply", "wrong.yaml", "--code-quality", "q.json")
    assert result.exit_code == errors.EXIT_INVALID
    assert result.stdout.splitlines()[0].startswith("::error file=wrong.yaml,line=3,")
    assert "wrong.yaml:3:" in result.stderr
    assert len(json.loads(Path("q.json").read_text())) == 2
