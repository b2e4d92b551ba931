"""Ends all that is left of a unit at once, where one after the other would be outrun.

A unit that is down may have left something in its cgroup that forks and exits faster than anybody looks: each new
one is another PID. KILL for the whole cgroup ends that; `kill-orphan` does it where it was asked for `leftovers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Role, SignalResult
from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict, Wake, fails, not_yet, to_do

CHURN_SECONDS = 0.5
"""Seconds for which a unit's cgroup must hold processes, and none that stays, to be outrun by them."""

UNSEEN_SECONDS = 2.0
"""Seconds in which a socket made in that cgroup may have no holder while one of its processes is seen now and then."""


@dataclass
class CgroupKill:
    """What became of it. `since` is the moment of the monotonic clock from which on nobody could be looked at.

    `done`: all that was left got KILL. `refused`: that was refused, because one of them must live.
    """

    churn_since: float | None = None
    done: bool = False
    refused: bool = False

    @property
    def may_run(self) -> bool:
        """Whether it may be asked for: once is enough."""
        return not self.done and not self.refused

    def await_exit(self, view: HostView, unit: Unit) -> Finding | None:
        """Wait for the end of all that got KILL, if it was done. Who is seen there could just be ending."""
        if self.done and may_kill_cgroup(unit) and view.is_populated(unit):
            return not_yet(Verdict.PORT_STILL_HELD, f"waiting for all of {unit.name} to end", Wake(within=0.05))
        return None

    def check_churn(self, view: HostView, unit: Unit, facts: Mapping[str, Any], *, wanted: bool) -> Finding:
        """Make sure that it is no process that just ends; then say that all is to end, if that is `wanted`."""
        now = view.clock.monotonic()
        self.churn_since = now if self.churn_since is None else self.churn_since
        what = (
            f"{unit.name} is {unit.active_state}, and what is left in its cgroup changes its PID faster than one looks"
        )
        if now - self.churn_since < CHURN_SECONDS:
            return not_yet(Verdict.PORT_STILL_HELD, what, Wake(within=0.05))
        if wanted:
            return to_do(Verdict.LEFTOVER_HOLDS_PORT, f"end all of {unit.name} at once, with KILL: {what}", **facts)
        return fails(Verdict.PORT_STILL_HELD, f"{what}{kill_hint(unit)}", **facts)

    def recheck_unseen(self, view: HostView, unit: Unit, seen: Sequence[PortOwnership]) -> Finding | None:
        """Look again where the port is held by none that is seen: it may be one that is gone at the next look."""
        if not _is_held_in_cgroup(unit, seen) or not may_kill_cgroup(unit) or not view.is_populated(unit):
            return None
        now = view.clock.monotonic()
        self.churn_since = now if self.churn_since is None else self.churn_since
        what = f"looking again for who holds the port in the cgroup of {unit.name}"
        return (
            not_yet(Verdict.PORT_STILL_HELD, what, Wake(within=0.02))
            if now - self.churn_since < UNSEEN_SECONDS
            else None
        )

    def is_churn_lasting(self, view: HostView, unit: Unit) -> bool:
        """Whether it has gone on for so long that all of them are to end at once."""
        late = self.churn_since is not None and view.clock.monotonic() - self.churn_since >= CHURN_SECONDS
        return late and may_kill_cgroup(unit) and view.is_populated(unit)

    def kill(self, host: Host, unit: Unit, expected: Callable[[Holder], bool]) -> None:
        """Have all that is left end, unless one of them must live or is not `expected`."""
        self.done = host.kill_cgroup(unit, expected) is not SignalResult.CHANGED
        self.refused = not self.done


def has_pid_churn(view: HostView, unit: Unit, seen: Sequence[PortOwnership]) -> bool:
    """Whether nobody at all is seen, though the cgroup of the unit, which is down, holds processes.

    So it looks when each of them forks and exits at once: it is another PID whenever somebody looks.
    """
    nobody = not any(ownership.holders for ownership in seen) and _created_in_cgroup(unit, seen)
    return nobody and may_kill_cgroup(unit) and view.is_populated(unit) and not view.find_leftovers(unit)


def may_kill_all(view: HostView, unit: Unit, expected: Callable[[Holder], bool]) -> bool:
    """Whether the cgroup of the unit, which is down, holds processes, and none of them must live."""
    if not may_kill_cgroup(unit) or not view.is_populated(unit):
        return False
    return all(holder.may_be_killed and expected(holder) for holder in view.find_leftovers(unit))


def are_all_leftovers(fresh: Sequence[Holder], unit: Unit) -> bool:
    """Whether those that come after each other are all left over in the cgroup of the unit, which is down."""
    return bool(fresh) and may_kill_cgroup(unit) and all(holder.role is Role.LEFTOVER for holder in fresh)


def may_kill_cgroup(unit: Unit) -> bool:
    """Whether nothing good can be in the unit's cgroup, so that all of it may be ended at once."""
    return (
        unit.is_service and not unit.is_running and not unit.is_untracked and not unit.job and bool(unit.control_group)
    )


def kill_hint(unit: Unit) -> str:
    """Say how all that is left can be ended."""
    command = unit.systemctl_command("kill --signal=KILL")
    return f"; only all of them at once can be ended: `leftovers: true` does that, or {command}"


def _is_held_in_cgroup(unit: Unit, seen: Sequence[PortOwnership]) -> bool:
    """Whether a port is held, by sockets made in the unit's cgroup, and nobody is seen with one."""
    unseen = any(ownership.unseen for ownership in seen)
    return unseen and not any(ownership.holders for ownership in seen) and _created_in_cgroup(unit, seen)


def _created_in_cgroup(unit: Unit, seen: Iterable[PortOwnership]) -> bool:
    """Whether all sockets that nobody is seen with were made in the unit's cgroup, by the kernel's word."""
    unseen = [socket for ownership in seen for socket in ownership.unseen]
    return all(socket.cgroup_id and socket.cgroup_id == unit.control_group_id for socket in unseen)
