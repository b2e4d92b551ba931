"""Rules for processes that belong to a manager, a container or another service.

None of these processes is ever killed. Each rule names the unit, and how an operator can stop it.
"""

from __future__ import annotations

from collections import Counter

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import DOWN, LISTEN_PROTOCOLS, Unit
from runbook.host.holders import NO_UNIT, Listener, Process, Role
from runbook.host.kernel import protected
from runbook.host.ownership import managed
from runbook.host.ownership.describe import describe_hand_kill, describe_untracked
from runbook.host.ownership.ruling import RoleRuling, UnitContext, rule_other_unit


def rule_manager(
    context: UnitContext, process: Process, place: CgroupUnit, sockets: tuple[Listener, ...]
) -> RoleRuling | None:
    """Rule on systemd itself and on a user's manager, by the addresses on which their socket units listen.

    systemd creates sockets in its own cgroup (seen on 252 and 257), so the cgroup of a socket does not decide.
    """
    if process.pid != 1 and place.kind is not CgroupKind.MANAGER:
        return None
    who = "systemd" if process.pid == 1 else f"the manager of user {process.user}"
    is_ours = process.pid == 1 if context.manager_uid is None else place.user_uid == context.manager_uid
    held = Counter((socket.protocol, socket.endpoint) for socket in sockets)
    for one in context.list_open_sockets() if is_ours else ():
        if held <= listen_addresses(one):
            return RoleRuling(Role.SOCKET_UNIT, one.name, f"{who} listens for {one.name}")
    if process.pid != 1 and process.name != "systemd":
        # Only what the user puts there by hand: a stop of that unit would stop all services of the user.
        return rule_other_unit(place.unit, f"it is in the cgroup of {who} itself, and of no service")
    up = map(context.manager.unit, context.manager.list_open_sockets()) if is_ours else ()
    if others := [one for one in up if held & listen_addresses(one)]:
        return rule_other_unit(others[0].name, f"{who} listens for {' and '.join(one.name for one in others)}")
    if is_ours and context.unit.stored_fds:
        # FileDescriptorStoreMax=: between two invocations no other process has these sockets.
        return RoleRuling(Role.SOCKET_UNIT, context.unit.name, f"{who} keeps the sockets for {context.unit.name}")
    user = "" if place.user_uid is None else f" --user -M {process.user}@"
    why = f"{who} listens for another socket unit (systemctl{user} list-sockets)"
    return rule_other_unit(place.unit or "init.scope", why)


