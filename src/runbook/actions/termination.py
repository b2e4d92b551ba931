"""What `kill-orphan` knows of the processes it ends: who they are, who starts them anew, and why one must live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

from runbook.actions.cgroup_kill import CgroupKill
from runbook.errors import HostError
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.kernel.ancestry import find_ancestors
from runbook.host.ownership.describe import MAX_SHOWN
from runbook.host.queries import JournalLine, JournalTailQuery, Query
from runbook.host.requesters import name_program
from runbook.model import ProcessId
from runbook.spec.state import StepState

MAX_TAIL_PIDS = 100
"""Of so many processes the journal is asked for their last lines."""

EVIDENCE_TIMEOUT = 2.0
"""Seconds for that: evidence is worth a moment, and no more."""

CLOCK_TICK_SLACK = 0.05
"""Seconds by which a process may seem older than it is: /proc counts in ticks of 10 ms."""

MAX_COMMAND_TEXT = 60
"""So many characters of a command line stand in a sentence."""

STATE_ADVICE = {
    "D": "it waits in the kernel, where no signal reaches it: see what it waits for (a dead NFS or FUSE mount, a disk)",
    "t": "another program traces it and does not let it go: end that one",
    "T": "it is stopped and heeds nothing but KILL until it goes on: kill -CONT",
}
"""What a process in such a state (proc(5)) needs, that does not end."""


@dataclass
class KillTarget:
    """A process that was signalled: who it is, with what, and when (seconds of the monotonic clock)."""

    holder: Holder
    signum: Signals
    signalled_at: float


@dataclass
class KillOrphanState(StepState):
    """The processes that were signalled, by PID and start; and what was seen of them before.

    Seconds are those of the monotonic clock. `sockets` are what strangers held; `quiet` says since when all have ended
    and nobody has come in their place. `question` asks for the last words of those that are next, until `heard_until`.
    `sweep` is what became of ending all that is left at once. `reloaded` says that systemd was made to let go of a main
    process that it had lost sight of.
    """

    targets: dict[ProcessId, KillTarget] = field(default_factory=dict)
    sockets: set[int] = field(default_factory=set)
    rounds: int = 0
    query: Query[tuple[JournalLine, ...]] | None = None
    query_deadline: float = 0.0
    port_free_since: float | None = None
    cgroup_kill: CgroupKill = field(default_factory=CgroupKill)
    reloaded: bool = False


def find_respawner(view: HostView, unit: Unit, state: KillOrphanState, fresh: Sequence[Holder]) -> str:
    """Say who started one of these after its like was ended, and how to stop that; nothing if nobody is seen to."""
    for holder in fresh:
        for up in find_ancestors(view.find_process, holder.process):
            if up.id in state.targets:
                break  # What is being ended may bear children to its last moment.
            ended, when = state.run.ancestors_of_killed.get(up.id, ("", 0.0))
            if ended and holder.process.started >= when - CLOCK_TICK_SLACK:
                return _describe_respawner(unit, ended, holder, up)
    return ""


def record_ancestors(view: HostView, state: KillOrphanState, holder: Holder) -> None:
    """Keep from whom a process descends that is about to be ended."""
    when = holder.process.started + view.clock.now() - view.find_start_time(holder.process)
    for up in find_ancestors(view.find_process, holder.process):
        state.run.ancestors_of_killed.setdefault(up.id, (str(holder.process), when))


def has_supervisor(view: HostView, state: KillOrphanState) -> bool:
    """Whether a process lives from which one of these descended, and that is no mere shell: it may start another."""
    for above in state.run.ancestors_of_killed:
        up = view.find_process(above.pid)
        if up is not None and up.id == above and above not in state.targets and name_program(up.name, up.command):
            return True
    return False


def _describe_respawner(unit: Unit, ended: str, holder: Holder, starter: Process) -> str:
    line = " ".join(starter.command) or starter.name
    line = line if len(line) <= MAX_COMMAND_TEXT else line[:MAX_COMMAND_TEXT] + "..."
    place = parse_cgroup_path(starter.cgroup)
    service = place.kind is CgroupKind.SERVICE
    stop = (
        _stop_command(unit, place.unit, place.user_uid is not None, starter.user) if service else f"kill {starter.pid}"
    )
    return (
        f"{ended} ended, and {holder.process} came instead: it was started by {starter}, as that was: {line}, in "
        f"{place.unit or starter.cgroup}; have that stop it, or stop that first ({stop})"
    )


def describe_unknown_respawner(state: KillOrphanState, fresh: Sequence[Holder]) -> str:
    """Say that something starts them again, where no parent of theirs is left to tell, and where to look."""
    process = fresh[0].process
    return (
        f"something starts it again: {process} came after {len(state.targets)} were ended, and what started it is "
        f"gone; stop that first; see what else runs there: systemd-cgls {process.cgroup}"
    )


def gather_evidence(
    view: HostView, unit: Unit, state: KillOrphanState, fresh: Sequence[Holder], *, secret: bool
) -> Any:
    """Give what is to be known of processes before they are ended; None while the journal is being read.

    Of their environment there are the names alone: its values are where programs keep their secrets.
    """
    now = view.clock.monotonic()
    if state.query is None:
        pids = tuple(holder.process.pid for holder in fresh[:MAX_TAIL_PIDS])
        since = min(view.find_start_time(holder.process) for holder in fresh)
        wanted = JournalTailQuery("", since, unit.of_user, pids=pids)
        state.query = Query(wanted, state.run.next_query_id(), EVIDENCE_TIMEOUT)
        state.query_deadline = now + EVIDENCE_TIMEOUT
    lines: tuple[JournalLine, ...] = ()
    if not secret:
        try:
            answer = view.query(state.query)
        except HostError:
            answer = None
        else:
            if answer is None and now < state.query_deadline:
                return None
        lines = (answer.value or ()) if answer is not None else ()
    return [_holder_evidence(holder, lines) for holder in fresh]


def _holder_evidence(holder: Holder, lines: Sequence[JournalLine]) -> Mapping[str, Any]:
    journal = [line.text for line in lines if line.pid == holder.process.pid]
    known = {**holder.evidence(), "environment": list(holder.process.environment)}
    return {**known, "journal": journal} if journal else known


def collect_foreign_holders(seen: Iterable[PortOwnership]) -> list[Holder]:
    """Give the processes on the ports that are not the unit's, each once."""
    found: dict[ProcessId, Holder] = {}
    for ownership in seen:
        for holder in ownership.foreign_holders:
            found.setdefault(holder.process.id, holder)
    return list(found.values())


