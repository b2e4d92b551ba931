"""`remediate`: checks; where one fails, a fix, and the checks again."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from runbook.model import Verdict
from runbook.spec.fields import Integer, PositiveSpan
from runbook.spec.state import StepState
from runbook.spec.step import ReadOnlyStepList, Remedy, Step, StepList


class Remediate(Step[StepState]):
    """Until every check holds, at most `rounds` times: run the fix, then the checks again.

    Checks that hold the first time leave the machine untouched. Before the first fix, all of its steps are
    looked at: one that is bound to be refused fails the remediation before anything is stopped.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.NOT_FIXED

    check_steps: ReadOnlyStepList = Field(..., alias="check", description="Steps that merely read; all must hold.")
    fix: StepList = Field(..., description="Steps that mend, in order.")
    rounds: Integer = Field(1, ge=1, description="How often the fix may be tried.")
    timeout: PositiveSpan | None = Field(
        None, description="How long all of it may take; its steps have their own limits."
    )

    @model_validator(mode="after")
    def _keeps_all_of_it_secret(self) -> Remediate:
        if self.secret:
            # What it holds prints and fails under names of its own.
            for name in ("check_steps", "fix"):
                held = getattr(self, name)
                self.__dict__[name] = tuple(step.model_copy(update={"secret": True}) for step in held)
        return self

    def remedy(self) -> Remedy:
        return Remedy(self.check_steps, self.fix, self.rounds)
