"""Explain why a process is not killed or did not exit, and what the operator can do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from shlex import quote

from runbook.host.cgroups import CgroupUnit, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.ownership.describe import MAX_SHOWN, describe_hand_kill, describe_untracked
from runbook.model import ProcessId, Verdict

MAX_CHANGES = 20  # how often a process may have changed right before its signal until the step gives up

_MACHINE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # the names that engines permit

STATE_ADVICE = {  # what to do about a process that does not exit, by its state in proc(5)
    "D": "it waits in the kernel, where no signal reaches it: find out for what (a dead NFS or FUSE mount, a disk)",
    "t": "another program traces it and keeps it from exiting: stop that program",
    "T": "it is stopped, and acts on no signal but KILL until it is continued: kill -CONT",
}


def find_refusal(
    unit: Unit,
    ownerships: Iterable[PortOwnership],
    find_mismatch: Callable[[Holder], str],
    closing: Set[int] = frozenset(),
) -> str:
    """Return why no process at all may be signalled; empty if there is no such reason.

    `closing` are the inodes of sockets without a visible holder that are no reason.
    """
    for ownership in ownerships:
        for holder in ownership.foreign_holders:
            # A main process that systemd no longer tracks may be killed after a daemon-reload.
            if not holder.may_be_killed and holder.protection != describe_untracked(unit):
                return _explain_protection(unit, ownership, holder)
            if mismatch := find_mismatch(holder):
                return f"port {ownership.port} is held by {holder.process}, which is not what was expected: {mismatch}"
        is_closing = bool(ownership.unseen) and {socket.inode for socket in ownership.unseen} <= closing
        if ownership.verdict is Verdict.OWNER_UNKNOWN and not is_closing:
            return ownership.reason
    return ""


def _explain_protection(unit: Unit, ownership: PortOwnership, holder: Holder) -> str:
    """Return why a holder of a port is not killed, and the command that stops it, if there is one."""
    why = f"port {ownership.port} is held by {holder.process}: {holder.protection}"
    if holder.role is Role.OTHER_UNIT and (other := unit.describe_alternative(holder.unit)):
        return why + other
    in_container = bool(parse_cgroup_path(holder.process.cgroup).container)
    if stop := find_holder_stop(unit, holder):
        what = "stop the container" if in_container or holder.stop_command else f"{holder.stop_verb} it"
        why = f"{why}; {what} ({stop}) or give one of them another port"
        if in_container or holder.stop_command:
            return why
        advice = f"; if {holder.process} still runs after the stop, kill it by hand: kill {holder.process.pid}"
        return why + (advice if holder.outlives_stop else "")
    if in_container or not holder.stop_verb or holder.role is Role.UNKNOWN or holder.in_manager_cgroup:
        return why
    return f"{why}; {describe_hand_kill(holder.process)}"


def find_holder_stop(unit: Unit, holder: Holder) -> str:
    """Return the command that stops a holder that is not killed, with its unit or its container; empty if none does."""
    if holder.role is Role.OTHER_UNIT and unit.describe_alternative(holder.unit):
        return ""
    place = parse_cgroup_path(holder.process.cgroup)
    if container := _container_stop_command(place, holder.process) if place.container else holder.stop_command:
        return container
    has_unit = holder.unit.endswith(".socket") or (holder.unit.endswith(".service") and not holder.in_manager_cgroup)
    if place.container or not holder.stop_verb or holder.role is not Role.OTHER_UNIT or not has_unit:
        return ""
    return stop_command(unit, holder.unit, holder.is_user_unit(unit.of_user), holder.process.user, holder.stop_verb)


def _container_stop_command(place: CgroupUnit, process: Process) -> str:
    """Return the command that stops a container, by the name that its engine gave to the scope; else empty.

    A user can give any name to a scope of his own manager, so the command is only about his own containers then.
    """
    scope, of_user = place.unit, place.user_uid is not None
    # Below the scope the container itself names the cgroups.
    above = f"{process.cgroup}/".partition(f"/{scope}/")[0]
    machine = parse_cgroup_path(f"{above}/{scope}").machine
    if not _MACHINE_NAME.fullmatch(machine):
        return ""
    if scope.startswith(("docker-", "libpod-")):
        engine = "docker" if scope.startswith("docker-") else "podman"
        return f"{f'sudo -u {quote(process.user)} ' if of_user else ''}{engine} stop {machine}"
    is_ours = not of_user and scope.startswith(("systemd-nspawn@", "machine-"))
    return f"machinectl poweroff {machine}" if is_ours else ""


def stop_command(unit: Unit, service: str, of_user: bool, user: str, verb: str = "stop") -> str:
    """Return the command that stops a service, which may belong to another manager than `unit`."""
    name = quote(service)
    if not of_user:
        return f"{'sudo ' if unit.of_user else ''}systemctl {verb} {name}"
    return f"systemctl --user{'' if unit.of_user else f' -M {quote(user)}@'} {verb} {name}"


def find_changing(holders: Iterable[Holder], changes: Mapping[ProcessId, int]) -> str:
    """Return which process changed too often right before its signal, by the number of `changes`; empty if none did."""
    process = next((one.process for one in holders if changes.get(one.process.id, 0) >= MAX_CHANGES), None)
    if process is None:
        return ""
    why = f"{process} changes its cgroup, program, user or sockets faster than it can be judged and signalled"
    return f"{why}; {describe_hand_kill(process)}"


def describe_stuck(view: HostView, processes: Sequence[Process]) -> str:
    """Return the state of processes that did not exit, with advice: of the first few, and the number of the rest."""
    states = []
    for process in processes[:MAX_SHOWN]:
        state = view.describe_process_state(process.id)
        advice = STATE_ADVICE.get(state[:1])
        states.append(f"{process} is in state {state}{f': {advice}' if advice else ''}")
    more = len(processes) - MAX_SHOWN
    return "; ".join(states) + (f"; and {more} more did not exit" if more > 0 else "")
