"""One look at a unit and its ports: healthy, on its way, or wrong; and what a moment's patience makes of it.

The cause comes before the symptom: a unit that dies because somebody has its port is no crash loop.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from runbook.checks.exit_reason import (
    awaited,
    being_stopped,
    gave_up_starting,
    how_it_ended,
    needs,
    never_notified,
    restart_prevented,
    restarts_by_itself,
    unmet,
)
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.host.interface import HostView
from runbook.host.requesters import SOMEBODY, Asked, last_stop, somebody
from runbook.model import Port, ProcessId, Verdict, Wake
from runbook.util.timespan import format_span
from runbook.util.wording import ordinal, shown

ON_ITS_WAY_OUT = 2.0
"""Seconds that a stranger on the port has to go: right after a restart it may be the old process, still ending."""

SETTLE = 0.25
"""Seconds for which a unit must stay down before it counts as down.

On its way to an automatic restart systemd lets a unit pass through `failed` (systemd issues 20412 and 33710).
"""


@dataclass
class Patience:
    """What a look remembers: moments are seconds of the monotonic clock, `restarts` is NRestarts when counting began,
    `ended` how the last process that was seen to end did so, which systemd forgets with the next one; `silent` that it
    had not reported in time that it is ready.

    `invocation` is the one that was seen last, `others` how often somebody else started another, `jobs` how many jobs
    of somebody else's had ended when that was first seen, `up` that it ran then, `stopped` that one stopped it since.
    `starter` is the last of those others of whom anything is known, in words; `told` the number of the last job that
    was looked at for that, `activation` what systemd knew of the unit's trigger then.
    """

    stranger_since: float | None = None
    down_since: float | None = None
    restarts: int | None = None
    ended: str = ""
    silent: bool = False
    invocation: str = ""
    others: int = 0
    starter: str = ""
    told: int = 0
    activation: tuple[tuple[str, str], ...] | None = None
    jobs: int | None = None
    up: bool = False
    stopped: bool = False

    def others_told(self, unit: Unit) -> str:
        """Say how often somebody else started the unit, and who, as far as that is known; or nothing."""
        if not self.others:
            return ""
        once = self.others == 1
        who = f" ({'' if once else 'last seen: '}{self.starter})" if self.starter else ""
        times = "once" if once else f"{self.others} times"
        return f"{SOMEBODY}{who} started {unit.name} again {times} while it was watched"


@dataclass(frozen=True)
class Look:
    """What was seen. `final` says that waiting will not change it; a healthy look has the verdict READY.

    `untold`: the unit does not tell any more how its last process ended.
    """

    unit: Unit
    ports: tuple[PortOwnership, ...]
    verdict: Verdict
    reason: str
    final: bool = False
    again_within: float = 1.0
    untold: bool = False

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
class Looker:
    """Looks at one unit. `restarts_allowed` by systemd are forgiven.

    `counted_from` is the NRestarts from which they are counted, where the run itself started the unit, `began` the
    invocation that it started.

    Without `patience` what would be waited for a moment counts at once: that is a glance, not a wait.

    That the unit owns its ports may have been found so many seconds before (`recent`); see `HostView.ownership`.
    """

    view: HostView
    unit: Unit
    ports: Collection[Port]
    counted_from: int | None
    restarts_allowed: int
    patience: Patience | None
    began: str = ""
    recent: float = 0.0

    def look(self) -> Look:
        """See who has the ports, whether the unit is down, and what is still missing, in this order."""
        seen = tuple(self.view.ownership(self.unit, port, recent=self.recent) for port in self.ports)
        if self.patience:
            self._somebody_else(self.patience)
        return (
            self._absent(seen)
            or self._stranger(seen)
            or self._down(seen)
            or self._stopping(seen)
            or self._starting(seen)
            or self._ready(seen)
        )

    def _somebody_else(self, patience: Patience) -> None:
        """Notice starts and stops that neither the run asked for nor systemd's Restart= explains."""
        unit = self.unit
        known = patience.restarts if patience.restarts is not None else self.counted_from
        last = patience.invocation or self.began
        if unit.invocation_id and unit.invocation_id != last:
            # systemd's own restarts count up, and every other start sets the count back.
            by_itself = known is not None and unit.n_restarts > known
            # A reload or a stop that came after the start did not begin it.
            later = (one for one in reversed(unit.asked) if one.job > patience.told)
            asked = next((one for one in later if one.may_start), None)
            if last and not by_itself and not (asked and asked.own):
                patience.others += 1
                patience.starter = self._starter(patience, asked) or patience.starter
            patience.told = max((one.job for one in unit.asked), default=patience.told)
            patience.activation = unit.activation
            patience.invocation = unit.invocation_id
            patience.jobs, patience.stopped, patience.up = unit.other_jobs, False, False
        if unit.runs:
            patience.up = True
        elif patience.jobs is None or not patience.up:
            patience.jobs = unit.other_jobs
        elif unit.active_state is ActiveState.INACTIVE and unit.other_jobs > patience.jobs:
            # In the same invocation, and it is down: what ended was a stop.
            patience.stopped = True

    def _starter(self, patience: Patience, asked: Asked | None) -> str:
        """Say who began the invocation, by the last job before it, or by what triggers the unit; nothing if unknown."""
        if asked and asked.askers:
            return str(asked) if asked.starts else ""
        trigger = self.unit.triggered_since(patience.activation)
        return f"{trigger}, which triggers it" if trigger else ""

    def _absent(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        """Say that there is nothing to start: whoever has its ports is in nobody's way then."""
        unit = self.unit
        if unit.load_state is LoadState.NOT_FOUND and not unit.runs:
            reason = unit.unknown(self.view.near(unit.name))
            return Look(unit, seen, Verdict.UNIT_NOT_FOUND, reason, final=True)
        if unit.load_state is LoadState.MASKED and not unit.runs:
            reason = f"{unit.name} is masked ({unit.command('unmask')} lifts it)"
            return Look(unit, seen, Verdict.UNIT_MASKED, reason, final=True)
        return None

    def _stranger(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        bad = next((o for o in seen if o.strangers or o.verdict is Verdict.OWNER_UNKNOWN), None)
        if bad is None:
            if self.patience:
                self.patience.stranger_since = None
            return None
        granted = max((self._time_to_go(holder) for holder in bad.strangers), default=ON_ITS_WAY_OUT)
        final = True
        if self.patience:
            now = self.view.clock.monotonic()
            if self.patience.stranger_since is None:
                self.patience.stranger_since = now
            final = now - self.patience.stranger_since >= granted
        return Look(self.unit, seen, bad.verdict, bad.reason + self._symptom(), final, again_within=0.1)

    def _time_to_go(self, holder: Holder) -> float:
        """Give how long a stranger on the port may still take to go, in seconds."""
        if holder.role is not Role.OTHER_UNIT:
            return ON_ITS_WAY_OUT
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
        ended = f", {how_it_ended(unit)}" if unit.exec_main_code else ""
        return f"; {unit.name} is {unit.state}{restarts}{ended}"

    def _down(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        """Say that the unit is not coming up."""
        unit = self.unit

        def wrong(verdict: Verdict, reason: str, *, final: bool = True) -> Look:
            return Look(unit, seen, verdict, reason, final, again_within=SETTLE / 2)

        restarts = self._restarts()
        # In the pause before it the next restart is as good as done, and the pause may be an hour.
        coming = unit.sub_state == "auto-restart" and not unit.job
        if self.patience and _ended(unit):
            self.patience.ended, self.patience.silent = how_it_ended(unit), never_notified(unit)
        silent = self.patience.silent if self.patience else never_notified(unit)
        loops = Verdict.NOT_NOTIFYING if silent else Verdict.CRASH_LOOP
        if restarts > self.restarts_allowed:
            times = "once" if restarts == 1 else f"{restarts} times"
            look = wrong(loops, f"systemd restarted {unit.name} {times}: {self._last_end()}{self._endless()}")
            return replace(look, untold=not _ended(unit) and self.patience is not None and not self.patience.ended)
        if coming and (self.patience is None or restarts + 1 > self.restarts_allowed):
            pause = f" in {format_span(unit.restart_usec / 1e6)}" if unit.restart_usec else ""
            again = f", for the {ordinal(restarts + 1)} time" if restarts else ""
            return wrong(loops, f"systemd will restart {unit.name}{pause}{again}: {self._last_end()}{self._endless()}")
        if unit.active_state not in (ActiveState.FAILED, ActiveState.INACTIVE) or unit.job:
            if self.patience:
                self.patience.down_since = None
            return None
        return wrong(*self._why_down(), final=self._stays_down())

    def _last_end(self) -> str:
        """Say how the last process ended."""
        seen = self.patience.ended if self.patience else ""
        return how_it_ended(self.unit) if _ended(self.unit) else seen or "its main process keeps ending"

    def _endless(self) -> str:
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
        if self.patience is None:
            return 0 if self.counted_from is None else max(0, count - self.counted_from)
        if self.patience.restarts is None:
            self.patience.restarts = count if self.counted_from is None else self.counted_from
        self.patience.restarts = min(self.patience.restarts, count)
        return count - self.patience.restarts

    def _stays_down(self) -> bool:
        if self.patience is None:
            return True
        now = self.view.clock.monotonic()
        if self.patience.down_since is None:
            self.patience.down_since = now
        return now - self.patience.down_since >= SETTLE

    def _why_down(self) -> tuple[Verdict, str]:
        unit = self.unit
        if unit.result == "exec-condition":
            why = unit.broke or "ExecCondition= ended with a status that says so"
            return Verdict.CONDITION_NOT_MET, f"{unit.name} was not started: its {why}"
        if not unit.condition_result or not unit.assert_result:
            return Verdict.CONDITION_NOT_MET, f"{unmet(unit, 'a Condition or Assert')} does not hold"
        if unit.active_state is ActiveState.INACTIVE and self._was_stopped():
            return Verdict.UNIT_CHANGED, f"{somebody(last_stop(unit.asked))} stopped {unit.name} while it was watched"
        if unit.active_state is ActiveState.INACTIVE:
            if why := "" if unit.invocation_id else needs(self.view, unit):
                return Verdict.JOB_DEPENDENCY, f"{unit.name} is down: {why}"
            ended = self._last_end() if self.patience and self.patience.ended else how_it_ended(unit)
            return Verdict.UNIT_EXITED, f"{unit.name} is down: {ended}{_never_up(unit)}"
        if never_notified(unit):
            return Verdict.NOT_NOTIFYING, f"{unit.name} failed: {how_it_ended(unit)}"
        if unit.name.endswith(".socket") and gave_up_starting(unit):
            behind = " and ".join(unit.triggers) or "the service behind it"
            reason = f"systemd closed {unit.name}, because {behind} was started too often: {how_it_ended(unit)}"
            return Verdict.START_LIMIT_HIT, reason
        if gave_up_starting(unit):
            limit = f"{unit.start_limit_burst} in {unit.start_limit_interval_usec / 1e6:g}s"
            return (
                Verdict.START_LIMIT_HIT,
                f"systemd gave {unit.name} up, its starts ({limit}) are used up: {how_it_ended(unit)}",
            )
        quiet = "; RestartPreventExitStatus= names that, so systemd leaves it down" if restart_prevented(unit) else ""
        return Verdict.UNIT_FAILED, f"{unit.name} failed: {how_it_ended(unit)}{quiet}"

    def _was_stopped(self) -> bool:
        """Whether a request stopped it: a job of somebody else's, or an end after which Restart= would restart it."""
        unit = self.unit
        asked = unit.exec_main_code and unit.restart != "on-success" and restarts_by_itself(unit)
        return bool(self.patience and self.patience.up and (self.patience.stopped or asked))

    def _stopping(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        """Say that somebody has asked for its stop: it goes on serving until then, for as long as TimeoutStopSec=."""
        unit = self.unit
        if unit.active_state is not ActiveState.DEACTIVATING or unit.job_type != "stop":
            return None
        return Look(unit, seen, Verdict.UNIT_CHANGED, being_stopped(unit), final=True)

    def _starting(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        """Say what is still missing."""
        unit = self.unit
        if unit.active_state is not ActiveState.ACTIVE:
            if again := being_stopped(unit):
                return Look(unit, seen, Verdict.STILL_STARTING, again)
            says = f", and says `{shown(unit.status_text)}`" if unit.status_text else ""
            return Look(unit, seen, Verdict.STILL_STARTING, f"{unit.name} is {unit.describe()}{awaited(unit)}{says}")
        missing = [str(ownership.port) for ownership in seen if not ownership.owned]
        if missing:
            reason = f"{unit.name} does not listen on {', '.join(missing)} yet"
            return Look(unit, seen, Verdict.NOT_LISTENING, reason)
        return None

    def _ready(self, seen: tuple[PortOwnership, ...]) -> Look:
        alone = "; ".join(ownership.reason for ownership in seen)
        reason = f"{self.unit.name} is {self.unit.describe()}" + (f"; {alone}" if alone else "")
        return Look(self.unit, seen, Verdict.READY, reason)


def _ended(unit: Unit) -> bool:
    """Whether a process of the unit has come to its end that is worth telling."""
    return bool(unit.exec_main_code or unit.broke)


def _never_up(unit: Unit) -> str:
    """Say that a unit cannot be waited for: once it has done its work it is down."""
    if unit.type == "oneshot" and not unit.remain_after_exit and unit.result == "success":
        return "; a Type=oneshot without RemainAfterExit= is down once its work is done, and is not to be waited for"
    return ""
