"""What the steps that ask systemd for a job have in common: ask once, wait for its end, look at what is there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from runbook.checks.exit_reason import (
    USEC_INFINITY,
    describe_awaited,
    describe_exit,
    describe_failed_requirement,
    describe_unmet_conditions,
    has_not_notified,
    is_start_limit_hit,
)
from runbook.checks.start_limit import has_start_limit, query_start_budget
from runbook.errors import HostError
from runbook.host.facts import UP, ActiveState, JobRef, JobResult, JobVerb, LoadState, Unit
from runbook.host.interface import SHARED_READ_AGE, Host, HostView
from runbook.host.ownership.describe import describe_untracked
from runbook.host.requesters import describe_requester
from runbook.model import Finding, FindingState, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import PositiveSpan, UnitName
from runbook.spec.state import StepState
from runbook.spec.step import Step
from runbook.util.timespan import format_span

MAX_HALF_JOB = 600.0
"""Seconds granted to each half of a job whose unit has no time-out of its own: every wait has an end."""

TIMEOUT_MARGIN = 10.0
"""Seconds beyond the unit's own time-outs, so that systemd's verdict comes before ours."""


@dataclass
class JobStepState(StepState):
    """The job that was asked for, and what was there before: the invocation, its start, its NRestarts.

    `asked` is the number of the question what is left of the start limit, and `asked_at` its moment; `held_back` says
    that the job had to wait for that. `unanswered`: the job was asked for, and whether systemd has heard that is not
    known.
    """

    persistent: ClassVar[bool] = True

    job: JobRef | None = None
    query_id: int = 0
    query_time: float = 0.0
    delayed_by_limit: bool = False
    invocation: str = ""
    main_start: int = 0
    restarts: int = 0
    request_unanswered: bool = False


START_VERBS = (JobVerb.START, JobVerb.RESTART)
"""What begins an invocation."""


class JobStep(Step[JobStepState]):
    """A step that is one job of systemd's, judged by its result and by what is there afterwards."""

    verb: ClassVar[JobVerb]

    unit: UnitName = Field(description="The unit to act on.")
    timeout: PositiveSpan | None = Field(
        None, description="How long one try may take; by default the unit's own stop and start time-outs, and 10s."
    )

    def decide(self, unit: Unit) -> Finding:
        """Say, before the job is asked for, whether there is anything to do."""
        raise NotImplementedError

    def judge_done(self, unit: Unit, state: JobStepState) -> Finding:
        """Say what is there after a job that ended `done`."""
        raise NotImplementedError

    def describe_failure(self, unit: Unit) -> str:
        """Say what is known of why the job failed."""
        return describe_exit(unit)

    def check(self, view: HostView, state: JobStepState) -> Finding:
        # The job first, then the unit: looked at the other way round, the unit could be that from before its end.
        result = view.job(state.job) if state.job is not None else None
        unit = view.unit(self.unit)
        if state.request_unanswered and (learned := self._resolve_unanswered(view, unit, state)) is not None:
            return learned
        if state.job is None:
            return (
                find_refusal(unit, self.verb)
                or self._check_socket_start(view, unit)
                or self._check_start_limit(view, unit, state)
            )
        if result is None:
            wake = Wake(units=frozenset({unit.name}))
            return not_yet(Verdict.JOB_TIMEOUT, f"waiting for the {self.verb} job of {unit.name}", wake)
        if result in (JobResult.DONE, JobResult.GONE):
            # Nobody heard how a GONE job ended; what is there afterwards tells.
            return self.judge_done(unit, state)
        return self._judge_failed_job(view, unit, state, result)

    def apply(self, host: Host, state: JobStepState) -> None:
        before = host.unit(self.unit)
        if before.need_daemon_reload and self.verb in START_VERBS:
            # What would be started is not what the unit's file says now.
            host.daemon_reload()
            if host.unit(self.unit).is_untracked:
                return  # By that very reload; the next look says so.
        state.invocation = before.invocation_id
        state.main_start = before.exec_main_start_monotonic
        state.restarts = before.n_restarts
        if self.verb in START_VERBS:
            state.run.first_starts.setdefault(before.name, host.clock.now())
        state.request_unanswered = True  # Where the answer does not come, the next look learns whether it was heard.
        state.job = host.enqueue_job(self.verb, self.unit)
        state.request_unanswered = False
        if self.verb in START_VERBS:
            # An automatic restart may have come between the look and the request: it is not one of what is started now.
            with contextlib.suppress(HostError):
                state.restarts = max(state.restarts, host.unit(self.unit).n_restarts)

    def resume(self, view: HostView, state: JobStepState, *, stopped: bool) -> str:
        if state.job is not None and view.job(state.job) is JobResult.GONE:
            # Taken back, lost in a boot, or done: if what it promised is not there, it is asked for anew.
            there = self.judge_done(view.unit(state.job.unit), state)
            state.job = state.job if there.state is FindingState.HOLDS else None
        return ""

    def time_limit(self, view: HostView) -> float:
        if self.timeout is not None:
            return self.timeout
        unit = view.unit(self.unit, max_age=SHARED_READ_AGE)
        return _seconds(unit.timeout_start_usec) + _seconds(unit.timeout_stop_usec) + TIMEOUT_MARGIN

    def judge_timeout(self, view: HostView, state: JobStepState, last: Finding) -> Finding:
        unit = view.unit(self.unit)
        if state.job is None:
            over = last.verdict if last.verdict is Verdict.START_LIMIT_HIT else Verdict.JOB_TIMEOUT
            return fails(over, f"the {self.verb} was not asked for: {last.reason}", **last.evidence)
        if self.verb in START_VERBS and unit.active_state is ActiveState.ACTIVATING and has_new_invocation(unit, state):
            # It may need longer, and its own TimeoutStartSec= is systemd's to enforce, and the service's to extend.
            return Finding(
                FindingState.STILL_STARTING,
                Verdict.STILL_STARTING,
                f"{unit.name} is {unit.describe()}{describe_awaited(unit)}; it was left alone",
                unit.evidence(),
            )
        return fails(
            Verdict.JOB_TIMEOUT,
            f"the {self.verb} job of {unit.name} did not end in time;"
            f" the unit is {unit.describe()}{describe_awaited(unit)}",
            **unit.evidence(),
        )

    def cancel(self, host: Host, state: JobStepState) -> None:
        if state.job is None and state.request_unanswered:
            raise HostError(f"the {self.verb} of {self.unit} was asked for, and systemd has not answered since")
        if state.job is None:
            return
        unit = host.unit(self.unit)
        # Taking a start back would not end it: it would only fail what waits for it.
        if not (
            self.verb in START_VERBS and unit.active_state is ActiveState.ACTIVATING and has_new_invocation(unit, state)
        ):
            host.cancel_job(state.job)

    def _resolve_unanswered(self, view: HostView, unit: Unit, state: JobStepState) -> Finding | None:
        """Learn of the unit what became of a job whose asking was not answered; None where there is nothing of it.

        The bus keeps the order: a look that is answered comes after the asking was heard, if it was.
        """
        state.request_unanswered = False
        state.job = unit.job_of(self.verb)
        if state.job is not None:
            return self.check(view, state)
        there = self.judge_done(unit, state)
        return there if there.state is FindingState.HOLDS and self.verb is not JobVerb.RELOAD else None

    def _check_socket_start(self, view: HostView, unit: Unit) -> Finding | None:
        """Say that systemd would not open a socket: it refuses while the service behind it runs (socket_start()).

        A restart would close it first. With a service that requires its socket, as docker.service does, it stops both.
        """
        opens = self.verb is JobVerb.RESTART or (self.verb is JobVerb.START and unit.active_state not in UP)
        if not opens or not unit.name.endswith(".socket"):
            return None
        for service in (view.unit(name) for name in unit.triggers if "@" not in name):
            follows = self.verb is JobVerb.RESTART and service.name in unit.propagates_to
            if service.is_running and not follows:
                return fails(
                    Verdict.JOB_FAILED,
                    f"systemd does not open {unit.name} while {service.name} is {service.describe()}; "
                    f"stop {service.name} first",
                    **unit.evidence(),
                )
        return None

    def _check_start_limit(self, view: HostView, unit: Unit, state: JobStepState) -> Finding:
        """Say what there is to do; and do not start into a start limit: systemd would stop it, and then refuse."""
        finding = self.decide(unit)
        if (
            self.verb not in START_VERBS
            or finding.state is not FindingState.TO_DO
            or unit.start_limit_cleared
            or not has_start_limit(unit)
        ):
            return finding
        if not state.query_id:
            state.query_id, state.query_time = state.run.next_query_id(), view.clock.now()
        answer = query_start_budget(view, unit, state.query_id, state.query_time, state.run)
        if answer is None:
            wake = Wake(pending=True)
            return not_yet(finding.verdict, f"counting the starts of {unit.name}", wake, **finding.evidence)
        if (left := answer.value) is None:
            return finding
        facts = {**finding.evidence, "starts": left.evidence()}
        over = format_span(max(1, round(left.expires_in)))
        if left.remaining:
            last = f"; it would be the last one within its start limit ({left.limit})" if left.remaining == 1 else ""
            return replace(finding, reason=finding.reason + last, evidence=facts)
        often = f"{unit.name} was started {left.used} times, and its start limit is {left.limit}"
        if left.certain >= unit.start_limit_burst:
            refused = "stop it, and then refuse to start it" if unit.is_running else "refuse to start it"
            why = f"{often}: systemd would {refused}, so nothing was asked of it"
            return fails(
                Verdict.START_LIMIT_HIT, f"{why}; reset-failed clears the limit, or it is over in {over}", **facts
            )
        if not unit.is_running:
            # Nothing can be lost by asking systemd, which alone knows whether somebody cleared it.
            return replace(finding, reason=f"{finding.reason}; its start limit ({left.limit}) may be used up")
        state.delayed_by_limit = True
        wake = Wake(units=frozenset({unit.name}), within=left.expires_in + 0.01)
        return not_yet(
            Verdict.START_LIMIT_HIT,
            f"{often}: unless somebody cleared that, systemd would stop it, and then refuse to start it; "
            f"it is over in {over}, which is waited for",
            wake,
            **facts,
        )

    def check_once(self, view: HostView, state: JobStepState) -> Finding:
        finding = self.check(view, state)
        if state.job is None and finding.verdict is Verdict.START_LIMIT_HIT and finding.state is FindingState.NOT_YET:
            # It would wait, and then act.
            return to_do(
                Verdict.JOB_DONE, f"{self.verb} {self.unit}, after a wait: {finding.reason}", **finding.evidence
            )
        return finding

    def _judge_failed_job(self, view: HostView, unit: Unit, state: JobStepState, result: JobResult) -> Finding:
        facts = {"job-result": str(result), **unit.evidence()}
        match result:
            case JobResult.CANCELED:
                return fails(
                    Verdict.JOB_CANCELED,
                    f"{_describe_replacing_job(unit, state)} took the place of this {self.verb} of {unit.name}, "
                    f"which is {unit.describe()} now",
                    **facts,
                )
            case JobResult.TIMEOUT:
                return fails(Verdict.JOB_TIMEOUT, f"the {self.verb} job of {unit.name} timed out in systemd", **facts)
            case JobResult.DEPENDENCY:
                why = describe_failed_requirement(view, unit) or f"a unit that {unit.name} needs did not start"
                return fails(Verdict.JOB_DEPENDENCY, f"{why} ({unit.systemctl_command('list-dependencies')})", **facts)
            case JobResult.ASSERT:
                return fails(
                    Verdict.CONDITION_NOT_MET, f"{describe_unmet_conditions(unit, 'an Assert')} does not hold", **facts
                )
        starts = self.verb in START_VERBS
        if starts and is_start_limit_hit(unit) and not has_new_main_process(unit, state):
            return fails(
                Verdict.START_LIMIT_HIT,
                f"systemd refuses to start {unit.name}: too many starts in too short a time; reset-failed clears that",
                **facts,
            )
        verdict = Verdict.NOT_NOTIFYING if starts and has_not_notified(unit) else Verdict.JOB_FAILED
        return fails(verdict, f"the {self.verb} of {unit.name} failed: {self.describe_failure(unit)}", **facts)


