"""`stop`: one stop job, after which the unit is down."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from runbook.actions.job_step import JobStep, JobStepState
from runbook.host.facts import DOWN, ActiveState, JobVerb, Unit
from runbook.host.ownership.describe import describe_untracked
from runbook.host.requesters import describe_requester, find_last_start
from runbook.model import Finding, Verdict, fails, holds, to_do
from runbook.spec.step import RollbackRole


class Stop(JobStep):
    """Stop the unit, and wait until all processes that systemd kills (KillMode=) have exited."""

    verb: ClassVar[JobVerb] = JobVerb.STOP
    rollback_role: ClassVar[RollbackRole] = RollbackRole.STOP

    def decide(self, unit: Unit) -> Finding:
        if unit.active_state in DOWN and not unit.job:
            reason = describe_untracked(unit) if unit.is_untracked else f"{unit.name} is {unit.active_state} already"
            return holds(Verdict.ALREADY_SO, reason, **unit.evidence())
        return to_do(Verdict.JOB_DONE, f"stop {unit.name}, now {unit.describe()}", **unit.evidence())

    def predict(self, unit: Unit) -> Unit:
        if unit.is_untracked:
            return unit  # For systemd there is nothing to stop, so its main process keeps running.
        return replace(unit, active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, job=0)

    def judge_done(self, unit: Unit, state: JobStepState) -> Finding:
        if unit.active_state in DOWN:
            return holds(Verdict.JOB_DONE, f"{unit.name} is {unit.active_state}", **unit.evidence())
        # A socket, a timer, a watchdog or a person started it again after the stop.
        requester = describe_requester(find_last_start(unit.job_requests, state.job.number if state.job else 0))
        why = f"{unit.name} was stopped and {requester} started it again; it is {unit.describe()}"
        return fails(Verdict.UNIT_CHANGED, why, **unit.evidence())
