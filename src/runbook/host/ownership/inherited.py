"""Whether a process may have been handed a socket that root created (SCM_RIGHTS), instead of having inherited it.

systemd creates the sockets of socket units, and a service may bind as root and continue as another user. If such a
service is compromised, it can hand the socket to any process that receives descriptors. So a holder needs a reason that
it cannot forge, and that no other process can make for it:

    it, or an ancestor that has the socket too, is in the cgroup in which the socket was created, or below ── inherited
    systemd created the socket, and it is in the service that the socket unit activates ────────────────── inherited
    only root runs in the cgroup in which the socket was created ───────────────────── inherited, or handed by root
    that cgroup was removed, and it is left over from a service that has ended, too ─────────────────────── inherited

The last is so for what is in the unit's own cgroup, began in the session (setsid(2)) of its last main process, or has
the INVOCATION_ID of an invocation that has ended: no other process can change the environment of this one.
"""

from __future__ import annotations

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Listener, Process, Role
from runbook.host.ownership.other_unit import listen_addresses
from runbook.host.ownership.ruling import UnitContext

SYSTEMD = "/init.scope"  # the cgroup in which systemd creates the sockets of socket units
MAX_CREATORS = 100  # how many processes of the creator's cgroup are looked at; if it has more, any user may be there


def find_root_giver(context: UnitContext, process: Process, sockets: tuple[Listener, ...], role: Role) -> str:
    """Return who created the sockets of a process if it may have been handed all of them; empty if it may not.

    Those that another user than root created are for `KernelSource.describe_giver`.
    """
    if any(one.uid == process.uid != 0 or not one.cgroup_id for one in sockets):
        return ""
    giver = ""
    for socket in (one for one in sockets if one.uid == 0):
        # One socket that it inherited is enough: that is in the unit's way, too.
        if not (giver := _find_giver(context, process, socket, role)):
            return ""
    return giver


def _find_giver(context: UnitContext, process: Process, socket: Listener, role: Role) -> str:
    kernel = context.kernel
    if kernel.is_created_in(socket, process.cgroup):
        return ""
    above = context.list_ancestry(process)[1:]
    line = [process, *(one for one in above if kernel.find_held_sockets(one.pid, {socket.inode}))]
    if any(kernel.is_created_in(socket, one.cgroup) for one in line):
        return ""
    created_in = kernel.find_cgroup(socket.cgroup_id)
    if created_in == SYSTEMD:
        return _find_socket_unit(context, line, socket, role)
    if not created_in:
        is_left = role is not Role.ORPHAN or _is_of_ended_service(context, process)
        return "" if is_left else "root in a cgroup that was removed"
    pids = kernel.list_cgroup_pids(created_in)
    others = len(pids) > MAX_CREATORS or any(one.uid != 0 for one in context.read_processes(pids))
    return f"root in {parse_cgroup_path(created_in).unit or created_in}" if others else ""


def _is_of_ended_service(context: UnitContext, process: Process) -> bool:
    """True if a process outside of all services stems from the unit's last main process, or from an ended service."""
    if process.session in {context.unit.exec_main_pid} - {0}:
        return True
    place = parse_cgroup_path(process.cgroup)
    if not process.invocation_id or place.kind is CgroupKind.SESSION or place.user_uid is not None:
        return False  # A user's manager has invocations of its own.
    unit = context.manager.find_unit_of_invocation(process.invocation_id)
    return unit is None or not unit.is_running


def _find_socket_unit(context: UnitContext, line: list[Process], socket: Listener, role: Role) -> str:
    """Return for whom systemd created a socket; empty if it was for the service that one of `line` is in."""
    of_system = context.manager_uid is None
    up = [context.manager.unit(name) for name in context.manager.list_open_sockets()] if of_system else []
    own = context.list_socket_units() if of_system else []
    units = [one for one in (*up, *own) if (socket.protocol, socket.endpoint) in listen_addresses(one)]
    if any(_activates(context, unit, one) for unit in units for one in line):
        return ""
    if not units and role is Role.OTHER_UNIT:
        return ""  # The socket unit of a live service may be down.
    return f"systemd for {units[0].name if units else 'a socket unit that is down'}"


def _activates(context: UnitContext, socket_unit: Unit, process: Process) -> bool:
    """True if a process is in a service that a socket unit activates."""
    place = parse_cgroup_path(process.cgroup)
    names = {place.unit, *(context.unit.names if context.is_in_unit(process, place) else ())}
    in_service = place.kind is CgroupKind.SERVICE and place.user_uid is None
    return in_service and not names.isdisjoint(socket_unit.triggers)
