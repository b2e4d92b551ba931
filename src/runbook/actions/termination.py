"""What `kill-orphan` knows of the processes it ends: who they are, who starts them anew, and why one must live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

from runbook.actions.cgroup_kill import Sweep
from runbook.errors import HostError
from runbook.host.cgroups import Kind, unit_of
from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.kernel.ancestry import ancestry
from runbook.host.ownership.describe import SHOWN
from runbook.host.queries import LastWords, Question
from runbook.host.requesters import telling
from runbook.model import ProcessId
from runbook.spec.state import Memory
from runbook.util.stdio import lines

MOST_HEARD = 100
"""Of so many processes the journal is asked for their last lines."""

HEARING = 2.0
"""Seconds for that: evidence is worth a moment, and no more."""

SLACK = 0.05
"""Seconds by which a process may seem older than it is: /proc counts in ticks of 10 ms."""

MOST_COMMAND = 60
"""So many characters of a command line stand in a sentence."""

STATE_ADVICE = {
    "D": "it waits in the kernel, where no signal reaches it: see what it waits for (a dead NFS or FUSE mount, a disk)",
    "t": "another program traces it and does not let it go: end that one",
    "T": "it is stopped and heeds nothing but KILL until it goes on: kill -CONT",
}
"""What a process in such a state (proc(5)) needs, that does not end."""


@dataclass
class Target:
    """A process that was signalled: who it is, with what, and when (seconds of the monotonic clock)."""

    holder: Holder
    signum: Signals
    at: float


@dataclass
class KillMemory(Memory):
    """The processes that were signalled, by PID and start; and what was seen of them before.

    Seconds are those of the monotonic clock. `sockets` are what strangers held; `quiet` says since when all have ended
    and nobody has come in their place. `question` asks for the last words of those that are next, until `heard_until`.
    `sweep` is what became of ending all that is left at once. `reloaded` says that systemd was made to let go of a main
    process that it had lost sight of.
    """

    targets: dict[ProcessId, Target] = field(default_factory=dict)
    sockets: set[int] = field(default_factory=set)
    rounds: int = 0
    question: Question | None = None
    heard_until: float = 0.0
    quiet: float | None = None
    sweep: Sweep = field(default_factory=Sweep)
    reloaded: bool = False


def started_again(view: HostView, unit: Unit, memory: KillMemory, fresh: Sequence[Holder]) -> str:
    """Say who started one of these after its like was ended, and how to stop that; nothing if nobody is seen to."""
    for holder in fresh:
        for up in ancestry(view.process, holder.process):
            if up.id in memory.targets:
                break  # What is being ended may bear children to its last moment.
            ended, when = memory.run.ended_below.get(up.id, ("", 0.0))
            if ended and holder.process.started >= when - SLACK:
                return _by_starter(unit, ended, holder, up)
    return ""


def remember(view: HostView, memory: KillMemory, holder: Holder) -> None:
    """Keep from whom a process descends that is about to be ended."""
    when = holder.process.started + view.clock.now() - view.began(holder.process)
    for up in ancestry(view.process, holder.process):
        memory.run.ended_below.setdefault(up.id, (str(holder.process), when))


def supervised(view: HostView, memory: KillMemory) -> bool:
    """Whether a process lives from which one of these descended, and that is no mere shell: it may start another."""
    for above in memory.run.ended_below:
        up = view.process(above.pid)
        if up is not None and up.id == above and above not in memory.targets and telling(up.name, up.command):
            return True
    return False


def _by_starter(unit: Unit, ended: str, holder: Holder, starter: Process) -> str:
    line = " ".join(starter.command) or starter.name
    line = line if len(line) <= MOST_COMMAND else line[:MOST_COMMAND] + "..."
    place = unit_of(starter.cgroup)
    service = place.kind is Kind.SERVICE
    stop = _stopped(unit, place.unit, place.user_uid is not None, starter.user) if service else f"kill {starter.pid}"
    return (
        f"{ended} ended, and {holder.process} came instead: it was started by {starter}, as that was: {line}, in "
        f"{place.unit or starter.cgroup}; have that stop it, or stop that first ({stop})"
    )


def unknown_starter(memory: KillMemory, fresh: Sequence[Holder]) -> str:
    """Say that something starts them again, where no parent of theirs is left to tell, and where to look."""
    process = fresh[0].process
    return (
        f"something starts it again: {process} came after {len(memory.targets)} were ended, and what started it is "
        f"gone; stop that first; see what else runs there: systemd-cgls {process.cgroup}"
    )


def evidence(view: HostView, unit: Unit, memory: KillMemory, fresh: Sequence[Holder], *, secret: bool) -> Any:
    """Give what is to be known of processes before they are ended; None while the journal is being read.

    Of their environment there are the names alone: its values are where programs keep their secrets.
    """
    now = view.clock.monotonic()
    if memory.question is None:
        pids = tuple(holder.process.pid for holder in fresh[:MOST_HEARD])
        since = min(view.began(holder.process) for holder in fresh)
        wanted = LastWords("", since, unit.of_user, pids=pids)
        memory.question = Question(wanted, memory.run.new_question(), HEARING)
        memory.heard_until = now + HEARING
    said: list[str] = []
    if not secret:
        try:
            answer = view.ask(memory.question)
        except HostError:
            answer = None
        else:
            if answer is None and now < memory.heard_until:
                return None
        said = lines(answer.output) if answer is not None and answer.good else []
    return [_known(holder, said) for holder in fresh]


def _known(holder: Holder, said: Sequence[str]) -> Mapping[str, Any]:
    mine = f"{holder.process.pid}: "
    words = [line.removeprefix(mine) for line in said if line.startswith(mine)]
    known = {**holder.evidence(), "environment": list(holder.process.environment)}
    return {**known, "journal": words} if words else known


def strangers(seen: Iterable[PortOwnership]) -> list[Holder]:
    """Give the processes on the ports that are not the unit's, each once."""
    found: dict[ProcessId, Holder] = {}
    for ownership in seen:
        for holder in ownership.strangers:
            found.setdefault(holder.process.id, holder)
    return list(found.values())


