"""Rules for processes that a live manager runs outside of its own cgroup: none of them is an orphan.

A scheduler such as Nomad or Slurm puts its jobs into cgroups that it makes by hand, or below a delegated scope. A
service may start a process with `systemd-run --scope` or `su`. A virtual machine, and what runs in a terminal
multiplexer, belong to a user who is at work with them. In doubt a process is not killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import DOWN
from runbook.host.holders import NO_UNIT, Process, Role
from runbook.host.kernel import protected
from runbook.host.kernel.ancestry import MAX_ANCESTORS
from runbook.host.ownership import own_unit
from runbook.host.ownership.describe import describe_hand_kill
from runbook.host.ownership.ruling import RoleRuling, UnitContext, rule_other_unit
from runbook.host.requesters import name_program

_TOP_CGROUP = re.compile(r"/([A-Za-z0-9][\w-]*)(?:\.slice)?/", re.ASCII)
MAX_MATES = 100  # how many other processes of a cgroup are asked for their manager


def rule_bus(process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a message bus: any user may leave a socket in its queue, so that it seems to hold the port."""
    if not protected.is_bus(process):
        return None
    why = "it is a message bus, and may hold the socket for a process that has not received it yet"
    return RoleRuling(Role.UNKNOWN, place.unit or NO_UNIT, why, why)


