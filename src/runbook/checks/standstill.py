"""Find out whether a unit that reads `active` does nothing: it is frozen or stopped, or no process of it is left."""

from __future__ import annotations

from collections.abc import Iterable

from runbook.host.facts import Unit
from runbook.host.holders import PortOwnership, Process, Role
from runbook.host.interface import HostView

STOPPED_STATES = ("T", "t")
"""States in proc(5) of a process that was stopped by a signal, and of one that a debugger has stopped."""


def describe_frozen(view: HostView, unit: Unit) -> str:
    """Return that a unit is frozen, and what lets it run; empty if it is not.

    systemd 252 does not report a unit as frozen whose slice is frozen; only the kernel does.
    """
    state = unit.freezer_state
    if state in ("", "running") and not view.is_frozen(unit):
        return ""
    what = f"{unit.name} is frozen, so none of its processes runs"
    if state not in ("", "running") and not state.endswith("-by-parent"):
        return f"{what} ({unit.systemctl_command('thaw')} lets them run)"
    slices = (view.unit(part) for part in reversed(unit.control_group.split("/")) if part.endswith(".slice"))
    frozen = next((one for one in slices if one.freezer_state not in ("", "running")), None)
    if frozen is None:
        return f"{what}: the cgroup {unit.control_group}, or one above it, is frozen (cgroup.freeze)"
    return f"{what}: its slice is frozen ({frozen.systemctl_command('thaw')} lets them run)"


def describe_standstill(view: HostView, unit: Unit, ports: Iterable[PortOwnership]) -> str:
    """Return that a unit's main process is stopped, or each of its processes, or each that listens on a port; empty if
    that is not so.

    The kernel still accepts connections for a process that is stopped.
    """
    pids = (unit.main_pid,) if unit.main_pid else view.list_unit_pids(unit)
    listening = ([h.process.pid for h in port.holders if h.role is Role.CURRENT] for port in ports)
    for group in (pids, *listening):
        if group and all(view.find_process_state(pid) in STOPPED_STATES for pid in group):
            return _describe_stopped_process(view, unit, view.find_process(group[0]))
    return ""


def _describe_stopped_process(view: HostView, unit: Unit, process: Process | None) -> str:
    if process is None or process.state not in STOPPED_STATES:
        return ""  # It runs again, or is gone.
    which = "the main process" if process.pid == unit.main_pid else "a process"
    what = f"{process}, {which} of {unit.name}, is stopped"
    if process.state == "T":
        return f"{what} (SIGSTOP; kill -CONT {process.pid} lets it run)"
    return f"{what}, state {view.describe_process_state(process.id).partition(', in ')[0]}"


def describe_no_process(view: HostView, unit: Unit) -> str:
    """Return that an active unit has no process of this invocation; empty if it has one."""
    if unit.main_pid:
        return ""
    state = f"{unit.name} is {unit.state}"
    if unit.sub_state == "exited" and not view.is_populated(unit):
        return f"{state}, and no process of it runs"
    # A Type=oneshot need not have any process, and a start in progress reads `activating`.
    if unit.type == "oneshot" or not unit.control_group:
        return ""
    leftovers = view.find_leftovers(unit)
    if not leftovers or {holder.process.pid for holder in leftovers} != set(view.list_unit_pids(unit)):
        return ""
    named = ", ".join(str(holder.process) for holder in leftovers[:3])
    only = "is only" if len(leftovers) == 1 else "are only"
    return f"{state}, and in it {only} {named}, left over from an earlier invocation"
