"""`start`: one start job; a unit that runs is left as it is."""

from __future__ import annotations

from typing import ClassVar

from runbook.actions.job_step import JobMemory, JobStep, begun, started
from runbook.checks.exit_reason import how_it_ended
from runbook.host.facts import UP, JobVerb, Unit
from runbook.model import Finding, Verdict, fails, holds, to_do


class Start(JobStep):
    """Start the unit. Whether what was started lives is the question of wait-ready."""

    kind: ClassVar[str] = "start"
    verb: ClassVar[JobVerb] = JobVerb.START

    def wanted(self, unit: Unit) -> Finding:
        if unit.active_state in UP and not unit.job:
            return holds(Verdict.ALREADY_SO, f"{unit.name} is {unit.describe()} already", **unit.evidence())
        return to_do(Verdict.JOB_DONE, f"start {unit.name}", **unit.evidence())

    def leaves(self, unit: Unit) -> Unit:
        return started(unit)

    def judge(self, unit: Unit, memory: JobMemory) -> Finding:
        return begun(unit, memory) or fails(
            Verdict.JOB_FAILED, f"{unit.name} did not start: {how_it_ended(unit)}", **unit.evidence()
        )