def rule_virtual_machine(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a process that runs a virtual machine, or passes on its ports."""
    why = context.kernel.describe_virtual_machine(process)
    return rule_other_unit(place.unit or NO_UNIT, why) if why else None


def rule_below_protected(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a descendant of a process that must not be killed."""
    why = find_inherited_protection(context, process)
    return rule_other_unit(place.unit or NO_UNIT, why) if why else None


def find_inherited_protection(context: UnitContext, process: Process) -> str:
    """Return why a process must not be killed for the sake of an ancestor; empty if there is no such ancestor."""
    line = context.list_ancestry(process)
    for ancestor in line[1:]:
        if parse_cgroup_path(ancestor.cgroup).kind is CgroupKind.MANAGER:
            return ""  # It adopts processes without a parent.
        if why := context.find_children_protection(ancestor):
            return f"its ancestor {ancestor} {why.removeprefix('it ')}"
    if len(line) >= MAX_ANCESTORS and line[-1].ppid > 1:
        return f"it has {MAX_ANCESTORS} ancestors or more, so it is unknown whether one of them must not be killed"
    return ""


def rule_job(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a process that descends from a process of a live service, in whichever cgroup it is itself.

    In a cgroup that systemd does not know, its manager may be any other program, and one of its processes with a
    manager is enough: the parent of another may have exited.
    """
    by_hand = _is_made_by_hand(context, place)
    for one in (process, *_list_mates(context, process, by_hand=by_hand)):
        for ancestor in context.list_starters(one):
            ruling = _rule_below(context, process, place, ancestor, by_hand=by_hand)
            if ruling is not None or context.is_in_unit(ancestor, parse_cgroup_path(ancestor.cgroup)):
                return ruling
    return _rule_by_name(context, process) if by_hand else None


def rule_delegated(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a process in a delegated scope (Delegate=), in which another process runs that is not below it."""
    if place.kind is not CgroupKind.SCOPE:
        return None
    scope, _, below = process.cgroup.partition(f"/{place.unit}")
    # A user's scope is not this manager's to ask about, but the cgroup below it shows that it is delegated.
    known = place.user_uid == context.manager_uid and context.manager.read_loaded_state(place.unit) is not None
    if not below and not (known and context.manager.unit(place.unit).delegate):
        return None
    ancestors = (one for one in context.list_ancestry(process)[1:] if parse_cgroup_path(one.cgroup) == place)
    pids = context.kernel.list_cgroup_pids(f"{scope}/{place.unit}")
    read = (one for pid in pids for one in context.read_processes([pid]))
    others = (one for one in read if process not in context.list_ancestry(one))
    manager = next(ancestors, None) or next(others, None)
    if manager is None:
        return None
    why = f"it is in the delegated scope {place.unit}, beside {manager}"
    return _rule_managed(process, place.unit, why, str(manager))


def _rule_below(
    context: UnitContext, process: Process, place: CgroupUnit, ancestor: Process, *, by_hand: bool
) -> RoleRuling | None:
    """Rule on a process that one of its ancestors, or of those of its cgroup, may run; None if that one does not."""
    where = parse_cgroup_path(ancestor.cgroup)
    if context.is_in_unit(ancestor, where):
        return _rule_below_own(context, process, ancestor, by_hand=by_hand)
    if where.kind is CgroupKind.SERVICE and (of := _describe_live_service(context, where, ancestor.user)):
        ours = where.user_uid == context.manager_uid
        why = f"it descends from {ancestor} of {of}, a live service"
        return _rule_managed(process, where.unit if ours else place.unit or NO_UNIT, why, of)
    elsewhere = not f"{ancestor.cgroup}/".startswith(f"{process.cgroup}/")
    if by_hand and elsewhere and name_program(ancestor.name, ancestor.command):
        why = f"it descends from {ancestor}, in a cgroup that systemd does not know ({process.cgroup})"
        return _rule_managed(process, place.unit or NO_UNIT, why, str(ancestor))
    return None


def _rule_below_own(context: UnitContext, process: Process, ancestor: Process, *, by_hand: bool) -> RoleRuling | None:
    role, name = own_unit.rule_process_in_unit(context, ancestor).role, context.unit.name
    if role is Role.LEFTOVER and not by_hand:
        return None
    why = f"it descends from {ancestor}, which is in the cgroup of {name}, and is in another one itself"
    if role is Role.CURRENT:
        return RoleRuling(role, name, why)
    return RoleRuling(Role.UNKNOWN, name, why, f"{why}; {describe_hand_kill(process)}")


def _rule_by_name(context: UnitContext, process: Process) -> RoleRuling | None:
    """Rule on a job without a parent, by the name of the topmost cgroup: that of nomad.service is nomad.slice."""
    if (named := _TOP_CGROUP.match(process.cgroup)) is None:
        return None
    for name in (f"{named[1]}.service", f"{named[1]}d.service"):
        if name != context.unit.name and context.manager.read_loaded_state(name) not in (None, *DOWN):
            cgroup = f"a cgroup that systemd does not know ({process.cgroup})"
            why = f"it is in {cgroup}, named as a cgroup of {name}, a live service"
            return _rule_managed(process, name, why, name)
    return None


def _rule_managed(process: Process, unit: str, why: str, manager: str) -> RoleRuling:
    """Make the ruling for a job. A stop of its manager's unit may not reach it, and would stop the other jobs."""
    protection = f"{why}; have {manager} stop it, or {describe_hand_kill(process)}"
    return RoleRuling(Role.OTHER_UNIT, unit, why, protection, stop_verb="")


def _is_made_by_hand(context: UnitContext, place: CgroupUnit) -> bool:
    """True if systemd does not know the cgroup: a slice has no processes of its own."""
    if place.kind in (CgroupKind.SLICE, CgroupKind.NONE):
        return True
    named = place.kind in (CgroupKind.SCOPE, CgroupKind.SERVICE) and place.user_uid == context.manager_uid
    return named and context.manager.read_loaded_state(place.unit) is None


def _list_mates(context: UnitContext, process: Process, *, by_hand: bool) -> Iterator[Process]:
    """Read the other processes of a cgroup that was made by hand."""
    pids = context.kernel.list_cgroup_pids(process.cgroup) if by_hand and process.cgroup.strip("/") else ()
    yield from context.read_processes(pid for pid in pids[:MAX_MATES] if pid != process.pid)


def _describe_live_service(context: UnitContext, place: CgroupUnit, user: str) -> str:
    """Return the name of a service that is up, with its manager if that is another one; empty if it is down."""
    if place.user_uid != context.manager_uid:
        return f"{place.unit} of {'the system' if place.user_uid is None else f'the user manager of {user}'}"
    return place.unit if context.manager.read_loaded_state(place.unit) not in (None, *DOWN) else ""
