"""What the steps that ask systemd for a job have in common: ask once, wait for its end, look at what is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from runbook.fields import Limit, UnitName
from runbook.host.facts import ActiveState, JobRef, JobResult, JobVerb, LoadState, Unit
from runbook.host.ports import Host, HostView
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet
from runbook.step import Memory, Step

UP = (ActiveState.ACTIVE, ActiveState.RELOADING, ActiveState.REFRESHING)
"""What a unit reads that is up."""

NEVER = 2**64 - 1
"""systemd's `infinity`, in microseconds."""

LONGEST_JOB = 600.0
"""Seconds granted to each half of a job whose unit has no time-out of its own: every wait has an end."""

MARGIN = 10.0
"""Seconds beyond the unit's own time-outs, so that systemd's verdict comes before ours."""


@dataclass
class JobMemory(Memory):
    """The job that was asked for, and what was there before: the invocation, its start, its NRestarts."""

    job: JobRef | None = None
    invocation: str = ""
    main_start: int = 0
    restarts: int = 0


class JobStep(Step[JobMemory]):
    """A step that is one job of systemd's, judged by its result and by what is there afterwards."""

    verb: ClassVar[JobVerb]
    takes: ClassVar[tuple[str, ...]] = ("unit",)
    needs: ClassVar[tuple[str, ...]] = ("unit",)
    remembers: ClassVar[type[Memory]] = JobMemory
    fails_as: ClassVar[Verdict] = Verdict.JOB_FAILED

    unit: UnitName | None = Field(None, description="The unit to act on.")
    timeout: Limit | None = Field(
        None, description="How long one try may take; by default the unit's own stop and start time-outs, and 10s."
    )

    def wanted(self, unit: Unit) -> Finding:
        """Say, before the job is asked for, whether there is anything to do."""
        raise NotImplementedError

    def judge(self, unit: Unit, memory: JobMemory) -> Finding:
        """Say what is there after a job that ended `done`."""
        raise NotImplementedError

    def why_failed(self, unit: Unit) -> str:
        """Say what is known of why the job failed."""
        return how_it_ended(unit)

    def check(self, view: HostView, memory: JobMemory) -> Finding:
        # The job first, then the unit: looked at the other way round, the unit could be that from before its end.
        result = view.job(memory.job) if memory.job is not None else None
        unit = view.unit(self.unit_name)
        if memory.job is None:
            return forbidden(unit) or self.wanted(unit)
        if result is None:
            wake = Wake(units=frozenset({unit.name}))
            return not_yet(Verdict.JOB_TIMEOUT, f"waiting for the {self.verb} job of {unit.name}", wake)
        if result in (JobResult.DONE, JobResult.GONE):
            # Nobody heard how a GONE job ended; what is there afterwards tells.
            return self.judge(unit, memory)
        return self._not_done(unit, memory, result)

    def apply(self, host: Host, memory: JobMemory) -> None:
        before = host.unit(self.unit_name)
        if before.need_daemon_reload and self.verb in (JobVerb.START, JobVerb.RESTART):
            # What would be started is not what the unit's file says now.
            host.daemon_reload()
        memory.invocation = before.invocation_id
        memory.main_start = before.exec_main_start_monotonic
        memory.restarts = before.n_restarts
        memory.job = host.begin_job(self.verb, self.unit_name)

    def time_limit(self, view: HostView) -> float:
        if self.timeout is not None:
            return self.timeout
        unit = view.unit(self.unit_name)
        return _seconds(unit.timeout_start_usec) + _seconds(unit.timeout_stop_usec) + MARGIN

    def timed_out(self, view: HostView, memory: JobMemory, last: Finding) -> Finding:
        unit = view.unit(self.unit_name)
        return fails(
            Verdict.JOB_TIMEOUT,
            f"the {self.verb} job of {unit.name} did not end in time; the unit is {unit.describe()}",
            **unit.evidence(),
        )

    def let_go(self, host: Host, memory: JobMemory) -> None:
        if memory.job is not None:
            host.cancel_job(memory.job)

    @property
    def unit_name(self) -> str:
        """The unit, which a checked runbook always has."""
        assert self.unit is not None, f"{self.kind} was not given a unit"
        return self.unit

    def _not_done(self, unit: Unit, memory: JobMemory, result: JobResult) -> Finding:
        facts = {"job-result": str(result), **unit.evidence()}
        match result:
            case JobResult.CANCELED:
                return fails(
                    Verdict.JOB_CANCELED,
                    f"somebody else's job took the place of this {self.verb} of {unit.name}",
                    **facts,
                )
            case JobResult.TIMEOUT:
                return fails(Verdict.JOB_TIMEOUT, f"the {self.verb} job of {unit.name} timed out in systemd", **facts)
            case JobResult.DEPENDENCY:
                return fails(
                    Verdict.JOB_DEPENDENCY,
                    f"a unit that {unit.name} needs did not start (systemctl list-dependencies {unit.name})",
                    **facts,
                )
            case JobResult.ASSERT:
                return fails(Verdict.CONDITION_NOT_MET, f"an Assert of {unit.name} does not hold", **facts)
        starts = self.verb in (JobVerb.START, JobVerb.RESTART)
        if starts and gave_up_starting(unit) and not began_anew(unit, memory):
            return fails(
                Verdict.START_LIMIT_HIT,
                f"systemd refuses to start {unit.name}: too many starts in too short a time; reset-failed clears that",
                **facts,
            )
        return fails(Verdict.JOB_FAILED, f"the {self.verb} of {unit.name} failed: {self.why_failed(unit)}", **facts)


