"""`reload`: one reload job; the unit lives on, with its configuration taken in again."""

from __future__ import annotations

from typing import ClassVar

from runbook.actions.job_step import JobMemory, JobStep
from runbook.checks.exit_reason import how_it_ended
from runbook.host.facts import UP, JobVerb, Unit
from runbook.model import Finding, Verdict, fails, holds, to_do
from runbook.util.timespan import format_span


class Reload(JobStep):
    """Reload the unit, and see the same invocation active afterwards.

    What is said no to before the job is asked for, systemd would refuse as well, and in words of its own: it
    calls the job of an inactive unit `invalid` (systemd, src/core/job.c).
    """

    kind: ClassVar[str] = "reload"
    verb: ClassVar[JobVerb] = JobVerb.RELOAD

    def wanted(self, unit: Unit) -> Finding:
        if not unit.can_reload:
            how = "its unit file has no ExecReload=" if unit.is_service else "its kind of unit knows no reload"
            stale = "; that file changed on disk, and daemon-reload reads it" if unit.need_daemon_reload else ""
            return fails(Verdict.JOB_FAILED, f"{unit.name} cannot reload: {how}{stale}", **unit.evidence())
        if unit.active_state not in UP:
            return fails(
                Verdict.JOB_FAILED,
                f"{unit.name} is {unit.describe()}, and only an active unit can reload",
                **unit.evidence(),
            )
        return to_do(Verdict.RELOADED, f"reload {unit.name}, now {unit.describe()}", **unit.evidence())

    def judge(self, unit: Unit, memory: JobMemory) -> Finding:
        if unit.invocation_id != memory.invocation:
            return fails(
                Verdict.UNIT_CHANGED,
                f"{unit.name} did not live through its reload: another invocation is there, {unit.describe()}",
                **unit.evidence(),
            )
        if unit.active_state not in UP:
            return fails(
                Verdict.JOB_FAILED,
                f"{unit.name} did not live through its reload: {how_it_ended(unit)}",
                **unit.evidence(),
            )
        if unit.reload_result not in ("", "success"):
            # It matters where nobody heard how the job ended.
            return fails(Verdict.JOB_FAILED, f"the reload of {unit.name} failed: {self.why_failed(unit)}")
        pid = f", PID {unit.main_pid}" if unit.main_pid else ""
        return holds(Verdict.RELOADED, f"same invocation{pid}", **unit.evidence())

    def why_failed(self, unit: Unit) -> str:
        if unit.active_state not in UP:
            return how_it_ended(unit)
        if unit.type == "notify-reload" and unit.reload_result == "timeout":
            limit = f"the {format_span(unit.timeout_start_usec / 1e6)} of TimeoutStartSec="
            unsaid = f"it did not report the end of its reload within {limit} (Type=notify-reload)"
            return f"{unsaid}; it is still {unit.describe()}, and whether it took its configuration in is not known"
        said = f" ({unit.reload_result})" if unit.reload_result not in ("", "success") else ""
        return f"its reload command did not succeed{said}; it is still {unit.describe()}"
