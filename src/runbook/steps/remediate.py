"""`remediate`: runs checks; if one fails, a fix, and the checks again."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from runbook.model import Verdict
from runbook.spec.fields import Integer, PositiveSpan
from runbook.spec.state import StepState
from runbook.spec.step import ReadOnlyStepList, Remedy, Step, StepList


class Remediate(Step[StepState]):
    """Run the fix, then the checks again, until every check passes, at most `rounds` times.

    If the checks pass at first, nothing is changed. Before the first fix all of its steps are checked: if a refusal is
    foreseeable, the remediation fails before anything is stopped.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.NOT_FIXED

    check_steps: ReadOnlyStepList = Field(
        ..., alias="check", description="Steps that only read; all must pass.", examples=[["verify-port-owner"]]
    )
    fix: StepList = Field(
        ...,
        description="Steps that fix the cause, in order.",
        examples=[["stop", "kill-orphan", "reset-failed", "start"]],
    )
    rounds: Integer = Field(1, ge=1, description="How often the fix may be tried.")
    timeout: PositiveSpan | None = Field(
        None, description="How long all of it may take; its steps have their own limits."
    )

    @model_validator(mode="after")
    def _keeps_all_of_it_secret(self) -> Remediate:
        if self.secret:
            # The nested steps are reported under their own names.
            for name in ("check_steps", "fix"):
                nested = getattr(self, name)
                self.__dict__[name] = tuple(step.model_copy(update={"secret": True}) for step in nested)
        return self

    def remedy(self) -> Remedy:
        return Remedy(self.check_steps, self.fix, self.rounds)
