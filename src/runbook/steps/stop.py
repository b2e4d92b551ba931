"""`stop`: one stop job, after which the unit is down."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from runbook.actions.job_step import JobMemory, JobStep
from runbook.host.facts import DOWN, ActiveState, JobVerb, Unit
from runbook.host.ownership.describe import lost
from runbook.host.requesters import last_start, somebody
from runbook.model import Finding, Verdict, fails, holds, to_do


class Stop(JobStep):
    """Stop the unit, and wait until all of its processes that systemd ends are gone."""

    kind: ClassVar[str] = "stop"
    verb: ClassVar[JobVerb] = JobVerb.STOP

    def wanted(self, unit: Unit) -> Finding:
        if unit.active_state in DOWN and not unit.job:
            told = lost(unit) if unit.lost else f"{unit.name} is {unit.active_state} already"
            return holds(Verdict.ALREADY_SO, told, **unit.evidence())
        return to_do(Verdict.JOB_DONE, f"stop {unit.name}, now {unit.describe()}", **unit.evidence())

    def leaves(self, unit: Unit) -> Unit:
        if unit.lost:
            return unit  # There is nothing to stop for systemd, and its main process stays.
        return replace(unit, active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, job=0)

    def judge(self, unit: Unit, memory: JobMemory) -> Finding:
        if unit.active_state in DOWN:
            return holds(Verdict.JOB_DONE, f"{unit.name} is {unit.active_state}", **unit.evidence())
        # A socket, a timer, a watchdog or a person: the unit was down, and is not any more.
        return fails(
            Verdict.UNIT_CHANGED,
            f"{unit.name} was stopped and {_starter(unit, memory)} started it again; it is {unit.describe()}",
            **unit.evidence(),
        )


def _starter(unit: Unit, memory: JobMemory) -> str:
    known = last_start(unit.asked, memory.job.number if memory.job else 0)
    return "something else" if known is None else somebody(known)
