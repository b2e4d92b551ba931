"""Rules for the unit's own processes: current, leftover, or not decidable until the unit is stopped.

Facts that decide, in this order: descent from the main process, INVOCATION_ID, start time.
"""

from __future__ import annotations

import time

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import NO_UNIT, Process, Role
from runbook.host.ownership.describe import describe_hand_kill, describe_unread, describe_untracked
from runbook.host.ownership.ruling import RoleRuling, UnitContext

MISTAKEN_MAIN = "which systemd took for the main process, and which started before the current invocation began"
"""By its PIDFile=, by MAINPID=, or because a Type=forking unit had no other process in its cgroup."""

REUSED_PID_SLACK = 10.0  # seconds after its timestamp that a main process may start: systemd may take that first

START_SLACK = 0.05  # seconds by which a process may seem older than its invocation: /proc counts in ticks of 10 ms


def rule_process_in_unit(context: UnitContext, process: Process) -> RoleRuling:
    """Rule on a process in the unit's cgroup."""
    unit = context.unit
    if unit.is_untracked:
        why = describe_untracked(unit)
        return RoleRuling(Role.LEFTOVER, unit.name, why, why, stop_verb="")
    if not unit.is_running:
        return RoleRuling(Role.LEFTOVER, unit.name, f"it is still running, while {unit.name} is {unit.active_state}")
    line = context.list_ancestry_in_unit(process)
    ruling = (
        _rule_by_main_process(context, process, line)
        or _rule_by_invocation_id(context, process, line)
        or _rule_by_start_time(context, line)
    )
    unread = next((one for one in line if one.stalled), None)
    if ruling.role is Role.LEFTOVER and unread:
        # It may have the current INVOCATION_ID, which alone distinguishes it from a leftover that started earlier.
        return _rule_undecided(context, describe_unread(unread))
    return ruling


def rule_process_moved_out(context: UnitContext, process: Process) -> RoleRuling | None:
    """Rule on a process outside of the unit's cgroup that may be the unit's all the same; None if it is not.

    pam_systemd moves what `su` or PAMName= starts to a session's scope (systemd issue 6356).
    """
    unit = context.unit
    if not unit.is_running or process.pid == 1:
        return None
    for ancestor in context.list_ancestry(process):
        if ancestor.pid in {unit.main_pid, unit.control_pid} - {0}:
            how = "is" if ancestor is process else "descends from"
            if _has_reused_pid(context, ancestor):
                in_service = parse_cgroup_path(process.cgroup).kind is CgroupKind.SERVICE
                return None if in_service else _rule_reused_pid(context, process, ancestor)
            if _is_mistaken_main(context, ancestor, _began(context)):
                return _rule_mistaken_main_elsewhere(context, process, f"it {how} PID {ancestor.pid}, {MISTAKEN_MAIN}")
            why = f"it {how} the main process, PID {ancestor.pid}, though in another scope"
            return RoleRuling(Role.CURRENT, unit.name, why)
    # Its environment alone is no ground for `current`: any process of the user can set it.
    if process.invocation_id and process.invocation_id == unit.invocation_id:
        why = f"it has the current INVOCATION_ID of {unit.name}, but left its cgroup"
        return RoleRuling(Role.UNKNOWN, unit.name, why, f"{why}; whether it still serves for it is unknown")
    return None


def _rule_by_main_process(context: UnitContext, process: Process, line: list[Process]) -> RoleRuling | None:
    """Rule on the main process and its descendants; None for any other process.

    This comes before INVOCATION_ID: a manager inside the unit (Delegate=) sets other IDs for its own services. No
    leftover descends from the current main process, but systemd may take a leftover for the main process.
    """
    unit, began = context.unit, _began(context)
    ancestor = next((one for one in line if one.pid in (unit.main_pid, unit.control_pid)), None)
    if ancestor is None:
        return None
    how = f"it {'is' if ancestor is process else 'descends from'}"
    if _has_reused_pid(context, ancestor):
        return _rule_reused_pid(context, process, ancestor)
    # Without an INVOCATION_ID a main process that is a little older than `began` proves nothing; a leftover in this
    # cgroup started before the end of the previous invocation.
    ended = unit.previous_end_monotonic / 1e6 - START_SLACK
    if _is_mistaken_main(context, ancestor, began if ancestor.invocation_id else ended):
        return RoleRuling(Role.LEFTOVER, unit.name, f"{how} PID {ancestor.pid}, {MISTAKEN_MAIN}")
    if not ancestor.invocation_id and ancestor.started < began and _has_older_process(context, ended):
        return _rule_undecided(context, f"{how} PID {ancestor.pid}, which started before the current invocation began")
    return RoleRuling(Role.CURRENT, unit.name, f"{how} the main process, PID {ancestor.pid}")


