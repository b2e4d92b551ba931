"""Find the process that starts another in the place of a killed one, and whether it may be killed first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from runbook.actions.kill_advice import stop_command
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Holder, Process
from runbook.host.interface import HostView
from runbook.host.kernel import protected
from runbook.host.kernel.ancestry import find_ancestors, is_typed_into
from runbook.host.requesters import is_interactive_shell, is_runtime, is_shell, name_program
from runbook.model import ProcessId, frozen
from runbook.spec.state import RunState
from runbook.util.wording import shorten

MAX_RESPAWNS = 3  # how often another process may take the place of a killed one before the step gives up
RESPAWN_WAIT = 0.5  # seconds in which another process may take the place of a killed one; then the port counts as free
SUPERVISED_RESPAWN_WAIT = 2.0  # the same if an ancestor of it runs on: an interpreter needs time to start a program
SLOW_RESPAWN_WAIT = 10.0  # the same with `supervisors`: the loop of a script may sleep before it starts another process

CLOCK_TICK_SLACK = 0.05  # seconds by which a process may seem older than it is: /proc counts in ticks of 10 ms

FindMismatch = Callable[[Holder], str]  # returns in what a process differs from `expect`; empty if it matches


@frozen
class Respawn:
    """A process that took the place of a killed one, and the ancestor of both that started it."""

    killed: str  # the name of the killed process
    holder: Holder
    starter: Process

    def explain(self, view: HostView, unit: Unit, find_mismatch: FindMismatch, *, enabled: bool) -> str:
        """Return which process started it, how to stop that, and what `supervisors` does, which may be `enabled`."""
        starter, place = self.starter, parse_cgroup_path(self.starter.cgroup)
        line = shorten(" ".join(starter.command) or starter.name)
        stop = f"kill {starter.pid}"
        if place.kind is CgroupKind.SERVICE:
            stop = stop_command(unit, place.unit, place.user_uid is not None, starter.user)
        first = "" if protected.is_bus(starter) else f", or stop it first ({stop})"
        return (
            f"{self.killed} was killed, and {self.holder.process} took its place; {starter} started it, and runs this "
            f"command: {line}, in {place.unit or starter.cgroup}; make it stop the process{first}"
            f"{_describe_remedy(view.judge_process(unit, starter), find_mismatch, enabled=enabled)}"
        )


def record_ancestors(view: HostView, run: RunState, holder: Holder) -> None:
    """Record the ancestors of a process that is about to be killed."""
    when = holder.process.started + view.clock.now() - view.find_start_time(holder.process)
    for ancestor in find_ancestors(view.find_process, holder.process):
        run.ancestors_of_killed.setdefault(ancestor.id, (str(holder.process), when))


def find_respawn(
    view: HostView, run: RunState, targets: Collection[ProcessId], holders: Sequence[Holder]
) -> Respawn | None:
    """Return which process started one of these holders in the place of a killed one; None if that is not certain.

    An ancestor of both did so if its own child, through which it is one, was started after the kill. If that child is
    older, the child may have done it.
    """
    for holder in holders:
        child = holder.process
        for ancestor in find_ancestors(view.find_process, holder.process):
            if ancestor.id in targets:
                break  # A process that was signalled may fork until it exits.
            name, when = run.ancestors_of_killed.get(ancestor.id, ("", 0.0))
            if name and child.started >= when - CLOCK_TICK_SLACK:
                return Respawn(name, holder, ancestor)
            child = ancestor
    return None


def find_wait(view: HostView, run: RunState, targets: Collection[ProcessId], *, thorough: bool) -> float:
    """Return for how many seconds after the last exit another process may take the place of a killed one.

    An ancestor that runs on may start one, if it is more than a shell without a script. If `thorough`, any shell but an
    interactive one may, too: `bash -c` may be a loop.
    """
    for id_ in run.ancestors_of_killed:
        process = view.find_process(id_.pid)
        if process is None or process.id != id_ or id_ in targets:
            continue
        is_script = thorough and is_shell(process.name) and not is_interactive_shell(process.name, process.command)
        if is_script or name_program(process.name, process.command):
            return SLOW_RESPAWN_WAIT if thorough else SUPERVISED_RESPAWN_WAIT
    return RESPAWN_WAIT


def find_supervisors(
    view: HostView, unit: Unit, holders: Sequence[Holder], respawn: Respawn | None, find_mismatch: FindMismatch
) -> list[Holder]:
    """Return the processes that would start these again, as far as they are known and may be killed themselves.

    A parent of the same program in the same cgroup is one, as of squid's worker. Of any other ancestor that only shows
    when it has started another process, as in `respawn`.
    """
    parents = ((view.find_process(holder.process.ppid), holder) for holder in holders)
    processes = [parent for parent, holder in parents if parent is not None and _is_master(parent, holder)]
    processes += [respawn.starter] if respawn and not is_typed_into(respawn.starter) else []
    starters = {process.id: view.judge_process(unit, process) for process in processes}
    return [holder for holder in starters.values() if holder.may_be_killed and not find_mismatch(holder)]


def _describe_remedy(starter: Holder, find_mismatch: FindMismatch, *, enabled: bool) -> str:
    """Describe what `supervisors: true` does about the process that starts others: it kills it, or why it does not."""
    why = starter.protection or ("" if starter.may_be_killed else starter.why) or find_mismatch(starter)
    why = why or ("it is an interactive shell" if is_typed_into(starter.process) else "")
    if not why:
        return ": `supervisors: true` does that"
    return f"; `supervisors: true` does not, because {why}" if enabled else ""


def explain_unknown_respawn(count: int, process: Process) -> str:
    """Return that an unknown process starts killed ones again, as it did with `process`, and where to look for it."""
    return (
        f"another process starts it again: {process} appeared after {count} were killed, and its parent has exited; "
        f"stop that other process first; see what else runs there: systemd-cgls {process.cgroup}"
    )


def _is_master(parent: Process, holder: Holder) -> bool:
    worker = holder.process
    # A worker that runs as another user got its socket from its master. A user cannot make another one's process seem
    # to be the master, because he cannot create a socket of that user's.
    is_trusted = parent.uid == worker.uid or all(socket.uid == parent.uid for socket in holder.sockets)
    is_same_program = parent.exe_path == worker.exe_path != "" and parent.cgroup == worker.cgroup
    # Python may run anything: the same interpreter is the same program only after a fork.
    is_fork = parent.command == worker.command or not is_runtime(worker.program)
    return not parent.dead and is_trusted and is_same_program and is_fork and parent.id.start <= worker.id.start
