"""How steps and runs end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook import errors
from runbook.events import StepKept
from runbook.model import Finding, FindingState, RunStatus, StepStatus, Verdict

EXIT_STATUSES: Mapping[RunStatus, int] = {
    RunStatus.OK: errors.EXIT_OK,
    RunStatus.CHANGED: errors.EXIT_OK,
    RunStatus.REMEDIATED: errors.EXIT_OK,
    RunStatus.FAILED: errors.EXIT_FAILED,
    RunStatus.INVALID: errors.EXIT_INVALID,
    RunStatus.STILL_STARTING: errors.EXIT_STILL_STARTING,
    RunStatus.ROLLED_BACK: errors.EXIT_ROLLED_BACK,
    RunStatus.NOT_BEGUN: errors.EXIT_NOT_BEGUN,
    RunStatus.LOCKED: errors.EXIT_LOCKED,
}
"""The exit status of each end but `interrupted`, which depends on the signal."""


@dataclass(frozen=True)
class Outcome:
    """How a step ended. `seconds` counts all of its tries. `left_alone`: not ready in time, but on its way."""

    id: str
    kind: str
    status: StepStatus
    verdict: Verdict | None
    reason: str
    attempts: int = 0
    seconds: float = 0.0
    evidence: Mapping[str, Any] = field(default_factory=dict)
    still_starting: bool = False

    @property
    def failed(self) -> bool:
        """Whether what the step is for is not so, and nothing is on its way to make it so."""
        return self.status is StepStatus.FAILED and not self.still_starting

    @classmethod
    def from_payload(cls, end: StepKept) -> Outcome:
        """Read what `facts` returned. Raises KeyError or ValueError for a word of another version."""
        status, verdict = StepStatus(end.status), Verdict.from_word(end.verdict) if end.verdict else None
        left_alone = verdict is Verdict.STILL_STARTING and status is StepStatus.FAILED
        return cls(end.id, end.type, status, verdict, end.reason, end.attempts, end.seconds, end.evidence, left_alone)

    def template_facts(self) -> dict[str, str]:
        """Give what a template may ask of it, `steps.ID.…`, as texts."""
        asked = {name: self.evidence.get(name) for name in ("output", "from", "to")}
        changed = self.status in (StepStatus.CHANGED, StepStatus.REMEDIATED)
        return {
            "status": str(self.status),
            "changed": "true" if changed else "false",
            "verdict": str(self.verdict or ""),
            **{name: str(value) for name, value in asked.items() if value is not None},
        }

    def facts(self) -> dict[str, Any]:
        """Return the fields that a StepFinished and a StepKept have in common."""
        names = ("id", "status", "verdict", "reason", "attempts", "evidence")
        return {"type": self.kind, "seconds": round(self.seconds, 3), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class AttemptResult:
    """How one try of a step ended, and whether it had changed anything."""

    finding: Finding
    acted: bool

    @property
    def status(self) -> StepStatus:
        """The status of a step whose last try this was."""
        if self.finding.state is not FindingState.HOLDS:
            return StepStatus.FAILED
        return StepStatus.CHANGED if self.acted else StepStatus.OK

    @property
    def still_starting(self) -> bool:
        """Whether the time was over, but not the hope."""
        return self.finding.state is FindingState.STILL_STARTING
