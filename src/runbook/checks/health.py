"""One look at a unit and its ports: healthy, on its way, or wrong; and what a moment's patience makes of it.

The cause comes before the symptom: a unit that dies because somebody has its port is no crash loop.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from runbook.checks.exit_reason import (
    describe_awaited,
    describe_exit,
    describe_failed_requirement,
    describe_stop_job,
    describe_unmet_conditions,
    has_not_notified,
    is_restart_prevented,
    is_start_limit_hit,
    will_auto_restart,
)
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.host.interface import HostView
from runbook.host.requesters import UNKNOWN_REQUESTER, JobRequest, describe_requester, find_last_stop
from runbook.model import Port, ProcessId, Verdict, Wake
from runbook.util.timespan import format_span
from runbook.util.wording import ordinal, shorten

EXIT_GRACE = 2.0
"""Seconds that a stranger on the port has to go: right after a restart it may be the old process, still ending."""

DOWN_SETTLE = 0.25
"""Seconds for which a unit must stay down before it counts as down.

On its way to an automatic restart systemd lets a unit pass through `failed` (systemd issues 20412 and 33710).
"""


@dataclass
class HealthState:
    """What a look remembers: moments are seconds of the monotonic clock, `restarts` is NRestarts when counting began,
    `ended` how the last process that was seen to end did so, which systemd forgets with the next one; `silent` that it
    had not reported in time that it is ready.

    `invocation` is the one that was seen last, `others` how often somebody else started another, `jobs` how many jobs
    of somebody else's had ended when that was first seen, `up` that it ran then, `stopped` that one stopped it since.
    `starter` is the last of those others of whom anything is known, in words; `told` the number of the last job that
    was looked at for that, `activation` what systemd knew of the unit's trigger then.
    """

    foreign_since: float | None = None
    down_since: float | None = None
    restarts: int | None = None
    last_exit: str = ""
    not_notified: bool = False
    invocation: str = ""
    foreign_starts: int = 0
    start_requester: str = ""
    last_job: int = 0
    activation: tuple[tuple[str, str], ...] | None = None
    other_jobs_seen: int | None = None
    was_running: bool = False
    was_stopped: bool = False

    def describe_foreign_starts(self, unit: Unit) -> str:
        """Say how often somebody else started the unit, and who, as far as that is known; or nothing."""
        if not self.foreign_starts:
            return ""
        once = self.foreign_starts == 1
        who = f" ({'' if once else 'last seen: '}{self.start_requester})" if self.start_requester else ""
        times = "once" if once else f"{self.foreign_starts} times"
        return f"{UNKNOWN_REQUESTER}{who} started {unit.name} again {times} while it was watched"


@dataclass(frozen=True)
class HealthReport:
    """What was seen. `final` says that waiting will not change it; a healthy look has the verdict READY.

    `untold`: the unit does not tell any more how its last process ended.
    """

    unit: Unit
    ports: tuple[PortOwnership, ...]
    verdict: Verdict
    reason: str
    final: bool = False
    recheck_within: float = 1.0
    exit_unknown: bool = False

    @property
    def healthy(self) -> bool:
        """Whether nothing is missing."""
        return self.verdict is Verdict.READY

    @property
    def sockets(self) -> frozenset[int]:
        """The identity of all sockets on the ports."""
        return frozenset[int]().union(*(ownership.sockets for ownership in self.ports))

    def evidence(self) -> dict[str, Any]:
        """Give the facts of both witnesses."""
        facts = self.unit.evidence()
        if self.ports:
            facts["ports"] = [ownership.evidence() for ownership in self.ports]
        return facts

    def wake(self, within: float) -> Wake:
        """Give what could change this: the unit, its main process, the sockets; and the time that is granted."""
        main = frozenset[ProcessId](
            holder.process.id
            for ownership in self.ports
            for holder in ownership.holders
            if holder.process.pid == self.unit.main_pid
        )
        watched = frozenset(ownership.port for ownership in self.ports)
        return Wake(frozenset({self.unit.name}), main, watched, max(0.001, within))


@dataclass(frozen=True)
class HealthChecker:
    """Looks at one unit. `restarts_allowed` by systemd are forgiven.

    `counted_from` is the NRestarts from which they are counted, where the run itself started the unit, `began` the
    invocation that it started.

    Without `patience` what would be waited for a moment counts at once: that is a glance, not a wait.

    That the unit owns its ports may have been found so many seconds before (`recent`); see `HostView.ownership`.
    """

    view: HostView
    unit: Unit
    ports: Collection[Port]
    baseline_restarts: int | None
    max_restarts: int
    state: HealthState | None
    own_invocation: str = ""
    max_age: float = 0.0

    def check(self) -> HealthReport:
        """See who has the ports, whether the unit is down, and what is still missing, in this order."""
        seen = tuple(self.view.judge_port(self.unit, port, max_age=self.max_age) for port in self.ports)
        if self.state:
            self._track_foreign_jobs(self.state)
        return (
            self._check_loaded(seen)
            or self._check_holders(seen)
            or self._check_down(seen)
            or self._check_stopping(seen)
            or self._check_starting(seen)
            or self._report_ready(seen)
        )

    def _track_foreign_jobs(self, patience: HealthState) -> None:
        """Notice starts and stops that neither the run asked for nor systemd's Restart= explains."""
        unit = self.unit
        known = patience.restarts if patience.restarts is not None else self.baseline_restarts
        last = patience.invocation or self.own_invocation
        if unit.invocation_id and unit.invocation_id != last:
            # systemd's own restarts count up, and every other start sets the count back.
            by_itself = known is not None and unit.n_restarts > known
            # A reload or a stop that came after the start did not begin it.
            later = (one for one in reversed(unit.job_requests) if one.job > patience.last_job)
            asked = next((one for one in later if one.may_start), None)
            if last and not by_itself and not (asked and asked.is_own):
                patience.foreign_starts += 1
                patience.start_requester = self._find_start_requester(patience, asked) or patience.start_requester
            patience.last_job = max((one.job for one in unit.job_requests), default=patience.last_job)
            patience.activation = unit.activation
            patience.invocation = unit.invocation_id
            patience.other_jobs_seen, patience.was_stopped, patience.was_running = unit.other_jobs, False, False
        if unit.is_running:
            patience.was_running = True
        elif patience.other_jobs_seen is None or not patience.was_running:
            patience.other_jobs_seen = unit.other_jobs
        elif unit.active_state is ActiveState.INACTIVE and unit.other_jobs > patience.other_jobs_seen:
            # In the same invocation, and it is down: what ended was a stop.
            patience.was_stopped = True

    def _find_start_requester(self, patience: HealthState, asked: JobRequest | None) -> str:
        """Say who began the invocation, by the last job before it, or by what triggers the unit; nothing if unknown."""
        if asked and asked.requesters:
            return str(asked) if asked.is_start else ""
        trigger = self.unit.find_trigger(patience.activation)
        return f"{trigger}, which triggers it" if trigger else ""

    def _check_loaded(self, seen: tuple[PortOwnership, ...]) -> HealthReport | None:
        """Say that there is nothing to start: whoever has its ports is in nobody's way then."""
        unit = self.unit
        if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
            reason = unit.describe_not_found(self.view.find_similar_unit(unit.name))
            return HealthReport(unit, seen, Verdict.UNIT_NOT_FOUND, reason, final=True)
        if unit.load_state is LoadState.MASKED and not unit.is_running:
            reason = f"{unit.name} is masked ({unit.systemctl_command('unmask')} lifts it)"
            return HealthReport(unit, seen, Verdict.UNIT_MASKED, reason, final=True)
        return None

    def _check_holders(self, seen: tuple[PortOwnership, ...]) -> HealthReport | None:
        bad = next((o for o in seen if o.foreign_holders or o.verdict is Verdict.OWNER_UNKNOWN), None)
        if bad is None:
            if self.state:
                self.state.foreign_since = None
            return None
        granted = max((self._exit_grace(holder) for holder in bad.foreign_holders), default=EXIT_GRACE)
        final = True
        if self.state:
            now = self.view.clock.monotonic()
            if self.state.foreign_since is None:
                self.state.foreign_since = now
            final = now - self.state.foreign_since >= granted
        return HealthReport(self.unit, seen, bad.verdict, bad.reason + self._symptom(), final, recheck_within=0.1)

    def _exit_grace(self, holder: Holder) -> float:
        """Give how long a stranger on the port may still take to go, in seconds."""
        if holder.role is not Role.OTHER_UNIT:
            return EXIT_GRACE
        if not holder.unit.endswith(".service"):
            return 0.0
        other = self.view.unit(holder.unit)
        return other.timeout_stop_usec / 1e6 if other.active_state is ActiveState.DEACTIVATING else 0.0

    def _symptom(self) -> str:
        """Say what a stranger on its port does to the unit."""
        unit = self.unit
        if unit.active_state is ActiveState.ACTIVE and not unit.n_restarts:
            return ""
        restarts = f", {unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'}" if unit.n_restarts else ""
        ended = f", {describe_exit(unit)}" if unit.exec_main_code else ""
        return f"; {unit.name} is {unit.state}{restarts}{ended}"

    def _check_down(self, seen: tuple[PortOwnership, ...]) -> HealthReport | None:
        """Say that the unit is not coming up."""
        unit = self.unit

        def wrong(verdict: Verdict, reason: str, *, final: bool = True) -> HealthReport:
            return HealthReport(unit, seen, verdict, reason, final, recheck_within=DOWN_SETTLE / 2)

        restarts = self._restarts()
        # In the pause before it the next restart is as good as done, and the pause may be an hour.
        coming = unit.sub_state == "auto-restart" and not unit.job
        if self.state and _has_exited(unit):
            self.state.last_exit, self.state.not_notified = describe_exit(unit), has_not_notified(unit)
        silent = self.state.not_notified if self.state else has_not_notified(unit)
        loops = Verdict.NOT_NOTIFYING if silent else Verdict.CRASH_LOOP
        if restarts > self.max_restarts:
            times = "once" if restarts == 1 else f"{restarts} times"
            look = wrong(
                loops,
                f"systemd restarted {unit.name} {times}: {self._describe_last_exit()}{self._describe_endless_loop()}",
            )
            return replace(
                look, exit_unknown=not _has_exited(unit) and self.state is not None and not self.state.last_exit
            )
        if coming and (self.state is None or restarts + 1 > self.max_restarts):
            pause = f" in {format_span(unit.restart_usec / 1e6)}" if unit.restart_usec else ""
            again = f", for the {ordinal(restarts + 1)} time" if restarts else ""
            return wrong(
                loops,
                f"systemd will restart {unit.name}{pause}{again}:"
                f" {self._describe_last_exit()}{self._describe_endless_loop()}",
            )
        if unit.active_state not in (ActiveState.FAILED, ActiveState.INACTIVE) or unit.job:
            if self.state:
                self.state.down_since = None
            return None
        return wrong(*self._find_down_cause(), final=self._stays_down())

    def _describe_last_exit(self) -> str:
        """Say how the last process ended."""
        seen = self.state.last_exit if self.state else ""
        return describe_exit(self.unit) if _has_exited(self.unit) else seen or "its main process keeps exiting"

    def _describe_endless_loop(self) -> str:
        """Say that the start limit will never end the loop, where its pauses alone take too long for that."""
        unit = self.unit
        if not unit.start_limit_burst or not unit.start_limit_interval_usec:
            return "; it has no start limit, and will be restarted for ever"
        if unit.restart_usec * unit.start_limit_burst > unit.start_limit_interval_usec:
            return "; with its RestartSec= the start limit is never reached, and it will be restarted for ever"
        return ""

    def _restarts(self) -> int:
        """Count the restarts by systemd, since the run started the unit or else since this wait began.

        NRestarts goes back with every start that somebody asked for: then it is counted from there.
        """
        count = self.unit.n_restarts
        if self.state is None:
            return 0 if self.baseline_restarts is None else max(0, count - self.baseline_restarts)
        if self.state.restarts is None:
            self.state.restarts = count if self.baseline_restarts is None else self.baseline_restarts
        self.state.restarts = min(self.state.restarts, count)
        return count - self.state.restarts

    def _stays_down(self) -> bool:
        if self.state is None:
            return True
        now = self.view.clock.monotonic()
        if self.state.down_since is None:
            self.state.down_since = now
        return now - self.state.down_since >= DOWN_SETTLE

    def _find_down_cause(self) -> tuple[Verdict, str]:
        unit = self.unit
        if unit.result == "exec-condition":
            why = unit.failed_command or "ExecCondition= ended with a status that says so"
            return Verdict.CONDITION_NOT_MET, f"{unit.name} was not started: its {why}"
        if not unit.condition_result or not unit.assert_result:
            return (
                Verdict.CONDITION_NOT_MET,
                f"{describe_unmet_conditions(unit, 'a Condition or Assert')} does not hold",
            )
        if unit.active_state is ActiveState.INACTIVE and self._was_stopped():
            return (
                Verdict.UNIT_CHANGED,
                f"{describe_requester(find_last_stop(unit.job_requests))} stopped {unit.name} while it was watched",
            )
        if unit.active_state is ActiveState.INACTIVE:
            if why := "" if unit.invocation_id else describe_failed_requirement(self.view, unit):
                return Verdict.JOB_DEPENDENCY, f"{unit.name} is down: {why}"
            ended = self._describe_last_exit() if self.state and self.state.last_exit else describe_exit(unit)
            return Verdict.UNIT_EXITED, f"{unit.name} is down: {ended}{_describe_oneshot(unit)}"
        if has_not_notified(unit):
            return Verdict.NOT_NOTIFYING, f"{unit.name} failed: {describe_exit(unit)}"
        if unit.name.endswith(".socket") and is_start_limit_hit(unit):
            behind = " and ".join(unit.triggers) or "the service behind it"
            reason = f"systemd closed {unit.name}, because {behind} was started too often: {describe_exit(unit)}"
            return Verdict.START_LIMIT_HIT, reason
        if is_start_limit_hit(unit):
            limit = f"{unit.start_limit_burst} in {unit.start_limit_interval_usec / 1e6:g}s"
            return (
                Verdict.START_LIMIT_HIT,
                f"systemd gave {unit.name} up, its starts ({limit}) are used up: {describe_exit(unit)}",
            )
        quiet = (
            "; RestartPreventExitStatus= names that, so systemd leaves it down" if is_restart_prevented(unit) else ""
        )
        return Verdict.UNIT_FAILED, f"{unit.name} failed: {describe_exit(unit)}{quiet}"

    def _was_stopped(self) -> bool:
        """Whether a request stopped it: a job of somebody else's, or an end after which Restart= would restart it."""
        unit = self.unit
        asked = unit.exec_main_code and unit.restart != "on-success" and will_auto_restart(unit)
        return bool(self.state and self.state.was_running and (self.state.was_stopped or asked))

    def _check_stopping(self, seen: tuple[PortOwnership, ...]) -> HealthReport | None:
        """Say that somebody has asked for its stop: it goes on serving until then, for as long as TimeoutStopSec=."""
        unit = self.unit
        if unit.active_state is not ActiveState.DEACTIVATING or unit.job_type != "stop":
            return None
        return HealthReport(unit, seen, Verdict.UNIT_CHANGED, describe_stop_job(unit), final=True)

    def _check_starting(self, seen: tuple[PortOwnership, ...]) -> HealthReport | None:
        """Say what is still missing."""
        unit = self.unit
        if unit.active_state is not ActiveState.ACTIVE:
            if again := describe_stop_job(unit):
                return HealthReport(unit, seen, Verdict.STILL_STARTING, again)
            says = f", and says `{shorten(unit.status_text)}`" if unit.status_text else ""
            return HealthReport(
                unit, seen, Verdict.STILL_STARTING, f"{unit.name} is {unit.describe()}{describe_awaited(unit)}{says}"
            )
        missing = [str(ownership.port) for ownership in seen if not ownership.is_owned]
        if missing:
            reason = f"{unit.name} does not listen on {', '.join(missing)} yet"
            return HealthReport(unit, seen, Verdict.NOT_LISTENING, reason)
        return None

    def _report_ready(self, seen: tuple[PortOwnership, ...]) -> HealthReport:
        alone = "; ".join(ownership.reason for ownership in seen)
        reason = f"{self.unit.name} is {self.unit.describe()}" + (f"; {alone}" if alone else "")
        return HealthReport(self.unit, seen, Verdict.READY, reason)


def _has_exited(unit: Unit) -> bool:
    """Whether a process of the unit has come to its end that is worth telling."""
    return bool(unit.exec_main_code or unit.failed_command)


def _describe_oneshot(unit: Unit) -> str:
    """Say that a unit cannot be waited for: once it has done its work it is down."""
    if unit.type == "oneshot" and not unit.remain_after_exit and unit.result == "success":
        return "; a Type=oneshot without RemainAfterExit= is down once its work is done, and is not to be waited for"
    return ""
