"""`reload`: one reload job; the unit keeps running, and reads its configuration again."""

from __future__ import annotations

from typing import ClassVar

from runbook.actions.job_step import JobStep, JobStepState
from runbook.checks.exit_reason import describe_exit
from runbook.host.facts import UP, JobVerb, Unit
from runbook.model import Finding, Verdict, fails, holds, to_do
from runbook.spec.step import RollbackRole
from runbook.util.timespan import format_span


class Reload(JobStep):
    """Reload the unit, and prove that the same invocation is active afterwards.

    systemd would refuse the same reloads that are refused here, but with less of a reason: it calls the reload job of
    an inactive unit `invalid` (systemd, src/core/job.c).
    """

    verb: ClassVar[JobVerb] = JobVerb.RELOAD
    rollback_role: ClassVar[RollbackRole] = RollbackRole.RELOAD
    remediable: ClassVar[bool] = True

    def decide(self, unit: Unit) -> Finding:
        if not unit.can_reload:
            how = "its unit file has no ExecReload=" if unit.is_service else "units of its kind cannot reload"
            stale = "; that file has changed on disk, and daemon-reload reads it" if unit.need_daemon_reload else ""
            return fails(Verdict.JOB_FAILED, f"{unit.name} cannot reload: {how}{stale}", **unit.evidence())
        if unit.active_state not in UP:
            why = f"{unit.name} is {unit.describe()}, and only an active unit can reload"
            return fails(Verdict.JOB_FAILED, why, **unit.evidence())
        return to_do(Verdict.RELOADED, f"reload {unit.name}, now {unit.describe()}", **unit.evidence())

    def judge_done(self, unit: Unit, state: JobStepState) -> Finding:
        if unit.invocation_id != state.invocation:
            why = f"another invocation of {unit.name} has begun during its reload: it is {unit.describe()}"
            return fails(Verdict.UNIT_CHANGED, why, **unit.evidence())
        if unit.active_state not in UP:
            why = f"{unit.name} is no longer up after its reload: {describe_exit(unit)}"
            return fails(Verdict.JOB_FAILED, why, **unit.evidence())
        if unit.reload_result not in ("", "success"):
            # The unit decides if the result of the job was missed.
            return fails(Verdict.JOB_FAILED, f"the reload of {unit.name} failed: {self.describe_failure(unit)}")
        pid = f", PID {unit.main_pid}" if unit.main_pid else ""
        return holds(Verdict.RELOADED, f"same invocation{pid}", **unit.evidence())

    def describe_failure(self, unit: Unit) -> str:
        if unit.active_state not in UP:
            return describe_exit(unit)
        if unit.type == "notify-reload" and unit.reload_result == "timeout":
            limit = f"the {format_span(unit.timeout_start_usec / 1e6)} of TimeoutStartSec="
            late = f"it did not report the end of its reload within {limit} (Type=notify-reload)"
            return f"{late}; it is still {unit.describe()}, and whether it has read its configuration is unknown"
        result = f" ({unit.reload_result})" if unit.reload_result not in ("", "success") else ""
        return f"its reload command did not succeed{result}; it is still {unit.describe()}"
