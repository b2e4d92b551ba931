"""What failed, at its line of the runbook: in the forms of GitHub's annotations and of GitLab's Code Quality report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from runbook.report.results import RunResults, clean_text

WORKSPACES = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")  # the variables that name the checkout of the repository
INVALID = "invalid-runbook"  # the check that finds a mistake in a file


class Annotation(NamedTuple):
    """One thing that is wrong, and where."""

    file: str  # its path in the repository; empty if there is no file
    line: int | None  # None if no line is to blame
    check: str  # the verdict
    title: str
    message: str
    key: str  # what makes it the same thing in another run
    is_warning: bool = False  # the run continued

    def to_command(self) -> str:
        """Return GitHub's workflow command."""
        places = {"file": self.file, "line": self.line if self.file else None, "title": self.title}
        words = ",".join(f"{name}={_escape_property(str(value))}" for name, value in places.items() if value)
        return f"::{'warning' if self.is_warning else 'error'} {words}::{_escape_data(self.message)}"

    def to_issue(self) -> dict[str, Any]:
        """Return GitLab's issue. Its fingerprint stays the same from run to run, as long as the issue does."""
        text = "\0".join((self.file, self.check, self.key))
        return {
            "description": clean_text(f"{self.title}: {self.message}"),
            "check_name": self.check,
            "fingerprint": hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest(),
            "severity": "minor" if self.is_warning else "major",
            "location": {"path": clean_text(self.file) or "-", "lines": {"begin": self.line or 1}},
        }


class CodeQualityReport(RunResults):
    """Collects the events of a run, and lists what failed."""

    def to_file(self, taken: int = 0) -> bytes:
        """Return GitLab's Code Quality report."""
        issues = [annotation.to_issue() for annotation in self.list_annotations()]
        return json.dumps(issues, indent=2).encode() + b"\n"

    def list_annotations(self) -> Iterator[Annotation]:
        """Yield what failed: mistakes in the file, failed steps, or why the run itself ended badly."""
        for problem in self.problems:
            message = "; ".join(filter(None, (problem.message, problem.hint)))
            key = f"{problem.line}: {problem.message}"
            yield Annotation(find_repository_path(problem.file), problem.line, INVALID, INVALID, message, key)
        if self.problems or not self.began:
            return  # Nothing was run.
        file = find_repository_path(self.begin.file) if self.begin is not None else ""
        for step in filter(self.has_failed, self.steps.values()):
            last = step.ends[-1]
            verdict = last.verdict or last.status
            message = f"{last.reason}{self._find_hint(step.name)}"
            title, is_warning = f"{step.name}: {verdict}", bool(getattr(last, "continues", False))
            yield Annotation(file, self._find_line(step.name), verdict, title, message, step.name, is_warning)
        if trouble := self.find_trouble():
            status, reason = trouble
            yield Annotation(file, None, status, status, reason, "")

    def _find_hint(self, step: str) -> str:
        is_cause = self.end is not None and getattr(self.end, "step", "") == step
        return f"\nnext: {self.end.hint}" if is_cause and self.end is not None and self.end.hint else ""

    def _find_line(self, step: str) -> int | None:
        """Return the line of a step, or of the step around it; None if a rollback made it, which has no line."""
        lines: Mapping[str, int] = (self.begin.lines if self.begin is not None else None) or {}
        while step and step not in lines:
            step = step.rpartition(".")[0]
        return lines.get(step)


class WorkflowCommands:
    """Prints workflow commands of GitHub into a log that also contains texts from outside.

    The runner obeys a command anywhere in the log, so that a service could print one into its journal. So until the
    end it obeys none, except the one with a random word that lets it go on.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._token = ""

    def begin(self) -> None:
        """Make the runner obey no command, before the first text from outside is printed."""
        if not self._token:
            self._token = os.urandom(16).hex()
            self._print(f"::stop-commands::{self._token}")

    def end(self, annotations: Iterator[Annotation]) -> None:
        """Make it obey commands again, and print the annotations."""
        if self._token:
            self._print(f"::{self._token}::")
        for annotation in annotations:
            self._print(annotation.to_command())

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):
            print(line, file=self._out, flush=True)


def find_repository_path(file: str) -> str:
    """Return the path of a file in its repository, as far as the CI system names the folder of that."""
    if file == "-":
        return ""
    for name in WORKSPACES:
        with contextlib.suppress(ValueError):
            if folder := os.environ.get(name):
                return str(Path(os.path.normpath(Path(file).absolute())).relative_to(folder))
    return os.path.normpath(file)


def _escape_data(text: str) -> str:
    """Escape a text as GitHub documents it. Other control characters have been made visible."""
    return clean_text(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")
