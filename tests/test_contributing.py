"""The example of a step type in CONTRIBUTING.md is linted, type-checked, loaded, and run."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from runbook import document, steps
from runbook.host.facts import Unit
from runbook.model import Impact
from runbook.spec.runbook import Runbook
from tests.unit.cases import run_case
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import finished, plan, run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
MISSING = {'"Host" has no attribute "freeze"'}
"""The errors of mypy for what the page adds to the interface of the host in this example."""


def block(language: str) -> str:
    """Return the first code block of a language in the page's part on step types."""
    part = PAGE.partition("## Add a step type")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@dataclass
class FreezingMachine(FakeMachine):
    frozen: set[str] = field(default_factory=set)

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        known = super().unit(name, max_age=max_age)
        return replace(known, freezer_state="frozen" if name in self.frozen else "running")

    def freeze(self, name: str) -> None:
        self.written.append(f"freeze {name}")
        self.frozen.add(name)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the example to a folder in which the registry finds it, beside the real step types."""
    path = tmp_path / "freeze.py"
    path.write_text(block("python"))
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    monkeypatch.setattr(document, "registry", steps.StepTypes)
    monkeypatch.delitem(sys.modules, "runbook.steps.freeze", raising=False)
    return path


def book(text: str = "unit: gw\nsteps: [freeze]\n") -> Runbook:
    return document.parse(text)


def test_the_example_of_a_step_type_works(example: Path) -> None:
    machine = FreezingMachine(units={"gw.service": unit()})
    result, events = run(machine, *book().steps)
    assert finished(events) == [("freeze", "changed", "job-done")]
    assert machine.written == ["freeze gw.service"]
    assert (result.exit, result.reason) == (0, "gw.service is active (running), PID 100")


def test_a_second_run_of_the_example_changes_nothing(example: Path) -> None:
    machine = FreezingMachine(units={"gw.service": unit()}, frozen={"gw.service"})
    _, events = run(machine, *book().steps)
    assert finished(events) == [("freeze", "ok", "already-so")]
    assert machine.written == []


def test_a_plan_shows_what_the_example_would_do(example: Path) -> None:
    machine = FreezingMachine(units={"gw.service": unit()})
    planned = [event.data for event in plan(machine, *book().steps) if event.event == "step-planned"]
    assert [(step["impact"], step["reason"]) for step in planned] == [(Impact.MUTATING, "would freeze gw.service")]


def test_the_example_needs_a_unit(example: Path) -> None:
    with pytest.raises(Exception, match="freeze needs `unit`, here or at the top of the file"):
        book("steps: [freeze]\n")


def test_the_example_is_linted() -> None:
    for action in (["check"], ["format", "--diff"]):
        command = [sys.executable, "-m", "ruff", *action, "--stdin-filename", "src/runbook/steps/freeze.py", "-"]
        done = subprocess.run(command, input=block("python"), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_is_type_checked(example: Path) -> None:
    mypy = [sys.executable, "-m", "mypy", "--no-error-summary", str(example)]
    done = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    errors = [line.partition(": error: ")[2] for line in done.stdout.splitlines() if ": error: " in line]
    assert {error.partition("  [")[0] for error in errors} == MISSING, done.stdout + done.stderr


def test_the_case_on_the_page_holds(tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(block("yaml part"))
    run_case(path)
