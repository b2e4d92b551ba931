"""Check a unit and its ports: healthy, not ready yet, or wrong. The questions are asked in this order:

1. Can systemd load the unit?            unit-not-found, unit-masked
2. Does another process hold a port?     orphan-holds-port, port-shared, … after the time that it has to exit
3. Does systemd restart it in a loop?    crash-loop, not-notifying
4. Is it down, and stays so?             unit-failed, unit-exited, start-limit-hit, … (`down_cause`)
5. Is a stop requested?                  unit-changed
6. Is it frozen or stopped?              unit-frozen (`standstill`)
7. Is it active?                         still-starting
8. Does it have a process?               unit-exited (`standstill`)
9. Does it listen on each port?          not-listening
                                         ready

The cause comes before the symptom: a unit that fails because another process has its port is no crash loop.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from runbook.checks.down_cause import find_down_cause
from runbook.checks.exit_reason import describe_awaited, describe_exit, describe_stop_job, has_not_notified
from runbook.checks.foreign_owner import ForeignOwner, find_foreign_owner
from runbook.checks.pid_file import describe_last_read, describe_pid_file
from runbook.checks.standstill import describe_frozen, describe_no_process, describe_standstill
from runbook.host.facts import DOWN, UNLOADABLE, UP, ActiveState, LoadState, Unit
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.host.requesters import UNKNOWN_REQUESTER, JobRequest
from runbook.model import Port, Verdict, Wake, frozen
from runbook.util.timespan import format_span
from runbook.util.wording import ordinal, shorten

DOWN_SETTLE = 0.25
"""Seconds for which a unit must stay down before it counts as down.

