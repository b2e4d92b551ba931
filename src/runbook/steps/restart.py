"""`restart`: one restart job, after which another invocation has begun."""

from __future__ import annotations

from typing import ClassVar

from runbook.actions.job_step import JobStep, JobStepState, judge_start
from runbook.host.facts import JobVerb, Unit
from runbook.model import Finding, Verdict, fails, to_do
from runbook.spec.step import RollbackRole


class Restart(JobStep):
    """Restart the unit, and prove that a new invocation began, with a main process if the unit has one.

    Whether it keeps running is checked by wait-ready: systemd calls the restart of a Type=simple unit done as soon as
    the process is forked (systemd.service(5)).
    """

    verb: ClassVar[JobVerb] = JobVerb.RESTART
    remediable: ClassVar[bool] = True
    always_acts: ClassVar[bool] = True
    rollback_role: ClassVar[RollbackRole] = RollbackRole.RESTART

    def decide(self, unit: Unit) -> Finding:
        return to_do(Verdict.JOB_DONE, f"restart {unit.name}, now {unit.describe()}", **unit.evidence())

    def judge_done(self, unit: Unit, state: JobStepState) -> Finding:
        why = f"the restart job has ended, but {_describe_unchanged(unit, state)}"
        return judge_start(unit, state) or fails(Verdict.NOT_RESTARTED, why, **unit.evidence())


def _describe_unchanged(unit: Unit, state: JobStepState) -> str:
    """Return what a unit is in which a restart has begun no invocation with a main process of its own."""
    if unit.invocation_id != state.invocation:
        return f"the main process of {unit.name}, PID {unit.main_pid}, was started before it"
    if unit.is_running:
        return f"{unit.name} still runs the invocation from before"
    return f"{unit.name} is {unit.describe()}, and no new invocation of it has begun"
