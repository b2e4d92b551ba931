"""The base of the steps that request a job from systemd: request it once, wait for its end, check the unit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from runbook.actions.job_refusal import START_VERBS, describe_unloadable, find_job_refusal
from runbook.checks.exit_reason import (
    USEC_INFINITY,
    describe_awaited,
    describe_exit,
    describe_unmet_conditions,
    has_not_notified,
    is_start_limit_hit,
)
from runbook.checks.foreign_owner import find_certain_owner, find_port_cause, judge_start_limit
from runbook.checks.pid_file import describe_last_read, describe_pid_file
from runbook.checks.propagation import find_reached
from runbook.checks.requirements import find_failed_requirements
from runbook.checks.standstill import describe_frozen, describe_no_process
from runbook.checks.start_limit import StartBudget, has_start_limit, query_start_budget
from runbook.checks.target_members import add_untouched, find_target_refusal
from runbook.errors import HostError
from runbook.host.facts import UNLOADABLE, UP, ActiveState, JobRef, JobResult, JobVerb, Unit
from runbook.host.interface import SHARED_READ_AGE, Host, HostView
from runbook.host.requesters import describe_requester
from runbook.model import Finding, FindingState, Port, Progress, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import PositiveSpan, UnitName
from runbook.spec.state import StepState
from runbook.spec.step import Step
from runbook.util.timespan import format_span

MAX_HALF_JOB = 600.0  # seconds for the stop and the start of a unit without time-outs: every wait has an end
TIMEOUT_MARGIN = 10.0  # seconds beyond the unit's own time-outs, so that systemd's own result comes first


@dataclass
class JobStepState(StepState):
    """The job, and what the unit was before it."""

    persistent: ClassVar[bool] = True

    job: JobRef | None = None  # the job, once it was requested
    query_id: int = 0  # the number of the query for the starts that the start limit still allows
    query_time: float = 0.0  # when that query was made, in seconds since the epoch
    delayed_by_limit: bool = False  # True if the job had to wait for the start limit
    invocation: str = ""  # the InvocationID before the job
    main_start: int = 0  # ExecMainStartTimestampMonotonic before the job
    restarts: int = 0  # NRestarts before the job
    held_since: float | None = None  # since when another process holds a port of the unit, by the monotonic clock
    pid_file: str = ""  # what PIDFile= contained when systemd was last found waiting for it
    request_unanswered: bool = False  # True if the job was requested, and systemd has not answered


class JobStep(Step[JobStepState]):
    """A step that is one job of systemd, judged by its result and by the state of the unit afterwards."""

    verb: ClassVar[JobVerb]

    unit: UnitName = Field(description="The unit to act on.")
    timeout: PositiveSpan | None = Field(
        None, description="How long one try may take; by default the unit's own stop and start time-outs, and 10s."
    )

    def job_verb(self) -> JobVerb:
        return self.verb

    def decide(self, unit: Unit) -> Finding:
        """Return, before the job is requested, whether there is anything to do."""
        raise NotImplementedError

    def judge_done(self, unit: Unit, state: JobStepState) -> Finding:
        """Return what the unit is after a job that ended `done`."""
        raise NotImplementedError

    def describe_failure(self, unit: Unit) -> str:
        """Return why the job failed, as far as it is known."""
        return describe_exit(unit)

    def check(self, view: HostView, state: JobStepState) -> Finding:
        # The job is read before the unit: in the other order the unit could be read before the end of the job.
        result = view.job(state.job) if state.job is not None else None
        unit = view.unit(self.unit)
        if state.request_unanswered and (finding := self._resolve_request(view, unit, state)) is not None:
            return finding
        if state.job is None:
            return (
                find_job_refusal(view, unit, self.verb)
                or self._check_exit(view, unit)
                or find_target_refusal(view, unit, self.verb)
                or self._check_socket_start(view, unit)
                or self._check_start_limit(view, unit, state)
            )
        if result is None:
            return self._check_ports(view, unit, state)
        if result in (JobResult.DONE, JobResult.GONE):
            # How a GONE job ended was missed; the unit shows it.
            return add_untouched(view, unit, self.verb, self.judge_done(unit, state))
        return self._judge_failed_job(view, unit, state, result)

    def apply(self, host: Host, state: JobStepState) -> None:
        before = host.unit(self.unit)
        if before.need_daemon_reload and self.verb in START_VERBS:
            host.daemon_reload()  # Otherwise systemd would start what the unit's file contained before.
            anew = host.unit(self.unit)
            if anew.load_state in UNLOADABLE:
                # The next check would not report it: systemd may ask for a reload of such a unit again and again.
                raise HostError(describe_unloadable(anew))
            if anew.is_untracked:
                return  # Because of that reload; the next check reports it.
        state.invocation = before.invocation_id
        state.main_start = before.exec_main_start_monotonic
        state.restarts = before.n_restarts
        if self.verb in START_VERBS:
            state.run.first_starts.setdefault(before.name, host.clock.now())
        state.request_unanswered = True  # If no answer comes, the next check finds out whether systemd received it.
        state.job = host.enqueue_job(self.verb, self.unit)
        state.request_unanswered = False
        if self.verb in START_VERBS:
            # An automatic restart between reading and request does not count for the new invocation.
            with contextlib.suppress(HostError):
                state.restarts = max(state.restarts, host.unit(self.unit).n_restarts)

    def resume(self, view: HostView, state: JobStepState, *, stopped: bool) -> str:
        state.held_since = None  # The machine may have been booted since.
        if state.job is not None and view.job(state.job) is JobResult.GONE:
            # Canceled, lost in a boot, or done: if the unit is not what it promised, the job is requested again.
            state.job = state.job if self._judge_trace(view.unit(state.job.unit), state) else None
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
            return fails(over, f"the {self.verb} was not requested: {last.reason}", **last.evidence)
        now = f"{unit.describe()}{_describe_awaited(view, unit, state)}"
        if self._is_starting(unit, state):
            # It may need longer: systemd enforces its TimeoutStartSec=, and the service may extend that.
            reason = f"{unit.name} is {now}; it was left alone"
            return Finding(FindingState.STILL_STARTING, Verdict.STILL_STARTING, reason, unit.evidence())
        reason = f"the {self.verb} job of {unit.name} did not end in time; the unit is {now}"
        return fails(Verdict.JOB_TIMEOUT, reason, **unit.evidence())

    def cancel(self, host: Host, state: JobStepState) -> None:
        if state.job is None and state.request_unanswered:
            raise HostError(f"the {self.verb} of {self.unit} was requested, and systemd has not answered since")
        # To cancel a start would not stop it: it would only fail the jobs that wait for it.
        if state.job is not None and not self._is_starting(host.unit(self.unit), state):
            host.cancel_job(state.job)

    def predict(self, unit: Unit) -> Unit:
        if self.verb not in START_VERBS or unit.active_state in UP:
            return unit
        return replace(unit, active_state=ActiveState.ACTIVE, sub_state="running")

    def _is_starting(self, unit: Unit, state: JobStepState) -> bool:
        """True if the job has begun an invocation, which is not up yet."""
        has_begun = unit.invocation_id not in ("", state.invocation)
        return self.verb in START_VERBS and unit.active_state is ActiveState.ACTIVATING and has_begun

    def _resolve_request(self, view: HostView, unit: Unit, state: JobStepState) -> Finding | None:
        """Find out from the unit what became of a job whose request was not answered; None if there is no trace of it.

        The bus keeps the order: a reading that is answered was made after the request was received, if it was.
        """
        state.request_unanswered = False
        state.job = unit.job_of(self.verb)
        if state.job is not None:
            return self.check(view, state)
        return self._judge_trace(unit, state) if self.verb is not JobVerb.RELOAD else None

    def _judge_trace(self, unit: Unit, state: JobStepState) -> Finding | None:
        """Return that a job whose end was missed is done, if the unit shows it; None if it does not."""
        if self.verb in START_VERBS and not unit.invocation_id:
            return None  # It was not started since the boot.
        finding = self.judge_done(unit, state)
        return finding if finding.state is FindingState.HOLDS else None

    def _check_exit(self, view: HostView, unit: Unit) -> Finding | None:
        """Refuse to start a Type=forking service that is active without a process: systemd would do nothing."""
        down = self.verb is JobVerb.START and unit.type == "forking" and unit.active_state in UP
        if not down or unit.job or not (why := describe_no_process(view, unit)):
            return None
        remedy = "systemd does not start a unit that is active; a `stop` before this step, or a `restart`, helps"
        return fails(Verdict.UNIT_EXITED, f"{why}; {remedy}", **unit.evidence())

    def _check_ports(self, view: HostView, unit: Unit, state: JobStepState) -> Finding:
        """Wait for the end of the job, but not of a start that cannot succeed, because another process has the port."""
        starts = self.verb in START_VERBS and unit.active_state is ActiveState.ACTIVATING
        ports = self._ports(unit, state) if starts and unit.invocation_id not in ("", state.invocation) else ()
        owner = find_certain_owner(view, unit, ports)
        now = view.clock.monotonic()
        state.held_since = (now if state.held_since is None else state.held_since) if owner else None
        if owner and state.held_since is not None and now - state.held_since >= owner.grace:
            why = f"{unit.name} is {unit.describe()} and cannot finish its start: {owner.ownership.reason}"
            facts = {**unit.evidence(), "ports": [owner.ownership.evidence()]}
            return fails(owner.ownership.verdict, f"{why}; its job was left alone", **facts)
        wake = Wake(units=frozenset({unit.name}), ports=frozenset(ports), within=0.25 if owner else 1.0)
        why = _describe_awaited(view, unit, state) if unit.awaits_pid_file else ""
        return not_yet(Verdict.JOB_TIMEOUT, f"waiting for the {self.verb} job of {unit.name}{why}", wake)

    def _check_socket_start(self, view: HostView, unit: Unit) -> Finding | None:
        """Refuse to start a socket while its service runs: systemd would refuse that, too (socket_start()).

        A restart would close the socket first. If the service requires its socket, as docker.service does, a restart
        stops both.
        """
        opens = self.verb is JobVerb.RESTART or (self.verb is JobVerb.START and unit.active_state not in UP)
        if not opens or not unit.name.endswith(".socket"):
            return None
        restarts = [one.unit.name for one in find_reached(view, unit, self.verb) if one.verb is JobVerb.RESTART]
        for service in (view.unit(name) for name in unit.triggers if "@" not in name):
            if service.is_running and service.name not in restarts:
                why = f"systemd does not open {unit.name} while {service.name} is {service.describe()}"
                return fails(Verdict.JOB_FAILED, f"{why}; stop {service.name} first", **unit.evidence())
        return None

    def _check_start_limit(self, view: HostView, unit: Unit, state: JobStepState) -> Finding:
        """Return what is to be done; not a start beyond the start limit: systemd would stop the unit, then refuse."""
        finding = self.decide(unit)
        is_limited = has_start_limit(unit) and not unit.start_limit_cleared
        if self.verb not in START_VERBS or finding.state is not FindingState.TO_DO or not is_limited:
            return finding
        if not state.query_id:
            state.query_id, state.query_time = state.run.next_query_id(), view.clock.now()
        answer = query_start_budget(view, unit, state.query_id, state.query_time, state.run)
        if answer is None:
            wake = Wake(pending=True)
            return not_yet(finding.verdict, f"counting the starts of {unit.name}", wake, **finding.evidence)
        if (budget := answer.value) is None:
            return finding
        if budget.remaining and not (unit.is_running and self._may_wait(view, budget, state)):
            last = (
                f"; it would be the last one within its start limit ({budget.limit})" if budget.remaining == 1 else ""
            )
            facts = {**finding.evidence, "starts": budget.evidence()}
            return replace(finding, reason=finding.reason + last, evidence=facts)
        if budget.certain < unit.start_limit_burst:
            left = self.time_limit(view) - (view.clock.now() - state.query_time)
            return _delay_start(unit, state, budget, finding, left, view.clock.monotonic())
        outcome = "stop it, and then refuse to start it" if unit.is_running else "refuse to start it"
        why = f"{_describe_use(unit, budget)}: systemd would {outcome}, so no job was requested"
        why += f"; reset-failed clears the limit, or it is over in {_format_wait(budget.expires_in)}"
        facts = {**finding.evidence, "starts": budget.evidence()}
        return judge_start_limit(view, unit, self._ports(unit, state), why, facts)

    def _ports(self, unit: Unit, state: JobStepState) -> tuple[Port, ...]:
        return state.run.ports_of(self.unit, *unit.names)

    def _may_wait(self, view: HostView, budget: StartBudget, state: JobStepState) -> bool:
        """True if the limit may be reached, because another program cleared the counter, and a wait rules that out."""
        wait = view.clock.now() - state.query_time
        return 0 < budget.full_for < (self.time_limit(view) - wait) / 2

    def check_once(self, view: HostView, state: JobStepState) -> Finding:
        finding = self.check(view, state)
        if state.job is None and finding.verdict is Verdict.START_LIMIT_HIT and finding.state is FindingState.NOT_YET:
            # The run would wait, and then request the job.
            plan = f"{self.verb} {self.unit}, after a wait: {finding.reason}"
            return to_do(Verdict.JOB_DONE, plan, **finding.evidence)
        return finding

    def _judge_failed_job(self, view: HostView, unit: Unit, state: JobStepState, result: JobResult) -> Finding:
        facts = {"job-result": str(result), **unit.evidence()}
        match result:
            case JobResult.CANCELED:
                why = f"{_describe_replacing_job(unit, state)} took the place of this {self.verb} of {unit.name}"
                return fails(Verdict.JOB_CANCELED, f"{why}, which is {unit.describe()} now", **facts)
            case JobResult.TIMEOUT:
                return fails(Verdict.JOB_TIMEOUT, f"the {self.verb} job of {unit.name} timed out in systemd", **facts)
            case JobResult.DEPENDENCY:
                return _judge_dependency(view, unit, facts)
            case JobResult.ASSERT:
                why = f"{describe_unmet_conditions(unit, 'an Assert')} does not hold"
                return fails(Verdict.CONDITION_NOT_MET, why, **facts)
        starts = self.verb in START_VERBS
        if starts and is_start_limit_hit(unit) and not has_new_main_process(unit, state):
            why = f"systemd refuses to start {unit.name}: too many starts in too short a time"
            return judge_start_limit(view, unit, self._ports(unit, state), f"{why}; reset-failed clears that", facts)
        frozen = describe_frozen(view, unit)  # systemd 256 and later does nothing to such a unit.
        if frozen or result is JobResult.FROZEN:
            frozen = frozen or f"{unit.name} was frozen at that moment, and is not any more"
            return fails(Verdict.UNIT_FROZEN, f"the {self.verb} of {unit.name} failed: {frozen}", **facts)
        because = f"{self.describe_failure(unit)}{describe_last_read(state.pid_file)}"
        why = f"the {self.verb} of {unit.name} failed: {because}"
        if starts and (cause := find_port_cause(view, unit, self._ports(unit, state), why, facts)):
            return cause
        return fails(Verdict.NOT_NOTIFYING if starts and has_not_notified(unit) else Verdict.JOB_FAILED, why, **facts)


def _describe_awaited(view: HostView, unit: Unit, state: JobStepState) -> str:
    """Return what a unit waits for. What PIDFile= contains is remembered: systemd removes it when the start fails."""
    found = describe_pid_file(view, unit)
    state.pid_file = found or state.pid_file
    return describe_awaited(unit) + (f"; {found}" if found else "")


def _judge_dependency(view: HostView, unit: Unit, facts: dict[str, Any]) -> Finding:
    requirements = find_failed_requirements(view, unit, of_job=True)
    unknown = f"a unit that {unit.name} needs did not start ({unit.systemctl_command('list-dependencies')})"
    facts |= {"needs": [one.evidence() for one in requirements]} if requirements else {}
    return fails(Verdict.JOB_DEPENDENCY, "; ".join(map(str, requirements)) or unknown, **facts)


def _delay_start(
    unit: Unit, state: JobStepState, budget: StartBudget, finding: Finding, left: float, now: float
) -> Finding:
    """Delay a start for which nothing may be left of the start limit. If the unit is down, a request does no harm.

    A limit that ends only after the step's time, of which `left` seconds are left, is not waited for: the unit runs on.
    """
    if not unit.is_running:
        # systemd does not show whether the limit was cleared.
        return replace(finding, reason=f"{finding.reason}; its start limit ({budget.limit}) may be used up")
    state.delayed_by_limit = True
    why = f"{_describe_use(unit, budget)}: that may be used up, and a restart now could leave it down"
    expires_in = budget.full_for if budget.remaining else budget.expires_in
    facts = {**finding.evidence, "starts": budget.evidence()}
    if expires_in > left:
        why += f"; so no job was requested: the limit is over in {_format_wait(expires_in)}, and this step may take"
        why += f" {_format_wait(left)} more; reset-failed clears the limit"
        return fails(Verdict.START_LIMIT_HIT, why, **facts)
    wake = Wake(units=frozenset({unit.name}), within=expires_in + 0.01)
    why = f"{why}; the step waits up to {_format_wait(expires_in)}, or until {unit.name} exits"
    progress = Progress(facts=(_describe_use(unit, budget),), opens_at=now + expires_in)
    return replace(not_yet(Verdict.START_LIMIT_HIT, why, wake, **facts), progress=progress)


def _describe_use(unit: Unit, budget: StartBudget) -> str:
    count = len(budget.recent) if budget.remaining else budget.used
    return f"{unit.name} was started {count} times, and its start limit is {budget.limit}"


def _format_wait(seconds: float) -> str:
    return format_span(max(1, round(seconds)))


def has_new_main_process(unit: Unit, state: JobStepState) -> bool:
    """True if an invocation began since the job was requested, with a new main process if the unit has one now.

    Many services have none: SysV scripts, services with GuessMainPID=no or with several daemons, oneshots. Of these
    ExecMainStartTimestamp is 0, or that of an invocation that had a main process.
    """
    if unit.invocation_id == state.invocation:
        return False
    return not unit.main_pid or unit.exec_main_start_monotonic > state.main_start


def judge_start(unit: Unit, state: JobStepState) -> Finding | None:
    """Judge a start that systemd reports as done; None if no new invocation began.

    `done` also covers a start that a Condition skipped, and one whose process exited at once.
    """
    if unit.result == "exec-condition":
        why = unit.failed_command or "ExecCondition= exited with a status that prevents the start"
        return fails(Verdict.CONDITION_NOT_MET, f"{unit.name} was not started: its {why}", **unit.evidence())
    if not unit.condition_result:
        why = f"{describe_unmet_conditions(unit, 'a Condition')} does not hold, so systemd skipped the start"
        return fails(Verdict.CONDITION_NOT_MET, why, **unit.evidence())
    if not has_new_main_process(unit, state):
        return None
    # A requested start resets NRestarts to 0, except during the pause before an automatic restart (seen on systemd
    # 252): then the earlier restarts are still counted.
    state.run.baseline_restarts[unit.name] = state.restarts if unit.n_restarts >= state.restarts else 0
    state.run.invocations[unit.name] = unit.invocation_id
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    delay = ", delayed by its start limit" if state.delayed_by_limit else ""
    return holds(Verdict.JOB_DONE, f"new invocation{pid}{delay}", **unit.evidence())


def _describe_replacing_job(unit: Unit, state: JobStepState) -> str:
    """Return which job replaced that of this run: the first with a higher number."""
    own_number = state.job.number if state.job else 0
    first = next((one for one in unit.job_requests if one.job > own_number), None)
    return f"the job of {describe_requester(first)}" if first and first.requesters else "another job"


def _seconds(usec: int) -> float:
    return MAX_HALF_JOB if usec in (0, USEC_INFINITY) else usec / 1e6
