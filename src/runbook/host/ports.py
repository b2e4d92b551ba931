"""The two doors to the machine. `HostView` only looks; `Host` may also act.

A step's `check` gets the first, its `apply` the second: a dry run that writes does not type-check.
Nothing here blocks for longer than its own time-out says, and nothing here waits for the machine to change:
that is the `Waiter`'s part, and only the engine has it.
"""

from __future__ import annotations

import signal
from typing import Protocol

from runbook.host.facts import Holder, JobRef, JobResult, JobVerb, PortOwnership, Sent, Unit
from runbook.host.tasks import Answer, Command, CommandResult, Question
from runbook.model import Clock, Deadline, Port, ProcessId, Wake


class HostView(Protocol):
    """What can be seen of a machine, without changing it."""

    @property
    def clock(self) -> Clock:
        """Where it takes the time from."""

    def unit(self, name: str) -> Unit:
        """Look at a unit. One that does not exist reads LoadState=not-found.

        Raises HostError when systemd does not answer.
        """

    def ownership(self, unit: Unit, port: Port) -> PortOwnership:
        """Judge who listens on `port`, as seen by `unit`."""

    def leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        """Give the processes of earlier invocations that are still in the unit's cgroup."""

    def runs_inside(self, unit: Unit) -> bool:
        """Whether this very program is a process of the unit, and would be stopped with it."""

    def job(self, ref: JobRef) -> JobResult | None:
        """Tell how a job ended, or None while it is queued or running."""

    def command_result(self, ref: JobRef) -> CommandResult:
        """Tell how the command of an ended job of `Host.begin_command` ended."""

    def lives(self, process: ProcessId) -> bool:
        """Whether this very process is still there. A zombie is not."""

    def process_state(self, process: ProcessId) -> str:
        """Give the state letter of proc(5) (`S`, `D`, …) and where it waits, for a message."""

    def hindrance(self, command: Command) -> str:
        """Say what is sure to keep a command from starting: no such user, no such folder. Empty if nothing is."""

    def ask(self, question: Question) -> Answer | None:
        """Ask something that may take a while: None as long as the answer is on its way.

        It runs beside, as a child or a thread of this program, and is stopped at its time-out. This is the
        one door for commands of the operator's that merely observe.
        """


class ReadOnlyHost:
    """A machine with its hands tied: what a dry run gets. There is nothing here that writes."""

    def __init__(self, view: HostView) -> None:
        self.clock = view.clock
        self.unit = view.unit
        self.ownership = view.ownership
        self.leftovers = view.leftovers
        self.runs_inside = view.runs_inside
        self.job = view.job
        self.command_result = view.command_result
        self.lives = view.lives
        self.process_state = view.process_state
        self.hindrance = view.hindrance
        self.ask = view.ask


class Host(HostView, Protocol):
    """A machine that may be changed."""

    def begin_job(self, verb: JobVerb, unit: str) -> JobRef:
        """Ask systemd for a job and do not wait. Its end is heard even if it comes before the answer.

        Raises AccessDenied, NoSuchUnit, UnitMasked, HostError.
        """

    def cancel_job(self, ref: JobRef) -> None:
        """Take a job back that is still queued or running; one that has ended is let be."""

    def daemon_reload(self) -> None:
        """Let systemd read its unit files again."""

    def reset_failed(self, unit: str) -> None:
        """Clear the failed state, and the start-limit counter, of this one unit."""

    def begin_command(self, name: str, command: Command) -> JobRef:
        """Start a command in a transient unit of its own, so that it outlives this program.

        `name` becomes part of the unit's name. Its output goes to `command.output`.
        """

    def stop_command(self, ref: JobRef) -> None:
        """End the command of `begin_command` with all that it started, and wait until that is so.

        It takes ten seconds at most. Raises BusTimeout if it did not end.
        """

    def end(self, unit: Unit, holder: Holder, signum: signal.Signals) -> Sent:
        """Signal one process that is in the unit's way, if it is still the one that was judged.

        Through a pidfd: its start, cgroup and sockets are read again after the pidfd was opened, so that
        neither a PID that was used again nor a process that moved is hit (pidfd_open(2)).
        """


class Waiter(Protocol):
    """What the engine waits with."""

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over.

        It may return early: whoever waits looks again. Raises Interrupted on SIGINT and SIGTERM.
        """
