"""Kill a whole cgroup at once, where its processes change their PIDs faster than they can be read.

A unit that is down may have left processes in its cgroup that fork and exit within milliseconds: each reading finds
other PIDs, and a signal to one of them comes too late. systemd's `kill --signal=KILL` of the unit reaches all of them.
`kill-orphan` uses it only with `leftovers: true`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Role, SignalResult
from runbook.host.interface import Host, HostView
from runbook.model import frozen

CHURN_SECONDS = 0.5  # seconds for which a cgroup must hold processes, and no PID that stays, to count as PID churn
UNSEEN_SECONDS = 2.0  # the same if PIDs stay, and none that can be read holds a socket that was made in the cgroup


class PidChurn(Enum):
    """Whether the PIDs in a cgroup change faster than they can be read."""

    NONE = auto()
    SUSPECTED = auto()  # too early to tell it from a process that is just exiting
    PROVEN = auto()


@dataclass
class CgroupKillState:
    """The readings of a unit's cgroup so far, and the result of the kill. Times are seconds of the monotonic clock."""

    churn_since: float | None = None  # when the present series began of readings that missed processes of the cgroup
    stable_pids: frozenset[int] = frozenset()  # the PIDs that each reading of the series found
    had_port: bool = False  # True if a reading of the series found a listening socket
    is_done: bool = False  # True once systemd sent KILL to the whole cgroup
    is_refused: bool = False  # True once the kill was refused: the cgroup held a process that must not be killed


@frozen
class CgroupKill:
    """One reading of a unit's cgroup: whether it hides its processes, and whether all of them may be killed at once."""

    view: HostView
    unit: Unit
    ownerships: Sequence[PortOwnership]  # the ports of the unit
    state: CgroupKillState
    is_enabled: bool  # True if processes without a port may be killed, and with KILL
    is_expected: Callable[[Holder], bool]

    @property
    def is_permitted(self) -> bool:
        """True if all processes of the cgroup may be killed at once: once is enough."""
        return self.is_enabled and not self.state.is_done and not self.state.is_refused

    @property
    def is_down(self) -> bool:
        """True if no process of a current invocation can be in the cgroup: the unit is a service, and is down."""
        unit = self.unit
        is_down = not unit.is_running and not unit.is_untracked and not unit.job
        return unit.is_service and is_down and bool(unit.control_group)

    @property
    def is_left(self) -> bool:
        """True if the unit is down and its cgroup holds processes, whether they can be read or not."""
        return self.is_down and self.view.is_populated(self.unit)

    @property
    def has_own_sockets_only(self) -> bool:
        """True if every socket without a visible holder was created in the cgroup, as the kernel reports it."""
        unseen = [socket for ownership in self.ownerships for socket in ownership.unseen]
        return all(socket.cgroup_id and socket.cgroup_id == self.unit.control_group_id for socket in unseen)

    def are_all_leftovers(self, holders: Sequence[Holder]) -> bool:
        """True if the unit is down and each of these processes, one at least, is a leftover in its cgroup."""
        return bool(holders) and self.is_down and all(holder.role is Role.LEFTOVER for holder in holders)

    def update_churn(self, *, is_idle: Callable[[], bool]) -> PidChurn:
        """Add this reading to the series of those before it, and return what the series proves.

        One reading proves nothing: the last process may be exiting; or a process stays that is no leftover, is in
        another PID namespace, or may not be read by this user. So only an unbroken series of readings counts, and only
        if no PID lasted through all of it. `is_idle` returns True if there is nothing else to kill or to wait for.
        """
        state, now = self.state, self.view.clock.monotonic()
        if not self._hides_processes(is_idle):
            state.churn_since = None
            return PidChurn.NONE
        pids = frozenset(self.view.list_unit_pids(self.unit))
        if state.churn_since is None:
            state.churn_since, state.stable_pids, state.had_port = now, pids, False
        state.stable_pids &= pids
        state.had_port = state.had_port or any(ownership.listeners for ownership in self.ownerships)
        unseen = any(ownership.unseen for ownership in self.ownerships)
        if now - state.churn_since < (UNSEEN_SECONDS if state.stable_pids and unseen else CHURN_SECONDS):
            return PidChurn.SUSPECTED
        if state.stable_pids:
            state.churn_since = None
        # Processes that hold no port matter only if they are to be killed.
        matters = not state.stable_pids and (self.is_permitted or state.had_port)
        return PidChurn.PROVEN if matters else PidChurn.NONE

    def _hides_processes(self, is_idle: Callable[[], bool]) -> bool:
        """True if the unit is down and processes are in its cgroup, but no leftover, or not the holder of the port.

        If all of them are to be killed, it is also true once all else is killed: each reading may find others, or none.
        """
        if not self.is_left or not self.has_own_sockets_only:
            return False
        is_held = any(ownership.holders for ownership in self.ownerships)
        unseen = any(ownership.unseen for ownership in self.ownerships)
        if not is_held and (unseen or not self.view.find_leftovers(self.unit)):
            return True
        return self.is_permitted and is_idle() and all(map(self._may_kill, self.view.find_leftovers(self.unit)))

    def _may_kill(self, holder: Holder) -> bool:
        return holder.may_be_killed and self.is_expected(holder)

    def apply(self, host: Host, *, is_last: bool = False) -> None:
        """Kill all processes of the cgroup, unless one of them must not be killed, is not expected, or cannot be read.

        `is_last`: a process that cannot be read is a refusal, too.
        """
        result = host.kill_cgroup(self.unit, self.is_expected)
        self.state.is_done = result is SignalResult.SENT
        self.state.is_refused = result is SignalResult.CHANGED or (is_last and not self.state.is_done)

    @property
    def plan(self) -> str:
        """What `apply` does, in the infinitive."""
        return f"kill all processes of {self.unit.name} at once, with KILL"

    @property
    def churn(self) -> str:
        """What PID churn means, in a sentence."""
        why = "the processes in its cgroup change their PIDs faster than they can be read"
        return f"{self.unit.name} is {self.unit.active_state}, and {why}"

    @property
    def hint(self) -> str:
        """How an operator kills the whole cgroup, to be added to a message."""
        command = self.unit.systemctl_command("kill --signal=KILL")
        return f"; only all of them at once can be killed: `leftovers: true` does that, or {command}"
