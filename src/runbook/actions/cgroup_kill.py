"""Kill a whole cgroup at once, where its processes change their PIDs faster than they can be read.

A unit that is down may have left processes in its cgroup that fork and exit within milliseconds: each reading finds
other PIDs, and a signal to one of them comes too late. systemd's `kill --signal=KILL` of the unit reaches all of them.
`kill-orphan` uses it only with `leftovers: true`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Role, SignalResult
from runbook.host.interface import Host, HostView

CHURN_SECONDS = 0.5  # seconds for which a cgroup must hold processes, and no PID that stays, to count as PID churn
UNSEEN_SECONDS = 2.0  # the same if PIDs stay, and none that can be read holds a socket that was made in the cgroup


class PidChurn(Enum):
    """Whether the PIDs in a cgroup change faster than they can be read."""

    NONE = auto()
    SUSPECTED = auto()  # too early to tell it from a process that is just exiting
    PROVEN = auto()


@dataclass
class CgroupKill:
    """The readings of a unit's cgroup so far, and the result of the kill. Times are seconds of the monotonic clock."""

    churn_since: float | None = None  # when the present series began of readings that missed processes of the cgroup
    stable_pids: frozenset[int] = frozenset()  # the PIDs that each reading of the series found
    port_held: bool = False  # True if a reading of the series found a listening socket
    done: bool = False  # True once systemd sent KILL to the whole cgroup
    refused: bool = False  # True once the kill was refused, because the cgroup held a process that must not be killed

    def judge_churn(self, view: HostView, unit: Unit, seen: Sequence[PortOwnership], *, suspected: bool) -> PidChurn:
        """Return whether the cgroup's PIDs change faster than they can be read, by this reading and those before it.

        One reading proves nothing: the last process may be exiting; or a process stays that is no leftover, is in
        another PID namespace, or may not be read by this user. So only an unbroken series of readings counts, and only
        if no PID lasted through all of it.
        """
        if not suspected:
            self.churn_since = None
            return PidChurn.NONE
        now, pids = view.clock.monotonic(), frozenset(view.list_unit_pids(unit))
        if self.churn_since is None:
            self.churn_since, self.stable_pids, self.port_held = now, pids, False
        self.stable_pids &= pids
        self.port_held = self.port_held or any(ownership.listeners for ownership in seen)
        unseen = any(ownership.unseen for ownership in seen)
        if now - self.churn_since < (UNSEEN_SECONDS if self.stable_pids and unseen else CHURN_SECONDS):
            return PidChurn.SUSPECTED
        if self.stable_pids:
            self.churn_since = None
        return PidChurn.NONE if self.stable_pids else PidChurn.PROVEN

    def kill(self, host: Host, unit: Unit, expected: Callable[[Holder], bool]) -> None:
        """Kill all processes of the cgroup, unless one of them must not be killed or is not `expected`."""
        self.done = host.kill_cgroup(unit, expected) is not SignalResult.CHANGED
        self.refused = not self.done


def misses_processes(view: HostView, unit: Unit, seen: Sequence[PortOwnership]) -> bool:
    """True if the unit is down and processes are in its cgroup, but no leftover, or not the holder of the port."""
    if any(ownership.holders for ownership in seen) or not is_created_in_cgroup(unit, seen):
        return False
    unseen = any(ownership.unseen for ownership in seen)
    return is_left(view, unit) and (unseen or not view.find_leftovers(unit))


def may_kill_all(view: HostView, unit: Unit, expected: Callable[[Holder], bool]) -> bool:
    """True if the unit is down, its cgroup populated, and each leftover that can be read may be killed."""
    leftovers = view.find_leftovers(unit) if is_left(view, unit) else None
    return leftovers is not None and all(holder.may_be_killed and expected(holder) for holder in leftovers)


def are_all_leftovers(holders: Sequence[Holder], unit: Unit) -> bool:
    """True if the unit is down and each of these processes, one at least, is a leftover in its cgroup."""
    return bool(holders) and may_kill_cgroup(unit) and all(holder.role is Role.LEFTOVER for holder in holders)


def is_left(view: HostView, unit: Unit) -> bool:
    """True if the unit is down and its cgroup holds processes, whether they can be read or not."""
    return may_kill_cgroup(unit) and view.is_populated(unit)


def may_kill_cgroup(unit: Unit) -> bool:
    """True if no process of a current invocation can be in the unit's cgroup: the unit is a service, and is down."""
    is_down = not unit.is_running and not unit.is_untracked and not unit.job
    return unit.is_service and is_down and bool(unit.control_group)


def describe_churn(unit: Unit) -> str:
    """Return what PID churn means, in a sentence."""
    why = "the processes in its cgroup change their PIDs faster than they can be read"
    return f"{unit.name} is {unit.active_state}, and {why}"


def kill_hint(unit: Unit) -> str:
    """Return how an operator kills the whole cgroup, to be added to a message."""
    command = unit.systemctl_command("kill --signal=KILL")
    return f"; only all of them at once can be killed: `leftovers: true` does that, or {command}"


def is_created_in_cgroup(unit: Unit, seen: Iterable[PortOwnership]) -> bool:
    """True if every socket without a visible holder was created in the unit's cgroup, as the kernel reports it."""
    unseen = [socket for ownership in seen for socket in ownership.unseen]
    return all(socket.cgroup_id and socket.cgroup_id == unit.control_group_id for socket in unseen)
