"""The outcome of a step, and the exit status of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from runbook import errors
from runbook.events import StepKept
from runbook.model import Finding, FindingState, RunStatus, StepStatus, Verdict, frozen
from runbook.spec.step import Step

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
"""The exit status for each status of a run, except `interrupted`, where it depends on the signal."""


@frozen
class Outcome:
    """How a step, or one attempt of it, ended."""

    id: str
    type_name: str  # of the step
    status: StepStatus
    verdict: Verdict | None
    reason: str
    attempts: int = 0
    seconds: float = 0.0  # of all attempts
    evidence: Mapping[str, Any] = field(default_factory=dict)
    still_starting: bool = False  # not ready in time, but in progress, so it was left alone
    acted: bool = False  # the attempt changed something, or tried to

    @property
    def failed(self) -> bool:
        """True if the goal of the step is not reached, and nothing in progress will reach it."""
        return self.status is StepStatus.FAILED and not self.still_starting

    @classmethod
    def of_attempt(cls, step: Step[Any], finding: Finding, *, acted: bool) -> Outcome:
        """Return the outcome of an attempt that ended with a finding."""
        status = StepStatus.FAILED
        if finding.state is FindingState.HOLDS:
            status = StepStatus.CHANGED if acted else StepStatus.OK
        still_starting = finding.state is FindingState.STILL_STARTING
        outcome = cls(step.step_id, step.type_name, status, finding.verdict, finding.reason, evidence=finding.evidence)
        return replace(outcome, still_starting=still_starting, acted=acted)

    @classmethod
    def from_payload(cls, end: StepKept) -> Outcome:
        """Return the outcome from a record. Raises ValueError for a word of another version."""
        status, verdict = StepStatus(end.status), Verdict(end.verdict) if end.verdict else None
        starting = verdict is Verdict.STILL_STARTING and status is StepStatus.FAILED
        return cls(end.id, end.type, status, verdict, end.reason, end.attempts, end.seconds, end.evidence, starting)

    def template_facts(self) -> dict[str, str]:
        """Return what a template can use as `steps.ID.…`, as texts."""
        facts = {name: self.evidence.get(name) for name in ("output", "from", "to")}
        changed = self.status in (StepStatus.CHANGED, StepStatus.REMEDIATED)
        return {
            "status": str(self.status),
            "changed": "true" if changed else "false",
            "verdict": str(self.verdict or ""),
            **{name: str(value) for name, value in facts.items() if value is not None},
        }

    def facts(self) -> dict[str, Any]:
        """Return the fields that a StepFinished and a StepKept have in common."""
        names = ("id", "status", "verdict", "reason", "attempts", "evidence")
        return {
            "type": self.type_name,
            "seconds": round(self.seconds, 3),
            **{name: getattr(self, name) for name in names},
        }
