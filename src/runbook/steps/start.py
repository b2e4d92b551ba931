"""`start`: one start job; a running unit is left alone."""

from __future__ import annotations

from typing import ClassVar

from runbook.actions.job_step import JobStep, JobStepState, judge_start
from runbook.checks.exit_reason import describe_exit
from runbook.host.facts import UP, JobVerb, Unit
from runbook.model import Finding, Verdict, fails, holds, to_do
from runbook.spec.step import RollbackRole


class Start(JobStep):
    """Start the unit. Whether it keeps running is checked by wait-ready."""

    verb: ClassVar[JobVerb] = JobVerb.START
    remediable: ClassVar[bool] = True
    rollback_role: ClassVar[RollbackRole] = RollbackRole.START

    def decide(self, unit: Unit) -> Finding:
        if unit.active_state in UP and not unit.job:
            return holds(Verdict.ALREADY_SO, f"{unit.name} is {unit.describe()} already", **unit.evidence())
        return to_do(Verdict.JOB_DONE, f"start {unit.name}", **unit.evidence())

    def judge_done(self, unit: Unit, state: JobStepState) -> Finding:
        why = f"{unit.name} did not start: {describe_exit(unit)}"
        return judge_start(unit, state) or fails(Verdict.JOB_FAILED, why, **unit.evidence())
