"""One look at a unit and its ports: healthy, on its way, or wrong; and what a moment's patience makes of it.

The cause comes before the symptom: a unit that dies because somebody has its port is no crash loop.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from runbook.host.facts import ActiveState, Holder, LoadState, PortOwnership, Role, Unit
from runbook.host.ports import HostView
from runbook.jobs import gave_up_starting, how_it_ended
from runbook.model import Port, ProcessId, Verdict, Wake

ON_ITS_WAY_OUT = 2.0
"""Seconds that a stranger on the port has to go: right after a restart it may be the old process, still ending."""

SETTLE = 0.25
"""Seconds for which a unit must stay down before it counts as down.

On its way to an automatic restart systemd lets a unit pass through `failed` (systemd issues 20412 and 33710).
"""


@dataclass
class Patience:
    """What a look remembers: moments are seconds of the monotonic clock, `restarts` is NRestarts when counting began,
    `ended` how the last process that was seen to end did so, which systemd forgets with the next one."""

    stranger_since: float | None = None
    down_since: float | None = None
    restarts: int | None = None
    ended: str = ""


@dataclass(frozen=True)
class Look:
    """What was seen. `final` says that waiting will not change it; a healthy look has the verdict READY."""

    unit: Unit
    ports: tuple[PortOwnership, ...]
    verdict: Verdict
    reason: str
    final: bool = False
    again_within: float = 1.0

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

    `counted_from` is the NRestarts from which they are counted, where the run itself started the unit.

    Without `patience` what would be waited for a moment counts at once: that is a glance, not a wait.
    """

    view: HostView
    unit: Unit
    ports: Collection[Port]
    counted_from: int | None
    restarts_allowed: int
    patience: Patience | None

    def look(self) -> Look:
        """See who has the ports, whether the unit is down, and what is still missing, in this order."""
        seen = tuple(self.view.ownership(self.unit, port) for port in self.ports)
        return self._stranger(seen) or self._down(seen) or self._starting(seen) or self._ready(seen)

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
        return f"; {unit.name} is {unit.active_state} ({unit.sub_state}){restarts}{ended}"

    def _down(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        """Say that the unit is not coming up."""
        unit = self.unit

        def wrong(verdict: Verdict, reason: str, *, final: bool = True) -> Look:
            return Look(unit, seen, verdict, reason, final, again_within=SETTLE / 2)

        if unit.load_state is LoadState.NOT_FOUND and not unit.runs:
            return wrong(Verdict.UNIT_NOT_FOUND, f"systemd knows no unit {unit.name}")
        if unit.load_state is LoadState.MASKED and not unit.runs:
            return wrong(Verdict.UNIT_MASKED, f"{unit.name} is masked (systemctl unmask {unit.name} lifts it)")
        restarts = self._restarts()
        if self.patience and unit.exec_main_code:
            self.patience.ended = how_it_ended(unit)
        if restarts > self.restarts_allowed:
            times = "once" if restarts == 1 else f"{restarts} times"
            return wrong(Verdict.CRASH_LOOP, f"systemd restarted {unit.name} {times}: {self._last_end()}")
        if self.patience is None and unit.sub_state.startswith("auto-restart"):
            return wrong(Verdict.CRASH_LOOP, f"{unit.name} waits to be restarted by systemd: {self._last_end()}")
        if unit.active_state not in (ActiveState.FAILED, ActiveState.INACTIVE) or unit.job:
            if self.patience:
                self.patience.down_since = None
            return None
        return wrong(*self._why_down(), final=self._stays_down())

    def _last_end(self) -> str:
        """Say how the last process ended, and where to read why."""
        seen = self.patience.ended if self.patience else ""
        ended = how_it_ended(self.unit) if self.unit.exec_main_code else seen or "its main process keeps ending"
        return f"{ended} (journalctl -u {self.unit.name} -n 20)"

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
        if not unit.condition_result or not unit.assert_result:
            return Verdict.CONDITION_NOT_MET, f"a Condition or Assert of {unit.name} does not hold"
        if unit.active_state is ActiveState.INACTIVE:
            return Verdict.UNIT_EXITED, f"{unit.name} is down: {how_it_ended(unit)}"
        if gave_up_starting(unit):
            limit = f"{unit.start_limit_burst} in {unit.start_limit_interval_usec / 1e6:g}s"
            return (
                Verdict.START_LIMIT_HIT,
                f"systemd gave {unit.name} up, its starts ({limit}) are used up: {how_it_ended(unit)}",
            )
        return Verdict.UNIT_FAILED, f"{unit.name} failed: {how_it_ended(unit)}"

    def _starting(self, seen: tuple[PortOwnership, ...]) -> Look | None:
        """Say what is still missing."""
        unit = self.unit
        if unit.active_state is not ActiveState.ACTIVE:
            return Look(unit, seen, Verdict.STILL_STARTING, f"{unit.name} is {unit.describe()}")
        missing = [str(ownership.port) for ownership in seen if not ownership.owned]
        if missing:
            reason = f"{unit.name} does not listen on {', '.join(missing)} yet"
            return Look(unit, seen, Verdict.NOT_LISTENING, reason)
        return None

    def _ready(self, seen: tuple[PortOwnership, ...]) -> Look:
        alone = "; ".join(ownership.reason for ownership in seen)
        reason = f"{self.unit.name} is {self.unit.describe()}" + (f"; {alone}" if alone else "")
        return Look(self.unit, seen, Verdict.READY, reason)
