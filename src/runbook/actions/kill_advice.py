"""Explain why a process is not killed, did not exit, or was started again, and what the operator can do about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.kernel.ancestry import find_ancestors
from runbook.host.ownership.describe import MAX_SHOWN, describe_untracked
from runbook.host.requesters import name_program
from runbook.model import ProcessId, Verdict
from runbook.spec.state import RunState
from runbook.util.wording import shorten

CLOCK_TICK_SLACK = 0.05  # seconds by which a process may seem older than it is: /proc counts in ticks of 10 ms

STATE_ADVICE = {  # what to do about a process that does not exit, by its state in proc(5)
    "D": "it waits in the kernel, where no signal reaches it: find out for what (a dead NFS or FUSE mount, a disk)",
    "t": "another program traces it and keeps it from exiting: stop that program",
    "T": "it is stopped, and acts on no signal but KILL until it is continued: kill -CONT",
}


def find_refusal(unit: Unit, seen: Iterable[PortOwnership], find_mismatch: Callable[[Holder], str]) -> str:
    """Return why no process at all may be signalled; empty if there is no such reason."""
    for ownership in seen:
        for holder in ownership.foreign_holders:
            # A main process that systemd no longer tracks may be killed after a daemon-reload.
            if not holder.may_be_killed and holder.protection != describe_untracked(unit):
                return _explain_protection(unit, ownership, holder)
            if mismatch := find_mismatch(holder):
                return f"port {ownership.port} is held by {holder.process}, which is not what was expected: {mismatch}"
        if ownership.verdict is Verdict.OWNER_UNKNOWN:
            return ownership.reason
    return ""


def _explain_protection(unit: Unit, ownership: PortOwnership, holder: Holder) -> str:
    """Return why a holder of a port is not killed, and the command that stops it, if there is one."""
    why = f"port {ownership.port} is held by {holder.process}: {holder.protection}"
    if holder.role is Role.OTHER_UNIT and (other := unit.describe_alternative(holder.unit)):
        return why + other
    place = parse_cgroup_path(holder.process.cgroup)
    if container := _container_stop_command(place) if place.container else holder.stop_command:
        return f"{why}; stop the container ({container}) or give one of them another port"
    if place.container or not holder.stop_verb:
        return why
    has_unit = holder.unit.endswith(".socket") or (holder.unit.endswith(".service") and not holder.in_manager_cgroup)
    if holder.role is Role.OTHER_UNIT and has_unit:
        of_user = holder.is_user_unit(unit.of_user)
        stop = _stop_command(unit, holder.unit, of_user, holder.process.user, holder.stop_verb)
        return f"{why}; {holder.stop_verb} it ({stop}) or give one of them another port"
    if holder.role is Role.UNKNOWN or holder.in_manager_cgroup:
        return why
    return f"{why}; kill it by hand if it is not needed: kill {holder.process.pid}"


def _container_stop_command(place: CgroupUnit) -> str:
    """Return the command that stops a container, by the name that its engine gave to the scope; else empty."""
    scope, machine = place.unit, place.machine
    if scope.startswith(("docker-", "libpod-")):
        return f"{'docker' if scope.startswith('docker-') else 'podman'} stop {machine}"
    return f"machinectl poweroff {machine}" if machine and scope.startswith(("systemd-nspawn@", "machine-")) else ""


def _stop_command(unit: Unit, service: str, of_user: bool, user: str, verb: str = "stop") -> str:
    """Return the command that stops a service, which may belong to another manager than `unit`."""
    if not of_user:
        return f"systemctl {verb} {service}" + (" as root" if unit.of_user else "")
    return f"systemctl --user{'' if unit.of_user else f' -M {user}@'} {verb} {service}"


def describe_stuck(view: HostView, processes: Sequence[Process]) -> str:
    """Return the state of processes that did not exit, with advice: of the first few, and the number of the rest."""
    states = []
    for process in processes[:MAX_SHOWN]:
        state = view.describe_process_state(process.id)
        advice = STATE_ADVICE.get(state[:1])
        states.append(f"{process} is in state {state}{f': {advice}' if advice else ''}")
    more = len(processes) - MAX_SHOWN
    return "; ".join(states) + (f"; and {more} more did not exit" if more > 0 else "")


def record_ancestors(view: HostView, run: RunState, holder: Holder) -> None:
    """Record the ancestors of a process that is about to be killed."""
    when = holder.process.started + view.clock.now() - view.find_start_time(holder.process)
    for up in find_ancestors(view.find_process, holder.process):
        run.ancestors_of_killed.setdefault(up.id, (str(holder.process), when))


def explain_respawn(
    view: HostView, unit: Unit, run: RunState, killed: Collection[ProcessId], fresh: Sequence[Holder]
) -> str:
    """Return which process started one of `fresh` in the place of a killed one, and how to stop it; else empty."""
    for holder in fresh:
        for up in find_ancestors(view.find_process, holder.process):
            if up.id in killed:
                break  # A process that was signalled may fork until it exits.
            name, when = run.ancestors_of_killed.get(up.id, ("", 0.0))
            if name and holder.process.started >= when - CLOCK_TICK_SLACK:
                return _describe_respawner(unit, name, holder, up)
    return ""


def has_supervisor(view: HostView, run: RunState, killed: Collection[ProcessId]) -> bool:
    """True if an ancestor of a killed process runs that is more than an interactive shell: it may start another."""
    for above in run.ancestors_of_killed:
        up = view.find_process(above.pid)
        if up is not None and up.id == above and above not in killed and name_program(up.name, up.command):
            return True
    return False


def _describe_respawner(unit: Unit, killed: str, holder: Holder, starter: Process) -> str:
    line, place = shorten(" ".join(starter.command) or starter.name), parse_cgroup_path(starter.cgroup)
    stop = f"kill {starter.pid}"
    if place.kind is CgroupKind.SERVICE:
        stop = _stop_command(unit, place.unit, place.user_uid is not None, starter.user)
    return (
        f"{killed} was killed, and {holder.process} took its place; {starter} started it, and runs this command: "
        f"{line}, in {place.unit or starter.cgroup}; make it stop the process, or stop it first ({stop})"
    )


def explain_unknown_respawn(killed: int, fresh: Sequence[Holder]) -> str:
    """Return that an unknown process starts them again, and where to look for it."""
    process = fresh[0].process
    return (
        f"another process starts it again: {process} appeared after {killed} were killed, and its parent has exited; "
        f"stop that other process first; see what else runs there: systemd-cgls {process.cgroup}"
    )
