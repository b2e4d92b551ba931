"""The results of a run, collected from its events: what each step came to, and how the run ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.errors import Problem
from runbook.events import (
    Event,
    Observed,
    Payload,
    PlanFinished,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFinished,
    StepKept,
    StepPlanned,
    StepStarted,
)
from runbook.model import RunStatus, StepStatus
from runbook.util.stdio import escape_controls

NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 does not permit
DETAILS = ("output", "systemd", "journal")  # the keys of evidence that hold lines
PASSED = (RunStatus.OK, RunStatus.CHANGED, RunStatus.REMEDIATED)


@dataclass
class StepResult:
    """What one step came to. A check of a `remediate` step may finish several times."""

    name: str
    ends: list[StepKept] = field(default_factory=list)
    note: str = ""  # why there is no end, or what was planned

    @property
    def seconds(self) -> float:
        """The duration of all its ends."""
        return sum(end.seconds for end in self.ends)


class RunResults:
    """Collects the events of a run. A derived class makes a file of them."""

    def __init__(self) -> None:
        self.begin: RunStarted | RunResumed | Observed | None = None
        self.end: RunFinished | PlanFinished | None = None
        self.run, self.began, self.ended = "", 0.0, 0.0
        self.steps: dict[str, StepResult] = {}
        self.rows: list[StepKept | StepPlanned] = []  # the ends and the plans of all steps, in their order
        self.problems: list[Problem] = []  # the mistakes in the file, for which nothing was run

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self.began, self.ended, self.run = self.began or event.time, event.time, event.run or self.run
        if event.payload is not None:
            self._take(event.payload)

    def to_file(self, taken: int = 0) -> bytes:
        """Return the content of the file, of which `taken` bytes are there already."""
        raise NotImplementedError

    def _take(self, payload: Payload) -> None:
        match payload:
            case RunStarted() | RunResumed() | Observed():
                self.begin = self.begin or payload
                for step in getattr(payload, "steps", ()):
                    self._find_step(step["id"])
            case StepStarted():
                self._find_step(payload.id)
            case StepKept():
                step = self._find_step(payload.id)
                if isinstance(payload, StepFinished) or not step.ends:
                    self.rows.append(payload)
                step.ends.append(payload)
            case StepPlanned():
                self._find_step(payload.id).note = payload.reason
                self.rows.append(payload)
            case RunFinished() | PlanFinished():
                self.end = payload

    def _find_step(self, name: str) -> StepResult:
        return self.steps.setdefault(name, StepResult(name))

    @property
    def title(self) -> str:
        """The name of the runbook, or of its file."""
        return (self.begin.name or self.begin.file if self.begin else "") or "runbook"

    @property
    def recorded_run(self) -> str:
        """The ID of the run; empty if there is no record, as of a plan or a check."""
        return "" if self.begin is None or isinstance(self.begin, Observed) else self.run

    def has_failed(self, step: StepResult) -> bool:
        """True if a step failed at last, and no remediation around it fixed that."""
        return bool(step.ends) and step.ends[-1].status == StepStatus.FAILED and not self._is_fixed(step.name)

    def _is_fixed(self, name: str) -> bool:
        """True if a step that contains this one ended well: its check had failed, and was fixed."""
        outer = name.rpartition(".")[0]
        while outer:
            case = self.steps.get(outer)
            if case is not None and case.ends and case.ends[-1].status != StepStatus.FAILED:
                return True
            outer = outer.rpartition(".")[0]
        return False

    def find_trouble(self) -> tuple[str, str] | None:
        """Return the status and the sentence of a run that ended badly without a failed step."""
        if self.end is None:
            return "cut-short", "the run has not ended"
        failed = any(case.ends and case.ends[-1].status == StepStatus.FAILED for case in self.steps.values())
        is_well = self.end.status in PASSED and self.end.exit == 0
        if is_well or (failed and self.end.status != RunStatus.INTERRUPTED):
            return None
        hint = f"; next: {self.end.hint}" if self.end.hint else ""
        return self.end.status, f"{self.end.reason}{hint}"


def list_details(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the evidence of a failure: what a command printed, and the journal of the unit."""
    for key in DETAILS:
        found = evidence.get(key, ())
        lines: Iterable[object] = found.splitlines() if isinstance(found, str) else found
        yield from (f"{key}: {line}" for line in lines)


def clean_text(text: str) -> str:
    """Return a text without what XML does not permit, and with escapes for other control characters."""
    return NOT_XML.sub("\ufffd", escape_controls(text))