def find_refusal(unit: Unit, verb: JobVerb) -> Finding | None:
    """Say why no such job may be asked for at all: the unit is masked, or there is none, or no file any more."""
    if unit.load_state is LoadState.MASKED:
        return fails(
            Verdict.UNIT_MASKED,
            f"{unit.name} is masked, and a mask is not overridden; {unit.systemctl_command('unmask')} lifts it",
            **unit.evidence(),
        )
    if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
        return fails(Verdict.UNIT_NOT_FOUND, f"systemd has no unit {unit.name}", **unit.evidence())
    if unit.load_state is LoadState.NOT_FOUND and verb is JobVerb.RESTART:
        # Refused before anything is stopped: what runs still serves.
        why = f"the file of {unit.name} is gone: systemd cannot start it again, and it still runs"
        return fails(Verdict.UNIT_NOT_FOUND, f"{why} ({unit.describe()})", **unit.evidence())
    if unit.is_untracked and verb in START_VERBS:
        return fails(Verdict.JOB_FAILED, describe_second_process(unit), **unit.evidence())
    if unit.load_state in (LoadState.ERROR, LoadState.BAD_SETTING):
        why = unit.load_error or "its file is wrong"
        return fails(Verdict.JOB_FAILED, f"systemd cannot load {unit.name}: {why}", **unit.evidence())
    return None