def forbidden(unit: Unit) -> Finding | None:
    """Say why no job may be asked for at all: the unit is masked, or there is none."""
    if unit.load_state is LoadState.MASKED:
        return fails(
            Verdict.UNIT_MASKED,
            f"{unit.name} is masked, and a mask is not overridden; systemctl unmask {unit.name} lifts it",
            **unit.evidence(),
        )
    if unit.load_state is LoadState.NOT_FOUND and not unit.runs:
        return fails(Verdict.UNIT_NOT_FOUND, f"systemd knows no unit {unit.name}", **unit.evidence())
    if unit.load_state in (LoadState.ERROR, LoadState.BAD_SETTING):
        why = unit.load_error or "its file is wrong"
        return fails(Verdict.JOB_FAILED, f"systemd cannot load {unit.name}: {why}", **unit.evidence())
    return None


def began_anew(unit: Unit, memory: JobMemory) -> bool:
    """Whether an invocation began since the job was asked for, with a main process where a service has one."""
    if unit.invocation_id == memory.invocation:
        return False
    return not unit.is_service or unit.exec_main_start_monotonic > memory.main_start


def begun(unit: Unit, memory: JobMemory) -> Finding | None:
    """Judge a start that systemd calls done; None where no new invocation is to be seen.

    `done` also covers a start that a Condition skipped, and one whose process died at once.
    """
    if not unit.condition_result:
        return fails(
            Verdict.CONDITION_NOT_MET,
            f"a Condition of {unit.name} does not hold, so systemd skipped the start",
            **unit.evidence(),
        )
    if not began_anew(unit, memory):
        return None
    # A start that was asked for sets NRestarts back to 0, but not when it came in the pause before an automatic
    # restart (seen on systemd 252): then the restarts from before are still in it.
    memory.run.starts[unit.name] = memory.restarts if unit.n_restarts >= memory.restarts else 0
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    return holds(Verdict.JOB_DONE, f"new invocation{pid}", **unit.evidence())


def started(unit: Unit) -> Unit:
    """Say what a unit will be after a start that went well, for the plan of what comes after it."""
    return unit if unit.active_state in UP else replace(unit, active_state=ActiveState.ACTIVE, sub_state="running")


def gave_up_starting(unit: Unit) -> bool:
    """Whether systemd will not start the unit for its start limit.

    Result keeps the first failure, so it mostly does not say start-limit-hit (systemd issue 32203): a unit that
    failed, is to be restarted, and is not, has hit the limit.
    """
    if unit.result == "start-limit-hit":
        return True
    return (
        unit.active_state is ActiveState.FAILED
        and unit.start_limit_burst > 0
        and unit.start_limit_interval_usec > 0
        and restarts_by_itself(unit)
    )


def restarts_by_itself(unit: Unit) -> bool:
    """Whether Restart= covers the way the unit ended (systemd.service(5), the table under Restart=)."""
    if unit.exec_main_code == 1 and unit.exec_main_status in unit.restart_prevent_statuses:
        return False
    match unit.restart:
        case "always":
            return True
        case "on-success":
            return unit.result == "success"
        case "on-failure":
            return unit.result != "success"
        case "on-abnormal":
            return unit.result not in ("success", "exit-code")
        case "on-abort":
            return unit.result in ("signal", "core-dump")
        case "on-watchdog":
            return unit.result == "watchdog"
    return False


def how_it_ended(unit: Unit) -> str:
    """Say how the last main process of a unit ended: "its main process ended with status 78"."""
    match unit.exec_main_code:
        case 1:
            return f"its main process ended with status {unit.exec_main_status}"
        case 2 | 3:
            return f"its main process was killed by signal {unit.exec_main_status}"
    return f"Result is {unit.result}" if unit.result else f"it is {unit.describe()}"


def _seconds(usec: int) -> float:
    return LONGEST_JOB if usec in (0, NEVER) else usec / 1e6
