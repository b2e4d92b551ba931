"""The role of a process towards a unit: which unit it belongs to, by facts that are kept as evidence.

    in the unit's cgroup?  ── yes ── of the current invocation? ── yes ── current
            │ no                              └─ no ───────────────────── leftover
            ├─ the unit's main process, or a descendant of it (PAM moves
            │  what `su` starts to a session's scope) ─────────────────── current
            ├─ systemd itself, for a .socket that triggers the unit ───── socket-unit
            │  (for a runbook about the .socket, a process of the
            │  service that was passed its sockets is judged as
            │  for that service)
            ├─ a container, another service, another manager's service,
            │  a virtual machine, a job of a live service or scheduler,
            │  a descendant of what must not be killed ────────────────── other-unit
            ├─ a session, a scope, a slice, no unit ───────────────────── orphan
            └─ cannot be read, or cannot be decided ───────────────────── unknown

No rule guesses: what cannot be decided is `unknown`, and `unknown` never passes. In doubt the role is one that must
not be killed.
"""

from __future__ import annotations

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.holders import NO_UNIT, Listener, Process, Role
from runbook.host.ownership import managed, other_unit, own_unit
from runbook.host.ownership.ruling import RoleRuling, UnitContext


def rule_on_process(context: UnitContext, process: Process, sockets: tuple[Listener, ...]) -> RoleRuling:
    """Return the ruling on a process that holds these sockets: that of the first rule that applies."""
    place = parse_cgroup_path(process.cgroup)
    if not process.cgroup:
        return RoleRuling(Role.UNKNOWN, "", "its cgroup cannot be read", "its unit cannot be determined")
    if context.is_in_unit(process, place):
        return own_unit.rule_process_in_unit(context, process)
    return (
        # Before the other units: PAM may have moved the process to the scope of a session.
        own_unit.rule_process_moved_out(context, process)
        or other_unit.rule_manager(context, process, place, sockets)
        # Before the services: systemd-nspawn@NAME.service is a service, and a container.
        or other_unit.rule_container(context, process, place)
        or managed.rule_bus(process, place)
        or other_unit.rule_other_service(context, process, place)
        or managed.rule_virtual_machine(context, process, place)
        or managed.rule_below_protected(context, process, place)
        or other_unit.rule_moved_out_of_other(context, process)
        or managed.rule_job(context, process, place)
        or managed.rule_delegated(context, process, place)
        or other_unit.rule_by_invocation_id(context, process, place)
        # The last one: it reads the main process of every service.
        or other_unit.rule_main_process_elsewhere(context, process, place)
        or _rule_orphan(place)
    )


def _rule_orphan(place: CgroupUnit) -> RoleRuling:
    where = place.unit or NO_UNIT
    if place.kind is CgroupKind.SESSION:
        return RoleRuling(Role.ORPHAN, where, f"it was started in a login ({where}), by no service")
    return RoleRuling(Role.ORPHAN, where, f"it is in {where}, which is no service")