def _rule_by_invocation_id(context: UnitContext, process: Process, line: list[Process]) -> RoleRuling | None:
    """Rule by the INVOCATION_ID of the process, or of its nearest ancestor that has one; None if none has."""
    unit = context.unit
    ancestor = next((one for one in line if one.invocation_id), None)
    if ancestor is None:
        return None
    of = "its" if ancestor is process else f"its ancestor PID {ancestor.pid}'s"
    if ancestor.invocation_id == unit.invocation_id:
        return RoleRuling(Role.CURRENT, unit.name, f"{of} INVOCATION_ID is the current one")
    why = f"{of} INVOCATION_ID is {ancestor.invocation_id}, an earlier one"
    if all(one.started >= _began(context) for one in line):
        if process.cgroup != unit.control_group:
            # Delegate=: a sub-cgroup may contain a manager, which sets INVOCATION_ID too.
            return _rule_undecided(context, f"{why} or one of a manager inside the unit")
        surely_after = all(one.started >= _began(context) + 2 * START_SLACK for one in line)
        if surely_after and not _has_older_process(context, _began(context)):
            # The variable alone proves nothing: the service may have set it for a child of its own.
            return _rule_undecided(context, f"{why}, but it started after the current invocation began")
    return RoleRuling(Role.LEFTOVER, unit.name, why)


def _rule_by_start_time(context: UnitContext, line: list[Process]) -> RoleRuling:
    """Rule by the start of the oldest ancestor: a child of a leftover is one, however late it was forked."""
    name, began, oldest = context.unit.name, _began(context), min(ancestor.started for ancestor in line)
    if oldest < began:
        return RoleRuling(Role.LEFTOVER, name, "it started before the current invocation began")
    suspended = _suspended()  # Start times of processes are by CLOCK_BOOTTIME.
    if oldest < began + suspended:
        why = "the machine was suspended, so it is unknown whether it started before the current invocation"
        return _rule_undecided(context, why)
    if _has_older_process(context, began + suspended):
        # A leftover may have forked it.
        why = "it started after the current invocation began, beside processes that are older"
        return _rule_undecided(context, why)
    return RoleRuling(Role.CURRENT, name, "it started after the current invocation began")


def _rule_mistaken_main_elsewhere(context: UnitContext, process: Process, why: str) -> RoleRuling | None:
    """Rule on a mistaken main process outside of the unit: PIDFile= and MAINPID= of root may name any process."""
    place = parse_cgroup_path(process.cgroup)
    if place.container or place.kind in (CgroupKind.SERVICE, CgroupKind.MANAGER):
        return None  # It belongs to the service that it is in.
    return _rule_undecided(context, f"{why}, in {place.unit or 'no unit'}")


def _rule_undecided(context: UnitContext, why: str) -> RoleRuling:
    name = context.unit.name
    why += f"; stop {name} to find out: a process that is left then is of an earlier invocation"
    return RoleRuling(Role.UNKNOWN, name, why, why)


def _began(context: UnitContext) -> float:
    """Return the time (s) before which no process of the current invocation started. Suspend only makes it earlier."""
    return context.unit.began_monotonic / 1e6 - START_SLACK


def _is_mistaken_main(context: UnitContext, main: Process, began: float) -> bool:
    """True if what systemd takes for the main process started before `began`, and has not the current INVOCATION_ID.

    systemd takes the timestamp of the start after it has forked the process, on a busy machine long after. So a
    process may be older than its own invocation, and only the ID that it was given proves that it is of it.
    """
    is_given = main.invocation_id != "" and main.invocation_id == context.unit.invocation_id
    return main.started < began and not is_given


def _has_reused_pid(context: UnitContext, main: Process) -> bool:
    """True if a process has the PID of the main process, but started after systemd recorded that PID.

    systemd does not notice the exit of a main process that is not its child (PIDFile=, MAINPID=).
    """
    unit = context.unit
    is_given = main.invocation_id != "" and main.invocation_id == unit.invocation_id
    recorded = unit.exec_main_start_monotonic / 1e6 + _suspended() + REUSED_PID_SLACK
    is_main = main.pid == unit.main_pid and unit.exec_main_start_monotonic > 0
    return is_main and not is_given and main.started > recorded


def _rule_reused_pid(context: UnitContext, process: Process, main: Process) -> RoleRuling:
    """Rule on what has the main process's PID, or descends from it. A stop of the unit is no advice: it may kill it."""
    unit, how = context.unit, "is" if main is process else "descends from"
    why = f"it {how} PID {main.pid}, which started after systemd recorded that PID as the main process of {unit.name}"
    why += ": the PID was reused"
    place = parse_cgroup_path(process.cgroup).unit or NO_UNIT
    return RoleRuling(Role.UNKNOWN, place, why, f"{why}; {describe_hand_kill(process)}", stop_verb="")


def _suspended() -> float:
    """Return for how long the machine was suspended: CLOCK_BOOTTIME runs then, systemd's monotonic clock does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _has_older_process(context: UnitContext, began: float) -> bool:
    """True if the unit contains processes from before the current invocation: a younger one may be their child."""
    return context.oldest_start < began
