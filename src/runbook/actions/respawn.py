"""Find the process that starts another in the place of a killed one, and whether it may be killed first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from runbook.actions.kill_advice import stop_command
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Holder, Process
from runbook.host.interface import HostView
from runbook.host.kernel import protected
from runbook.host.kernel.ancestry import find_ancestors
from runbook.host.requesters import is_interactive_shell, is_runtime, is_shell, name_program
from runbook.model import ProcessId
from runbook.spec.state import RunState
from runbook.util.wording import shorten

CLOCK_TICK_SLACK = 0.05  # seconds by which a process may seem older than it is: /proc counts in ticks of 10 ms

FindMismatch = Callable[[Holder], str]  # returns in what a process differs from `expect`; empty if it matches


@dataclass(frozen=True)
class Respawn:
    """A process that took the place of a killed one, and the ancestor of both that started it."""

    killed: str
    holder: Holder
    starter: Process

    def explain(self, unit: Unit, remedy: str) -> str:
        """Return which process started it, and how to stop that; `remedy` is about `supervisors`."""
        starter, place = self.starter, parse_cgroup_path(self.starter.cgroup)
        line = shorten(" ".join(starter.command) or starter.name)
        stop = f"kill {starter.pid}"
        if place.kind is CgroupKind.SERVICE:
            stop = stop_command(unit, place.unit, place.user_uid is not None, starter.user)
        first = "" if protected.is_bus(starter) else f", or stop it first ({stop})"
        return (
            f"{self.killed} was killed, and {self.holder.process} took its place; {starter} started it, and runs this "
            f"command: {line}, in {place.unit or starter.cgroup}; make it stop the process{first}{remedy}"
        )


def record_ancestors(view: HostView, run: RunState, holder: Holder) -> None:
    """Record the ancestors of a process that is about to be killed."""
    when = holder.process.started + view.clock.now() - view.find_start_time(holder.process)
    for up in find_ancestors(view.find_process, holder.process):
        run.ancestors_of_killed.setdefault(up.id, (str(holder.process), when))


def find_respawn(
    view: HostView, run: RunState, killed: Collection[ProcessId], fresh: Sequence[Holder]
) -> Respawn | None:
    """Return which process started one of `fresh` in the place of a killed one; None if that is not certain.

    An ancestor of both did so if its own child, through which it is one, was started after the kill. If that child is
    older, the child may have done it.
    """
    for holder in fresh:
        below = holder.process
        for up in find_ancestors(view.find_process, holder.process):
            if up.id in killed:
                break  # A process that was signalled may fork until it exits.
            name, when = run.ancestors_of_killed.get(up.id, ("", 0.0))
            if name and below.started >= when - CLOCK_TICK_SLACK:
                return Respawn(name, holder, up)
            below = up
    return None


def has_supervisor(view: HostView, run: RunState, killed: Collection[ProcessId], *, thorough: bool = False) -> bool:
    """True if an ancestor of a killed process runs that is more than a shell without a script: it may start another.

    If `thorough`, any shell but an interactive one counts, too: `bash -c` may be a loop.
    """
    for above in run.ancestors_of_killed:
        up = view.find_process(above.pid)
        if up is None or up.id != above or above in killed:
            continue
        is_script = thorough and is_shell(up.name) and not is_interactive_shell(up.name, up.command)
        if is_script or name_program(up.name, up.command):
            return True
    return False


def find_supervisors(
    view: HostView, unit: Unit, holders: Sequence[Holder], again: Respawn | None, find_mismatch: FindMismatch
) -> list[Holder]:
    """Return the processes that would start these again, as far as they are known and may be killed themselves.

    A parent of the same program in the same cgroup is one, as of squid's worker. Of any other ancestor that only shows
    when it has started another process, as in `again`.
    """
    parents = ((view.find_process(holder.process.ppid), holder) for holder in holders)
    found = [parent for parent, holder in parents if parent is not None and _is_master(parent, holder)]
    found += [again.starter] if again else []
    judged = {one.id: view.judge_process(unit, one) for one in found}
    return [one for one in judged.values() if one.may_be_killed and not find_mismatch(one)]


def describe_remedy(view: HostView, unit: Unit, again: Respawn, find_mismatch: FindMismatch, *, enabled: bool) -> str:
    """Describe what `supervisors: true` does about the process that starts others: it kills it, or why it does not."""
    starter = view.judge_process(unit, again.starter)
    why = starter.protection or ("" if starter.may_be_killed else starter.why) or find_mismatch(starter)
    if not why:
        return ": `supervisors: true` does that"
    return f"; `supervisors: true` does not, because {why}" if enabled else ""


def explain_unknown_respawn(killed: int, fresh: Sequence[Holder]) -> str:
    """Return that an unknown process starts them again, and where to look for it."""
    process = fresh[0].process
    return (
        f"another process starts it again: {process} appeared after {killed} were killed, and its parent has exited; "
        f"stop that other process first; see what else runs there: systemd-cgls {process.cgroup}"
    )


def _is_master(parent: Process, holder: Holder) -> bool:
    worker = holder.process
    # A worker that runs as another user got its socket from its master. A user cannot make another one's process seem
    # to be the master, because he cannot create a socket of that user's.
    trusted = parent.uid == worker.uid or all(socket.uid == parent.uid for socket in holder.sockets)
    alike = parent.exe_path == worker.exe_path != "" and parent.cgroup == worker.cgroup
    # Python may run anything: the same interpreter is the same program only after a fork.
    forked = parent.command == worker.command or not is_runtime(worker.program)
    return not parent.dead and trusted and alike and forked and parent.id.start <= worker.id.start