def rule_container(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a process in a container, and on one that keeps a container or forwards its port."""
    if place.container:
        name = place.unit or process.cgroup
        protection = f"it belongs to the container {place.machine or name}, which the container's engine can stop"
        return RoleRuling(Role.OTHER_UNIT, name, "it runs in a container", protection)
    contained = context.kernel.describe_container(process)
    if place.kind is CgroupKind.SERVICE:
        return rule_other_unit(place.unit, contained) if contained else None
    if why := contained or protected.describe_container_keeper(process):
        command = protected.find_stop_command(context.list_ancestry(process))
        # To stop the scope around a keeper may stop other containers, too.
        verb = "stop" if contained else ""
        return rule_other_unit(place.unit or "a container", why, stop_verb=verb, stop_command=command)
    return None


def rule_other_service(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a process in the cgroup of another service, whether that is up or down."""
    if place.kind is not CgroupKind.SERVICE:
        return None
    name = place.unit
    if keeper := protected.describe_container_keeper(process):
        return rule_other_unit(name, keeper, stop_verb="")
    if place.user_uid != context.manager_uid:
        user = process.user if process.uid == place.user_uid else place.user_uid
        owner = "the system's manager" if user is None else f"the manager of user {user}"
        return RoleRuling(Role.OTHER_UNIT, name, f"it is a service of {owner}", f"{name} is a service of {owner}")
    state = context.manager.read_loaded_state(name)
    if state is None and (job := managed.rule_job(context, process, place)):
        return job  # PBS names the cgroup of its jobs like a service.
    other = context.manager.unit(name)
    if state not in (None, *DOWN):
        return _rule_live_service(other, process, f"{name} is {state}")
    if other.is_untracked:
        return rule_other_unit(name, describe_untracked(other), stop_verb="")
    # Strictly an orphan. But the service is known, so its administrator can decide. `systemctl stop` does nothing
    # to a unit that is down; `kill` finds its cgroup, even if its unit file is gone (252 and 257).
    return rule_other_unit(name, f"it was left over by {name}, which is {state or 'not loaded'}", stop_verb="kill")


def rule_moved_out_of_other(context: UnitContext, process: Process) -> RoleRuling | None:
    """Rule on a process in a session's scope, or in no unit, that descends from the main process of another service.

    pam_systemd has moved that process, too. INVOCATION_ID only finds the service, which confirms its main process.
    """
    # No further than an interactive shell: above that of a console is login(1), the main process of getty@.service.
    for ancestor in (process, *context.list_starters(process)):
        unit = _find_live_unit(context, ancestor)
        if unit is not None and ancestor.pid in (unit.main_pid, unit.control_pid):
            if parse_cgroup_path(ancestor.cgroup).unit == unit.name:
                continue  # sshd and cron start logins, and what is started in a login does not belong to them.
            why = f"it descends from the main process of {unit.name}, PID {ancestor.pid}"
            protection = f"{unit.name} is a live service"
            return RoleRuling(Role.OTHER_UNIT, unit.name, why, protection, outlives_stop=ancestor is not process)
    return None


def rule_by_invocation_id(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on a process that has the INVOCATION_ID of a live service: its parent may have exited, as with `&` under su.

    Any process can set that variable, so it is no ground to name the service as the owner, or to advise its stop.
    """
    unit = _find_live_unit(context, process)
    if unit is None or not unit.is_service:
        return None
    why = f"it has the INVOCATION_ID of {unit.name}, which is live, but is not in its cgroup"
    return RoleRuling(Role.UNKNOWN, place.unit or NO_UNIT, why, f"{why}; {describe_hand_kill(process)}")


def rule_main_process_elsewhere(context: UnitContext, process: Process, place: CgroupUnit) -> RoleRuling | None:
    """Rule on the main process of another service that is up, or a descendant of it, by the main PIDs of all services.

    It has no INVOCATION_ID, and is in no service's cgroup: PIDFile= may name a daemon that `su -` started.
    """
    mains = context.manager.list_main_pids()
    if mains is None:
        why = "systemd did not report the main processes of all services in time"
        return RoleRuling(Role.UNKNOWN, place.unit or NO_UNIT, why, f"{why}; it may be one of them")
    for ancestor in (process, *context.list_starters(process)):
        # sshd and cron are in their own cgroup; see `rule_moved_out_of_other`.
        if ancestor.pid in mains and parse_cgroup_path(ancestor.cgroup).kind is not CgroupKind.SERVICE:
            name, how = mains[ancestor.pid], "is" if ancestor is process else "descends from"
            why, protection = f"it {how} the main process of {name}, PID {ancestor.pid}", f"{name} is a live service"
            return RoleRuling(Role.OTHER_UNIT, name, why, protection, outlives_stop=ancestor is not process)
    return None


def listen_addresses(unit: Unit) -> Counter[tuple[str, str]]:
    """Return the protocols and addresses that a socket unit listens on."""
    return Counter((LISTEN_PROTOCOLS.get(kind, kind), address) for kind, address in unit.listen)


def _find_live_unit(context: UnitContext, process: Process) -> Unit | None:
    """Find the running unit whose current invocation a process is of, by its INVOCATION_ID."""
    unit = context.manager.find_unit_of_invocation(process.invocation_id) if process.invocation_id else None
    return unit if unit is not None and unit.is_running else None


def _rule_live_service(other: Unit, process: Process, why: str) -> RoleRuling:
    protection = f"{other.name} is a live service"
    if other.stop_kills(process.pid, process.ppid):
        outlives = other.may_outlive_stop(process.pid)
        return RoleRuling(Role.OTHER_UNIT, other.name, why, protection, outlives_stop=outlives)
    # As with cron and sshd: a stop would spare this process, and hit those who depend on the service.
    protection += f", and stopping it would leave this process running (KillMode={other.kill_mode})"
    protection += f"; {describe_hand_kill(process)}"
    return RoleRuling(Role.OTHER_UNIT, other.name, why, protection, stop_verb="")
