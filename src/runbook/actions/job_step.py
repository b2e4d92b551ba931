"""What the steps that ask systemd for a job have in common: ask once, wait for its end, look at what is there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from runbook.checks.exit_reason import NEVER, awaited, gave_up_starting, how_it_ended, needs, never_notified, unmet
from runbook.checks.start_limit import limited, starts_left
from runbook.errors import HostError
from runbook.host.facts import UP, ActiveState, JobRef, JobResult, JobVerb, LoadState, Unit
from runbook.host.interface import SAME_MOMENT, Host, HostView
from runbook.host.ownership.describe import lost
from runbook.host.requesters import SOMEBODY, somebody
from runbook.model import Finding, State, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Limit, UnitName
from runbook.spec.state import Memory
from runbook.spec.step import Step
from runbook.util.timespan import format_span

LONGEST_JOB = 600.0
"""Seconds granted to each half of a job whose unit has no time-out of its own: every wait has an end."""

MARGIN = 10.0
"""Seconds beyond the unit's own time-outs, so that systemd's verdict comes before ours."""


@dataclass
class JobMemory(Memory):
    """The job that was asked for, and what was there before: the invocation, its start, its NRestarts.

    `asked` is the number of the question what is left of the start limit, and `asked_at` its moment; `held_back` says
    that the job had to wait for that. `unanswered`: the job was asked for, and whether systemd has heard that is not
    known.
    """

    lasting: ClassVar[bool] = True

    job: JobRef | None = None
    asked: int = 0
    asked_at: float = 0.0
    held_back: bool = False
    invocation: str = ""
    main_start: int = 0
    restarts: int = 0
    unanswered: bool = False


STARTS = (JobVerb.START, JobVerb.RESTART)
"""What begins an invocation."""


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
        if memory.unanswered and (learned := self._learn(view, unit, memory)) is not None:
            return learned
        if memory.job is None:
            return forbidden(unit, self.verb) or self._taken(view, unit) or self._within_limit(view, unit, memory)
        if result is None:
            wake = Wake(units=frozenset({unit.name}))
            return not_yet(Verdict.JOB_TIMEOUT, f"waiting for the {self.verb} job of {unit.name}", wake)
        if result in (JobResult.DONE, JobResult.GONE):
            # Nobody heard how a GONE job ended; what is there afterwards tells.
            return self.judge(unit, memory)
        return self._not_done(view, unit, memory, result)

    def apply(self, host: Host, memory: JobMemory) -> None:
        before = host.unit(self.unit_name)
        if before.need_daemon_reload and self.verb in STARTS:
            # What would be started is not what the unit's file says now.
            host.daemon_reload()
            if host.unit(self.unit_name).lost:
                return  # By that very reload; the next look says so.
        memory.invocation = before.invocation_id
        memory.main_start = before.exec_main_start_monotonic
        memory.restarts = before.n_restarts
        if self.verb in STARTS:
            memory.run.first_starts.setdefault(before.name, host.clock.now())
        memory.unanswered = True  # Where the answer does not come, the next look learns whether it was heard.
        memory.job = host.begin_job(self.verb, self.unit_name)
        memory.unanswered = False
        if self.verb in STARTS:
            # An automatic restart may have come between the look and the request: it is not one of what is started now.
            with contextlib.suppress(HostError):
                memory.restarts = max(memory.restarts, host.unit(self.unit_name).n_restarts)

    def take_up(self, view: HostView, memory: JobMemory, *, stopped: bool) -> str:
        if memory.job is not None and view.job(memory.job) is JobResult.GONE:
            # Taken back, lost in a boot, or done: if what it promised is not there, it is asked for anew.
            there = self.judge(view.unit(memory.job.unit), memory)
            memory.job = memory.job if there.state is State.HOLDS else None
        return ""

    def time_limit(self, view: HostView) -> float:
        if self.timeout is not None:
            return self.timeout
        unit = view.unit(self.unit_name, recent=SAME_MOMENT)
        return _seconds(unit.timeout_start_usec) + _seconds(unit.timeout_stop_usec) + MARGIN

    def timed_out(self, view: HostView, memory: JobMemory, last: Finding) -> Finding:
        unit = view.unit(self.unit_name)
        if memory.job is None:
            over = last.verdict if last.verdict is Verdict.START_LIMIT_HIT else Verdict.JOB_TIMEOUT
            return fails(over, f"the {self.verb} was not asked for: {last.reason}", **last.evidence)
        if self.verb in STARTS and unit.active_state is ActiveState.ACTIVATING and began(unit, memory):
            # It may need longer, and its own TimeoutStartSec= is systemd's to enforce, and the service's to extend.
            return Finding(
                State.LEFT_ALONE,
                Verdict.STILL_STARTING,
                f"{unit.name} is {unit.describe()}{awaited(unit)}; it was left alone",
                unit.evidence(),
            )
        return fails(
            Verdict.JOB_TIMEOUT,
            f"the {self.verb} job of {unit.name} did not end in time; the unit is {unit.describe()}{awaited(unit)}",
            **unit.evidence(),
        )

    def let_go(self, host: Host, memory: JobMemory) -> None:
        if memory.job is None and memory.unanswered:
            raise HostError(f"the {self.verb} of {self.unit_name} was asked for, and systemd has not answered since")
        if memory.job is None:
            return
        unit = host.unit(self.unit_name)
        # Taking a start back would not end it: it would only fail what waits for it.
        if not (self.verb in STARTS and unit.active_state is ActiveState.ACTIVATING and began(unit, memory)):
            host.cancel_job(memory.job)

    def _learn(self, view: HostView, unit: Unit, memory: JobMemory) -> Finding | None:
        """Learn of the unit what became of a job whose asking was not answered; None where there is nothing of it.

        The bus keeps the order: a look that is answered comes after the asking was heard, if it was.
        """
        memory.unanswered = False
        memory.job = unit.job_of(self.verb)
        if memory.job is not None:
            return self.check(view, memory)
        there = self.judge(unit, memory)
        return there if there.state is State.HOLDS and self.verb is not JobVerb.RELOAD else None

    @property
    def unit_name(self) -> str:
        """The unit, which a checked runbook always has."""
        assert self.unit is not None, f"{self.kind} was not given a unit"
        return self.unit

    def _taken(self, view: HostView, unit: Unit) -> Finding | None:
        """Say that systemd would not open a socket: it refuses while the service behind it runs (socket_start()).

        A restart would close it first. With a service that requires its socket, as docker.service does, it stops both.
        """
        opens = self.verb is JobVerb.RESTART or (self.verb is JobVerb.START and unit.active_state not in UP)
        if not opens or not unit.name.endswith(".socket"):
            return None
        for service in (view.unit(name) for name in unit.triggers if "@" not in name):
            follows = self.verb is JobVerb.RESTART and service.name in unit.restarts_with
            if service.runs and not follows:
                return fails(
                    Verdict.JOB_FAILED,
                    f"systemd does not open {unit.name} while {service.name} is {service.describe()}; "
                    f"stop {service.name} first",
                    **unit.evidence(),
                )
        return None

    def _within_limit(self, view: HostView, unit: Unit, memory: JobMemory) -> Finding:
        """Say what there is to do; and do not start into a start limit: systemd would stop it, and then refuse."""
        finding = self.wanted(unit)
        if self.verb not in STARTS or finding.state is not State.TO_DO or unit.starts_cleared or not limited(unit):
            return finding
        if not memory.asked:
            memory.asked, memory.asked_at = memory.run.new_question(), view.clock.now()
        known, left = starts_left(view, unit, memory.asked, memory.asked_at, memory.run)
        if not known:
            wake = Wake(pending=True)
            return not_yet(finding.verdict, f"counting the starts of {unit.name}", wake, **finding.evidence)
        if left is None:
            return finding
        facts = {**finding.evidence, "starts": left.evidence()}
        over = format_span(max(1, round(left.over_in)))
        if left.left:
            last = f"; it would be the last one within its start limit ({left.limit})" if left.left == 1 else ""
            return replace(finding, reason=finding.reason + last, evidence=facts)
        often = f"{unit.name} was started {left.used} times, and its start limit is {left.limit}"
        if left.sure >= unit.start_limit_burst:
            refused = "stop it, and then refuse to start it" if unit.runs else "refuse to start it"
            why = f"{often}: systemd would {refused}, so nothing was asked of it"
            return fails(
                Verdict.START_LIMIT_HIT, f"{why}; reset-failed clears the limit, or it is over in {over}", **facts
            )
        if not unit.runs:
            # Nothing can be lost by asking systemd, which alone knows whether somebody cleared it.
            return replace(finding, reason=f"{finding.reason}; its start limit ({left.limit}) may be used up")
        memory.held_back = True
        wake = Wake(units=frozenset({unit.name}), within=left.over_in + 0.01)
        return not_yet(
            Verdict.START_LIMIT_HIT,
            f"{often}: unless somebody cleared that, systemd would stop it, and then refuse to start it; "
            f"it is over in {over}, which is waited for",
            wake,
            **facts,
        )

    def glance(self, view: HostView, memory: JobMemory) -> Finding:
        finding = self.check(view, memory)
        if memory.job is None and finding.verdict is Verdict.START_LIMIT_HIT and finding.state is State.NOT_YET:
            # It would wait, and then act.
            return to_do(
                Verdict.JOB_DONE, f"{self.verb} {self.unit_name}, after a wait: {finding.reason}", **finding.evidence
            )
        return finding

    def _not_done(self, view: HostView, unit: Unit, memory: JobMemory, result: JobResult) -> Finding:
        facts = {"job-result": str(result), **unit.evidence()}
        match result:
            case JobResult.CANCELED:
                return fails(
                    Verdict.JOB_CANCELED,
                    f"{_rival_job(unit, memory)} took the place of this {self.verb} of {unit.name}, "
                    f"which is {unit.describe()} now",
                    **facts,
                )
            case JobResult.TIMEOUT:
                return fails(Verdict.JOB_TIMEOUT, f"the {self.verb} job of {unit.name} timed out in systemd", **facts)
            case JobResult.DEPENDENCY:
                why = needs(view, unit) or f"a unit that {unit.name} needs did not start"
                return fails(Verdict.JOB_DEPENDENCY, f"{why} ({unit.command('list-dependencies')})", **facts)
            case JobResult.ASSERT:
                return fails(Verdict.CONDITION_NOT_MET, f"{unmet(unit, 'an Assert')} does not hold", **facts)
        starts = self.verb in STARTS
        if starts and gave_up_starting(unit) and not began_anew(unit, memory):
            return fails(
                Verdict.START_LIMIT_HIT,
                f"systemd refuses to start {unit.name}: too many starts in too short a time; reset-failed clears that",
                **facts,
            )
        verdict = Verdict.NOT_NOTIFYING if starts and never_notified(unit) else Verdict.JOB_FAILED
        return fails(verdict, f"the {self.verb} of {unit.name} failed: {self.why_failed(unit)}", **facts)


def forbidden(unit: Unit, verb: JobVerb) -> Finding | None:
    """Say why no such job may be asked for at all: the unit is masked, or there is none, or no file any more."""
    if unit.load_state is LoadState.MASKED:
        return fails(
            Verdict.UNIT_MASKED,
            f"{unit.name} is masked, and a mask is not overridden; {unit.command('unmask')} lifts it",
            **unit.evidence(),
        )
    if unit.load_state is LoadState.NOT_FOUND and not unit.runs:
        return fails(Verdict.UNIT_NOT_FOUND, f"systemd knows no unit {unit.name}", **unit.evidence())
    if unit.load_state is LoadState.NOT_FOUND and verb is JobVerb.RESTART:
        # Refused before anything is stopped: what runs still serves.
        why = f"the file of {unit.name} is gone: systemd cannot start it again, and it still runs"
        return fails(Verdict.UNIT_NOT_FOUND, f"{why} ({unit.describe()})", **unit.evidence())
    if unit.lost and verb in STARTS:
        return fails(Verdict.JOB_FAILED, rival(unit), **unit.evidence())
    if unit.load_state in (LoadState.ERROR, LoadState.BAD_SETTING):
        why = unit.load_error or "its file is wrong"
        return fails(Verdict.JOB_FAILED, f"systemd cannot load {unit.name}: {why}", **unit.evidence())
    return None


def rival(unit: Unit) -> str:
    """Say that a start would set a rival beside what systemd has lost sight of, and what ends that."""
    start = f"a start would put a second main process beside it, so nothing was asked of {unit.name}"
    return f"{lost(unit)}; {start}; a `kill-orphan` before this step reloads, and then ends what runs"


def began(unit: Unit, memory: JobMemory) -> bool:
    """Whether an invocation began since the job was asked for."""
    return unit.invocation_id not in ("", memory.invocation)


def began_anew(unit: Unit, memory: JobMemory) -> bool:
    """Whether an invocation began since the job was asked for, with a main process where a service has one."""
    if unit.invocation_id == memory.invocation:
        return False
    return not unit.is_service or unit.exec_main_start_monotonic > memory.main_start


def begun(unit: Unit, memory: JobMemory) -> Finding | None:
    """Judge a start that systemd calls done; None where no new invocation is to be seen.

    `done` also covers a start that a Condition skipped, and one whose process died at once.
    """
    if unit.result == "exec-condition":
        why = unit.broke or "ExecCondition= ended with a status that says so"
        return fails(Verdict.CONDITION_NOT_MET, f"{unit.name} was not started: its {why}", **unit.evidence())
    if not unit.condition_result:
        return fails(
            Verdict.CONDITION_NOT_MET,
            f"{unmet(unit, 'a Condition')} does not hold, so systemd skipped the start",
            **unit.evidence(),
        )
    if not began_anew(unit, memory):
        return None
    # A start that was asked for sets NRestarts back to 0, but not when it came in the pause before an automatic
    # restart (seen on systemd 252): then the restarts from before are still in it.
    memory.run.starts[unit.name] = memory.restarts if unit.n_restarts >= memory.restarts else 0
    memory.run.invocations[unit.name] = unit.invocation_id
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    late = ", held back by its start limit" if memory.held_back else ""
    return holds(Verdict.JOB_DONE, f"new invocation{pid}{late}", **unit.evidence())


def started(unit: Unit) -> Unit:
    """Say what a unit will be after a start that went well, for the plan of what comes after it."""
    return unit if unit.active_state in UP else replace(unit, active_state=ActiveState.ACTIVE, sub_state="running")


def _rival_job(unit: Unit, memory: JobMemory) -> str:
    """Name the job that took the place of this run's: the first that came after it, by its number."""
    mine = memory.job.number if memory.job else 0
    first = next((one for one in unit.asked if one.job > mine), None)
    return f"the job of {somebody(first)}" if first and first.askers else f"{SOMEBODY}'s job"


def _seconds(usec: int) -> float:
    return LONGEST_JOB if usec in (0, NEVER) else usec / 1e6