def why_it_lives(unit: Unit, ownership: PortOwnership, holder: Holder) -> str:
    """Say why a process on a port is not ended, and what can be done instead."""
    why = f"port {ownership.port} is held by {holder.process}: {holder.spared}"
    place = unit_of(holder.process.cgroup)
    if holder.role is Role.OTHER_UNIT and (other := unit.instead_of(holder.unit)):
        return why + other
    if place.container:
        return why + _container_stopped(place.unit, place.machine)
    if holder.stop:
        return why + f"; stop the container ({holder.stop}) or give one of them another port"
    has_unit = holder.unit.endswith(".socket") or (holder.unit.endswith(".service") and not holder.beside_manager)
    if holder.role is Role.OTHER_UNIT and has_unit and holder.ended_by:
        end = _stopped(unit, holder.unit, holder.of_user(unit.of_user), holder.process.user, holder.ended_by)
        why += f"; {holder.ended_by} it ({end}) or give one of them another port"
    elif holder.role is not Role.UNKNOWN and holder.ended_by and not holder.beside_manager:
        why += f"; if it may go, end it by hand: kill {holder.process.pid}"
    return why


def _container_stopped(scope: str, machine: str) -> str:
    """Give the command that stops a container, by the way its engine names its scope."""
    if scope.startswith("docker-"):
        return f"; stop the container (docker stop {machine}) or give one of them another port"
    if scope.startswith("libpod-"):
        return f"; stop the container (podman stop {machine}) or give one of them another port"
    if scope.startswith(("systemd-nspawn@", "machine-")) and machine:
        return f"; stop the container (machinectl poweroff {machine}) or give one of them another port"
    return ""


def _stopped(unit: Unit, service: str, of_user: bool, user: str, verb: str = "stop") -> str:
    """Give the command that stops a service, whose manager may be another than the unit's."""
    if not of_user:
        return f"systemctl {verb} {service}" + (" as root" if unit.of_user else "")
    whose = "" if unit.of_user else f" -M {user}@"
    return f"systemctl --user{whose} {verb} {service}"


def stuck(view: HostView, targets: Iterable[Target]) -> str:
    """Say of those that did not end in which state they are, and what they need: of a few, for they may be many."""
    told, targets = [], list(targets)
    for target in targets[:SHOWN]:
        process = target.holder.process
        state = view.process_state(process.id)
        advice = STATE_ADVICE.get(state[:1], "")
        told.append(f"{process} is in state {state}" + (f": {advice}" if advice else ""))
    more = len(targets) - SHOWN
    return "; ".join(told) + (f"; and {more} more did not end" if more > 0 else "")