Before an automatic restart systemd lets a unit pass through `failed` (systemd issues 20412 and 33710).
"""


@dataclass
class HealthState:
    """What one check leaves to the next. Times are seconds of the monotonic clock."""

    foreign_since: float | None = None  # since when another process holds a port
    down_since: float | None = None  # since when the unit is down
    empty_since: float | None = None  # since when the unit is active without a process
    restarts: int | None = None  # NRestarts when counting began
    last_exit: str = ""  # how the last process that exited did so; kept, because systemd forgets it at the next start
    pid_file: str = ""  # what PIDFile= contained when systemd was last found waiting for it in this start
    not_notified: bool = False  # True if that process had not reported in time that it is ready
    invocation: str = ""  # the invocation that was found last
    other_starts: int = 0  # how often another invocation began that neither this run nor Restart= explains
    start_requester: str = ""  # who requested the last of those starts, in words; empty if unknown
    last_job: int = 0  # the number of the last job that was considered for that
    activation: tuple[tuple[str, str], ...] | None = None  # ActivationDetails when the invocation was found
    other_jobs_seen: int | None = None  # how many jobs of other requesters had ended when the invocation was found
    was_running: bool = False  # True if this invocation was found running
    was_stopped: bool = False  # True if another requester stopped this invocation

    def describe_other_starts(self, unit: Unit) -> str:
        """Return how often another requester started the unit, and which one, if known; empty if none did."""
        if not self.other_starts:
            return ""
        once = self.other_starts == 1
        who = f" ({'' if once else 'last seen: '}{self.start_requester})" if self.start_requester else ""
        times = "once" if once else f"{self.other_starts} times"
        return f"{UNKNOWN_REQUESTER}{who} started {unit.name} again {times} while it was watched"


@frozen
class HealthReport:
    """What a check found."""

    unit: Unit
    ports: tuple[PortOwnership, ...]
    verdict: Verdict  # READY if the unit is healthy
    reason: str
    final: bool = False  # True if waiting will not change it
    recheck_within: float = 1.0  # seconds after which to check again, if nothing happens before
    exit_unknown: bool = False  # True if the unit no longer shows how its last process exited
    final_at: float | None = None  # when it becomes final if nothing changes, in seconds of the monotonic clock

    @property
    def healthy(self) -> bool:
        """True if nothing is missing."""
        return self.verdict is Verdict.READY

    @property
    def sockets(self) -> frozenset[int]:
        """The inodes of all sockets on the ports: they change with any of the sockets."""
        return frozenset[int]().union(*(ownership.sockets for ownership in self.ports))

    def evidence(self) -> dict[str, Any]:
        """Return the facts, of systemd and of the kernel."""
        ports = {"ports": [ownership.evidence() for ownership in self.ports]} if self.ports else {}
        return {**self.unit.evidence(), **ports}

    def wake(self, within: float) -> Wake:
        """Return what could change this: the unit, its main process, the sockets, or the end of the time."""
        held = {holder.process.id for ownership in self.ports for holder in ownership.holders}
        main = frozenset(process for process in held if process.pid == self.unit.main_pid)
        watched = frozenset(ownership.port for ownership in self.ports)
        return Wake(frozenset({self.unit.name}), main, watched, max(0.001, within))


@frozen
class HealthChecker:
    """Checks one unit."""

    view: HostView
    unit: Unit
    ports: Collection[Port]
    baseline_restarts: int | None  # the NRestarts from which restarts are counted, if the run itself started the unit
    max_restarts: int  # how many restarts by systemd are allowed
    state: HealthState = field(default_factory=HealthState)  # what earlier checks left
    own_invocation: str = ""  # the invocation that the run started
    max_age: float = 0.0  # how old an ownership of the ports may be, in seconds; see `HostView.judge_port`
    once: bool = False  # True for a single check: then nothing is given time to change

    @cached_property
    def _seen(self) -> tuple[PortOwnership, ...]:
        return tuple(self.view.judge_port(self.unit, port, max_age=self.max_age) for port in self.ports)

    @cached_property
    def _foreign(self) -> ForeignOwner | None:
        return find_foreign_owner(self.view, self._seen)

    @cached_property
    def _missing_process(self) -> str:
        """The reason why the unit, which is active, needs a process that it does not have; empty if it needs none.

        A Type=forking service needs one. Of other types, RemainAfterExit= may be meant, unless the unit has a port.
        """
        unit = self.unit
        if not unit.is_service or unit.active_state is not ActiveState.ACTIVE:
            return ""
        needs_one = unit.type == "forking" or not all(port.is_owned for port in self._seen)
        return describe_no_process(self.view, unit) if needs_one else ""

    def check(self) -> HealthReport:
        """Update the state, and return the answer to the first question that is not answered well."""
        self._update_state()
        report = self._find_report()
        if self.unit.is_running and not report.healthy:
            self.view.find_open_logs(self.unit)  # Remembered for the advice: its processes may exit at any moment.
        # A unit that is down because its port is taken is shown by what keeps the port.
        return replace(report, reason=report.reason + self._describe_more(report)) if report.final else report

    def _describe_more(self, report: HealthReport) -> str:
        start_failed = report.verdict in (Verdict.UNIT_FAILED, Verdict.CRASH_LOOP, Verdict.START_LIMIT_HIT)
        return self._describe_uses() + (describe_last_read(self.state.pid_file) if start_failed else "")

    def _describe_uses(self) -> str:
        unused = [own for own in self._seen if own.verdict is Verdict.NOT_LISTENING]
        beside = "".join(f"; {own.reason}" for own in unused if own.apart)
        return beside + "".join(self.view.describe_port_uses(self.unit, own.port) for own in unused)

    def _find_report(self) -> HealthReport:
        return (
            self._check_loaded()
            or self._check_holders()
            or self._check_restarts()
            or self._check_down()
            or self._check_stopping()
            or self._check_frozen()
            or self._check_starting()
            or self._check_processes()
            or self._check_listening()
            or self._report_ready()
        )

    def _report(self, verdict: Verdict, reason: str, *, final: bool = False, within: float = 1.0) -> HealthReport:
        return HealthReport(self.unit, self._seen, verdict, reason, final, within)

    # The state, which the questions only read

    def _update_state(self) -> None:
        """Record what this check found, for the questions of this check and of later ones."""
        unit, state = self.unit, self.state
        self._track_other_jobs()
        if self._foreign is None:
            self._track_restarts()
        if _has_exited(unit):
            state.last_exit, state.not_notified = describe_exit(unit), has_not_notified(unit)
        state.pid_file = describe_pid_file(self.view, unit) or ("" if unit.active_state in UP else state.pid_file)
        state.foreign_since = self._find_since(state.foreign_since, self._foreign is not None)
        state.down_since = self._find_since(state.down_since, unit.active_state in DOWN and not unit.job)
        state.empty_since = self._find_since(state.empty_since, bool(self._missing_process))

    def _find_since(self, before: float | None, holds: bool) -> float | None:
        """Return since when a condition holds: the time `before`, or now if it is new; None if it does not hold."""
        if not holds:
            return None
        return self.view.clock.monotonic() if before is None else before

    def _lasts(self, since: float | None, seconds: float) -> bool:
        """True if a condition has held for so long that it will not change by itself. A single check cannot wait."""
        return self.once or (since is not None and self.view.clock.monotonic() - since >= seconds)

    def _track_restarts(self) -> None:
        """Record NRestarts when counting begins. A start that is requested resets it: then it is counted from there."""
        count, state = self.unit.n_restarts, self.state
        if state.restarts is None:
            state.restarts = count if self.baseline_restarts is None else self.baseline_restarts
        state.restarts = min(state.restarts, count)

    def _track_other_jobs(self) -> None:
        """Record starts and stops that neither the run requested nor Restart= explains."""
        unit, state = self.unit, self.state
        if unit.invocation_id and unit.invocation_id != (state.invocation or self.own_invocation):
            self._track_start()
        if unit.is_running:
            state.was_running = True
        elif state.other_jobs_seen is None or not state.was_running:
            state.other_jobs_seen = unit.other_jobs
        elif unit.active_state is ActiveState.INACTIVE and unit.other_jobs > state.other_jobs_seen:
            # The same invocation is down, and a job of another requester ended: a stop.
            state.was_stopped = True

    def _track_start(self) -> None:
        """Record an invocation that is another than before."""
        unit, state = self.unit, self.state
        known = state.restarts if state.restarts is not None else self.baseline_restarts
        # NRestarts counts systemd's own restarts, and any other start resets it.
        by_systemd = known is not None and unit.n_restarts > known
        # A reload or a stop that came after the start did not begin the invocation.
        later = (one for one in reversed(unit.job_requests) if one.job > state.last_job)
        request = next((one for one in later if one.may_start), None)
        if (state.invocation or self.own_invocation) and not by_systemd and not (request and request.is_own):
            state.other_starts += 1
            state.start_requester = self._find_start_requester(request) or state.start_requester
        state.last_job = max((one.job for one in unit.job_requests), default=state.last_job)
        state.invocation, state.activation = unit.invocation_id, unit.activation
        state.other_jobs_seen, state.was_stopped, state.was_running = unit.other_jobs, False, False

    def _find_start_requester(self, request: JobRequest | None) -> str:
        """Return who started the invocation, by the last job before it, or the unit's trigger; empty if unknown."""
        if request and request.requesters:
            return str(request) if request.is_start else ""
        trigger = self.unit.find_trigger(self.state.activation)
        return f"{trigger}, which triggers it" if trigger else ""

    def _check_loaded(self) -> HealthReport | None:
        """Report a unit that cannot be started: then no holder of its ports is in its way."""
        unit = self.unit
        if unit.is_running:
            return None
        if unit.load_state is LoadState.NOT_FOUND:
            reason = unit.describe_not_found(self.view.find_similar_unit(unit.name))
            return self._report(Verdict.UNIT_NOT_FOUND, reason, final=True)
        if unit.load_state is LoadState.MASKED:
            reason = f"{unit.name} is masked ({unit.systemctl_command('unmask')} lifts it)"
            return self._report(Verdict.UNIT_MASKED, reason, final=True)
        if unit.load_state in UNLOADABLE:
            return self._report(Verdict.UNIT_FAILED, unit.describe_unloadable(), final=True)
        return None

    def _check_holders(self) -> HealthReport | None:
        """Report another process on a port; final once it had its time to exit."""
        if self._foreign is None:
            return None
        owner, final = self._foreign.ownership, self._lasts(self.state.foreign_since, self._foreign.grace)
        report = self._report(owner.verdict, owner.reason + self._symptom(), final=final, within=0.1)
        return replace(report, final_at=(self.state.foreign_since or 0.0) + self._foreign.grace)

    def _symptom(self) -> str:
        """Return what another process on its port does to the unit."""
        unit = self.unit
        if unit.active_state is ActiveState.ACTIVE and not unit.n_restarts:
            return ""
        restarts = f", {unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'}" if unit.n_restarts else ""
        ended = f", {describe_exit(unit)}" if unit.exec_main_code else ""
        return f"; {unit.name} is {unit.state}{restarts}{ended}"

    def _check_restarts(self) -> HealthReport | None:
        """Report more restarts by systemd than are allowed; a restart that is due counts as done."""
        unit, state, restarts = self.unit, self.state, self._restarts
        # A single check has no record of an earlier one. In a wait, the next start may have reset what the unit shows.
        not_notified = has_not_notified(unit) if self.once else state.not_notified
        if restarts > self.max_restarts:
            what = f"systemd restarted {unit.name} {'once' if restarts == 1 else f'{restarts} times'}"
        # The pause before the next restart may be an hour.
        elif unit.sub_state == "auto-restart" and not unit.job and (self.once or restarts >= self.max_restarts):
            pause = f" in {format_span(unit.restart_usec / 1e6)}" if unit.restart_usec else ""
            what = f"systemd will restart {unit.name}{pause}"
            what += f", for the {ordinal(restarts + 1)} time" if restarts else ""
        else:
            return None
        verdict = Verdict.NOT_NOTIFYING if not_notified else Verdict.CRASH_LOOP
        reason = f"{what}: {self._describe_last_exit()}{self._describe_endless_loop()}"
        unknown = restarts > self.max_restarts and not self.once and not _has_exited(unit) and not state.last_exit
        # Final, but if the exit is unknown, wait-ready checks again while it looks for the exit in the journal.
        return replace(self._report(verdict, reason, final=True, within=DOWN_SETTLE / 2), exit_unknown=unknown)

    def _check_down(self) -> HealthReport | None:
        """Report a unit that is down, and why; final once it stayed so for a moment."""
        unit, state = self.unit, self.state
        if state.down_since is None:
            return None
        last_exit = self._describe_last_exit() if state.last_exit else describe_exit(unit)
        verdict, reason = find_down_cause(
            self.view, unit, last_exit, was_running=state.was_running, was_stopped=state.was_stopped
        )
        final = self._lasts(state.down_since, DOWN_SETTLE)
        return self._report(verdict, reason, final=final, within=DOWN_SETTLE / 2)

    def _describe_last_exit(self) -> str:
        last_exit = describe_exit(self.unit) if _has_exited(self.unit) else self.state.last_exit
        return last_exit or "its main process keeps exiting"

    def _describe_endless_loop(self) -> str:
        """Return that no start limit will end the loop; empty if one will."""
        unit = self.unit
        if not unit.start_limit_burst or not unit.start_limit_interval_usec:
            return "; it has no start limit, and will be restarted for ever"
        if unit.restart_usec * unit.start_limit_burst > unit.start_limit_interval_usec:
            return "; with its RestartSec= the start limit is never reached, and it will be restarted for ever"
        return ""

    @property
    def _restarts(self) -> int:
        """How often systemd restarted the unit since the run started it, or since the first check."""
        return self.unit.n_restarts - (self.state.restarts or 0)

    def _check_stopping(self) -> HealthReport | None:
        """Report a requested stop: the unit may serve on for as long as TimeoutStopSec=, and then it is down."""
        unit = self.unit
        if unit.active_state is not ActiveState.DEACTIVATING or unit.job_type != "stop":
            return None
        return self._report(Verdict.UNIT_CHANGED, describe_stop_job(unit), final=True)

    def _check_frozen(self) -> HealthReport | None:
        if not self.unit.is_service or not self.unit.is_running:
            return None
        why = describe_frozen(self.view, self.unit) or describe_standstill(self.view, self.unit, self._seen)
        return self._report(Verdict.UNIT_FROZEN, why) if why else None

    def _check_starting(self) -> HealthReport | None:
        unit = self.unit
        if unit.active_state is ActiveState.ACTIVE:
            return None
        status = f", and reports `{shorten(unit.status_text)}`" if unit.status_text else ""
        awaited = describe_awaited(unit) + (f"; {self.state.pid_file}" if unit.awaits_pid_file else "")
        state = f"{unit.name} is {unit.describe()}{awaited}{status}"
        return self._report(Verdict.STILL_STARTING, describe_stop_job(unit) or state)

    def _check_processes(self) -> HealthReport | None:
        """Report an active unit without a process of its own, if it needs one; final once it stayed so for a moment.

        Another unit may open the port for a Type=oneshot, so that is never final.
        """
        if not (why := self._missing_process):
            return None
        final = self.unit.type != "oneshot" and self._lasts(self.state.empty_since, DOWN_SETTLE)
        return self._report(Verdict.UNIT_EXITED, why, final=final, within=DOWN_SETTLE / 2)

    def _check_listening(self) -> HealthReport | None:
        missing = ", ".join(str(ownership.port) for ownership in self._seen if not ownership.is_owned)
        reason = f"{self.unit.name} does not listen on {missing} yet"
        return self._report(Verdict.NOT_LISTENING, reason) if missing else None

    def _report_ready(self) -> HealthReport:
        alone = "; ".join(ownership.reason for ownership in self._seen)
        reason = f"{self.unit.name} is {self.unit.describe()}" + (f"; {alone}" if alone else "")
        return self._report(Verdict.READY, reason)


def _has_exited(unit: Unit) -> bool:
    """True if the unit shows how a process of it exited, or that systemd could not start one."""
    return bool(unit.exec_main_code or unit.failed_command) or unit.result == "resources"