def describe_second_process(unit: Unit) -> str:
    """Say that a start would set a rival beside what systemd has lost sight of, and what ends that."""
    start = f"a start would put a second main process beside it, so nothing was asked of {unit.name}"
    return f"{describe_untracked(unit)}; {start}; a `kill-orphan` before this step reloads, and then ends what runs"


def has_new_invocation(unit: Unit, state: JobStepState) -> bool:
    """Whether an invocation began since the job was asked for."""
    return unit.invocation_id not in ("", state.invocation)


def has_new_main_process(unit: Unit, state: JobStepState) -> bool:
    """Whether an invocation began since the job was asked for, with a main process where a service has one."""
    if unit.invocation_id == state.invocation:
        return False
    return not unit.is_service or unit.exec_main_start_monotonic > state.main_start


def judge_start(unit: Unit, state: JobStepState) -> Finding | None:
    """Judge a start that systemd calls done; None where no new invocation is to be seen.

    `done` also covers a start that a Condition skipped, and one whose process died at once.
    """
    if unit.result == "exec-condition":
        why = unit.failed_command or "ExecCondition= ended with a status that says so"
        return fails(Verdict.CONDITION_NOT_MET, f"{unit.name} was not started: its {why}", **unit.evidence())
    if not unit.condition_result:
        return fails(
            Verdict.CONDITION_NOT_MET,
            f"{describe_unmet_conditions(unit, 'a Condition')} does not hold, so systemd skipped the start",
            **unit.evidence(),
        )
    if not has_new_main_process(unit, state):
        return None
    # A start that was asked for sets NRestarts back to 0, but not when it came in the pause before an automatic
    # restart (seen on systemd 252): then the restarts from before are still in it.
    state.run.baseline_restarts[unit.name] = state.restarts if unit.n_restarts >= state.restarts else 0
    state.run.invocations[unit.name] = unit.invocation_id
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    late = ", held back by its start limit" if state.delayed_by_limit else ""
    return holds(Verdict.JOB_DONE, f"new invocation{pid}{late}", **unit.evidence())


def predict_started(unit: Unit) -> Unit:
    """Say what a unit will be after a start that went well, for the plan of what comes after it."""
    return unit if unit.active_state in UP else replace(unit, active_state=ActiveState.ACTIVE, sub_state="running")


def _describe_replacing_job(unit: Unit, state: JobStepState) -> str:
    """Name the job that took the place of this run's: the first that came after it, by its number."""
    mine = state.job.number if state.job else 0
    first = next((one for one in unit.job_requests if one.job > mine), None)
    return f"the job of {describe_requester(first)}" if first and first.requesters else "another job"


def _seconds(usec: int) -> float:
    return MAX_HALF_JOB if usec in (0, USEC_INFINITY) else usec / 1e6