def explain_refusal(unit: Unit, ownership: PortOwnership, holder: Holder) -> str:
    """Say why a process on a port is not ended, and what can be done instead."""
    why = f"port {ownership.port} is held by {holder.process}: {holder.protection}"
    place = parse_cgroup_path(holder.process.cgroup)
    if holder.role is Role.OTHER_UNIT and (other := unit.describe_alternative(holder.unit)):
        return why + other
    if place.container:
        return why + _container_stop_hint(place.unit, place.machine)
    if holder.stop_command:
        return why + f"; stop the container ({holder.stop_command}) or give one of them another port"
    has_unit = holder.unit.endswith(".socket") or (holder.unit.endswith(".service") and not holder.in_manager_cgroup)
    if holder.role is Role.OTHER_UNIT and has_unit and holder.stop_verb:
        end = _stop_command(unit, holder.unit, holder.is_user_unit(unit.of_user), holder.process.user, holder.stop_verb)
        why += f"; {holder.stop_verb} it ({end}) or give one of them another port"
    elif holder.role is not Role.UNKNOWN and holder.stop_verb and not holder.in_manager_cgroup:
        why += f"; if it may go, end it by hand: kill {holder.process.pid}"
    return why


def _container_stop_hint(scope: str, machine: str) -> str:
    """Give the command that stops a container, by the way its engine names its scope."""
    if scope.startswith("docker-"):
        return f"; stop the container (docker stop {machine}) or give one of them another port"
    if scope.startswith("libpod-"):
        return f"; stop the container (podman stop {machine}) or give one of them another port"
    if scope.startswith(("systemd-nspawn@", "machine-")) and machine:
        return f"; stop the container (machinectl poweroff {machine}) or give one of them another port"
    return ""


def _stop_command(unit: Unit, service: str, of_user: bool, user: str, verb: str = "stop") -> str:
    """Give the command that stops a service, whose manager may be another than the unit's."""
    if not of_user:
        return f"systemctl {verb} {service}" + (" as root" if unit.of_user else "")
    whose = "" if unit.of_user else f" -M {user}@"
    return f"systemctl --user{whose} {verb} {service}"


def describe_stuck(view: HostView, targets: Iterable[KillTarget]) -> str:
    """Say of those that did not end in which state they are, and what they need: of a few, for they may be many."""
    told, targets = [], list(targets)
    for target in targets[:MAX_SHOWN]:
        process = target.holder.process
        state = view.describe_process_state(process.id)
        advice = STATE_ADVICE.get(state[:1], "")
        told.append(f"{process} is in state {state}" + (f": {advice}" if advice else ""))
    more = len(targets) - MAX_SHOWN
    return "; ".join(told) + (f"; and {more} more did not end" if more > 0 else "")
