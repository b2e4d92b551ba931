"""This machine: both witnesses, and the hands that act, put together behind the doors of `ports`."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Mapping
from functools import cached_property
from types import TracebackType
from typing import Self

from runbook.host import ending, processes, sockets
from runbook.host.addresses import Scope
from runbook.host.commands import Commands, hindrance
from runbook.host.facts import Holder, JobRef, JobResult, JobVerb, Listener, PortOwnership, Process, Sent, Unit
from runbook.host.loop import Loop
from runbook.host.ownership import LOOKS, Judge, changing
from runbook.host.questions import Questions
from runbook.host.sockets import SocketTable
from runbook.host.systemd import Systemd
from runbook.host.tasks import Answer, Command, CommandResult, Question
from runbook.model import Clock, Deadline, Port, ProcessId, SystemClock, Wake


class LocalHost:
    """The machine it runs on, seen through one manager; a `Host` and a `Waiter`.

    One at a time, in the main thread: it takes SIGINT, SIGTERM and SIGHUP until it is closed. Raises
    BusUnavailable when no systemd answers.
    """

    def __init__(self, scope: Scope = "system", *, clock: Clock | None = None) -> None:
        self.scope = scope
        self._elsewhere: set[str] = set()
        self.clock: Clock = clock or SystemClock()
        with contextlib.ExitStack() as undo:
            self._sockets = undo.enter_context(SocketTable())
            self.loop = Loop(look=self._sockets.look, pidfd=ending.pidfd, clock=self.clock)
            undo.callback(self.loop.close)
            self.systemd = Systemd(scope, self.loop)
            undo.callback(self.systemd.close)
            self._commands = Commands(self.systemd, self.loop)
            self._questions = Questions(self.loop, lambda: self.manager_environment)
            undo.callback(self._questions.close)
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is still being asked, leave the bus, and give the signals back. May be called twice."""
        self._undo.close()

    @cached_property
    def manager_environment(self) -> Mapping[str, str]:
        """What the manager gives every command, PATH among it."""
        return self.systemd.manager_environment()

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over."""
        for name in wake.units:
            self.systemd.watch(name)
        self.loop.wait(wake, deadline)

    # Looking

    def unit(self, name: str) -> Unit:
        """Look at a unit."""
        return self.systemd.unit(name)

    def ownership(self, unit: Unit, port: Port) -> PortOwnership:
        """Judge who listens on `port`, as seen by `unit`."""
        for _ in range(LOOKS):
            seen = self._judge(unit).judge(port)
            # The unit may have been restarted while the processes were read: then all of it is judged anew.
            now = self.systemd.unit(unit.name)
            if _same_moment(unit, now):
                return seen
            unit = now
        return changing(port)

    def leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        """Give the processes of the unit's earlier invocations."""
        return self._judge(unit).leftovers()

    def _judge(self, unit: Unit) -> Judge:
        uid = None if self.scope == "system" else os.geteuid()
        return Judge(
            unit,
            _Kernel(self._sockets, self.loop),
            self.systemd.live_state,
            self.systemd.unit,
            self.systemd.unit_of_invocation,
            self._own_network(unit),
            uid,
        )

    def _own_network(self, unit: Unit) -> bool:
        """Whether a unit is in another network namespace than this program, by its settings or its own doing.

        One that was seen so once, as with `ip netns exec`, is taken to be so while it is down as well.
        """
        if unit.private_network or unit.network_namespace_path:
            return True
        if unit.main_pid and processes.in_other_network(unit.main_pid):
            self._elsewhere.add(unit.name)
        return unit.name in self._elsewhere

    def runs_inside(self, unit: Unit) -> bool:
        """Whether this very program is a process of the unit."""
        me = processes.read(os.getpid())
        group = unit.control_group
        return bool(group) and me is not None and f"{me.cgroup}/".startswith(f"{group}/")

    def job(self, ref: JobRef) -> JobResult | None:
        """Tell how a job ended, or None while it is queued or running."""
        return self.systemd.job(ref)

    def command_result(self, ref: JobRef) -> CommandResult:
        """Tell how the command of an ended job ended."""
        return self._commands.result(ref)

    def lives(self, process: ProcessId) -> bool:
        """Whether this very process is still there."""
        return processes.lives(process)

    def process_state(self, process: ProcessId) -> str:
        """Give the state letter of a process, and where it waits."""
        return processes.state_of(process)

    def hindrance(self, command: Command) -> str:
        """Say what is sure to keep a command from starting."""
        return hindrance(command)

    def ask(self, question: Question) -> Answer | None:
        """Ask something that may take a while: None as long as the answer is on its way."""
        return self._questions.ask(question)

    # Acting

    def begin_job(self, verb: JobVerb, unit: str) -> JobRef:
        """Ask systemd for a job and do not wait."""
        return self.systemd.begin_job(verb, unit)

    def cancel_job(self, ref: JobRef) -> None:
        """Take a job back."""
        self.systemd.cancel_job(ref)

    def daemon_reload(self) -> None:
        """Let systemd read its unit files again."""
        self.systemd.daemon_reload()

    def reset_failed(self, unit: str) -> None:
        """Clear the failed state, and the start-limit counter, of one unit."""
        self.systemd.reset_failed(unit)

    def begin_command(self, name: str, command: Command) -> JobRef:
        """Start a command in a transient unit of its own."""
        return self._commands.begin(name, command)

    def stop_command(self, ref: JobRef) -> None:
        """End a command with all that it started."""
        self._commands.stop(ref)

    def end(self, unit: Unit, holder: Holder, signum: signal.Signals) -> Sent:
        """Signal one process, if it is still the one that was judged, and still nobody's."""

        def still(process: Process) -> bool:
            # The unit may have been started anew since, and this be its main process.
            return self._judge(self.systemd.unit(unit.name)).holder(process, holder.sockets).may_be_ended

        return ending.end(holder, signum, still=still)


def _same_moment(before: Unit, now: Unit) -> bool:
    """Whether a unit is at the same point of its life in two looks."""
    return (before.invocation_id, before.main_pid, before.runs) == (now.invocation_id, now.main_pid, now.runs)


class _Kernel:
    """The kernel's side of a judgement, through the loop, which remembers each look at the sockets."""

    def __init__(self, sockets: SocketTable, loop: Loop) -> None:
        self._sockets = sockets
        self._loop = loop
        self._me = ending.Me.now()

    def listeners(self, port: Port) -> tuple[Listener, ...]:
        listeners = self._sockets.listeners(port)
        self._loop.saw(port, frozenset(listener.inode for listener in listeners))
        return listeners

    def listeners_of(self, pid: int, port: Port) -> tuple[Listener, ...]:
        return sockets.listeners_of(pid, port)

    def in_cgroup(self, path: str) -> tuple[int, ...]:
        return processes.in_cgroup(path)

    def holders(self, inodes: Collection[int]) -> processes.Scan:
        return processes.holders(inodes)

    def read(self, pid: int) -> Process | None:
        return processes.read(pid)

    def contained(self, process: Process) -> str:
        return ending.contained(process, self._me)

    def spared_by(self, process: Process) -> str:
        return ending.protected(process, me=self._me)
