"""The two doors to the machine. `HostView` only looks; `Host` may also act.

A step's `check` gets the first, its `apply` the second: a dry run that writes does not type-check.
Nothing here blocks for longer than its own time-out says, and nothing here waits for the machine to change:
that is the `Waiter`'s part, and only the engine has it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

from runbook.host.facts import JobRef, JobResult, JobVerb, Unit
from runbook.host.holders import Holder, PortOwnership, Process, SignalResult
from runbook.host.queries import Answer, Command, CommandResult, Query
from runbook.model import Clock, Deadline, Port, ProcessId, Wake

SHARED_READ_AGE = 1.0
"""Seconds within which one look serves all who ask: before a run begins, and for what it says at its end."""


class HostView(Protocol):
    """What can be seen of a machine, without changing it."""

    @property
    def clock(self) -> Clock:
        """Where it takes the time from."""

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        """Look at a unit. One that does not exist reads LoadState=not-found.

        An earlier look will do that is no older than so many seconds (`recent`), unless systemd has announced a
        change since.

        Raises HostError when systemd does not answer.
        """

    def judge_port(self, unit: Unit, port: Port, *, max_age: float = 0.0) -> PortOwnership:
        """Judge who listens on `port`, as seen by `unit`.

        That the unit owns it need not be found anew within so many seconds (`recent`), as long as nothing has
        changed that can be seen without looking at all processes. Somebody who was given a socket since, which
        nothing announces, is missed by that: no step ends on what is recent.
        """

    def list_unit_listeners(self, unit: Unit) -> tuple[str, ...]:
        """Name the TCP sockets that the unit's processes listen on, whatever the port: "127.0.0.1:8080"."""

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        """Give the process in whose network namespace a unit is asked; None where that is this program's own.

        What listens on `port` for a socket unit is in the manager's network, wherever the unit itself is. Raises
        HostError where the unit has a network of its own, and nobody through whom it could be entered.
        """

    def find_leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        """Give the processes of earlier invocations that are still in the unit's cgroup."""

    def is_populated(self, unit: Unit) -> bool:
        """Whether there is any process in the unit's cgroup, whosever, and however short it lives."""

    def find_similar_unit(self, name: str) -> str:
        """Give the name of an installed unit that is spelled nearly so, or nothing."""

    def is_inside(self, unit: Unit) -> bool:
        """Whether this very program is a process of the unit, and would be stopped with it."""

    def is_main(self, unit: Unit) -> bool:
        """Whether this very program is the unit's main process: systemd ends that one wherever it has gone."""

    def find_login(self) -> str:
        """Name the login that this program was started in and would end with; empty where there is none."""

    def list_running_commands(self) -> tuple[str, ...]:
        """Name the units in which a command of `Host.begin_command` is at work, whoever began it."""

    def job(self, ref: JobRef) -> JobResult | None:
        """Tell how a job ended, or None while it is queued or running."""

    def read_command_result(self, ref: JobRef) -> CommandResult:
        """Tell how the command of an ended job of `Host.begin_command` ended."""

    def find_command(self, name: str, output: str, token: str) -> JobRef | None:
        """Find the command of a `Host.begin_command` that an earlier part of this run made, running or ended.

        `output` and `token` are the command's. None where its unit is gone and left no word of how it ended: then
        nobody knows whether it was begun.
        """

    def find_process(self, pid: int) -> Process | None:
        """Look at the process that has this PID now; None if there is none."""

    def find_start_time(self, process: Process) -> float:
        """Say when a process began, in seconds since the epoch, by the clock as it goes now."""

    def is_alive(self, process: ProcessId) -> bool:
        """Whether this very process is still there. A zombie is not."""

    def describe_process_state(self, process: ProcessId) -> str:
        """Give the state letter of proc(5) (`S`, `D`, …) and where it waits, for a message."""

    def find_start_obstacle(self, command: Command) -> str:
        """Say what is sure to keep a command from starting: no such user, no such folder. Empty if nothing is."""

    def query(self, question: Query) -> Answer | None:
        """Ask something that may take a while: None as long as the answer is on its way.

        It runs beside, as a child or a thread of this program, and is stopped at its time-out. This is the
        one door for commands of the operator's that merely observe.
        """


class ReadOnlyHost:
    """A machine with its hands tied: what a dry run gets. There is nothing here that writes."""

    def __init__(self, view: HostView) -> None:
        self.clock = view.clock
        self.unit = view.unit
        self.judge_port = view.judge_port
        self.list_unit_listeners = view.list_unit_listeners
        self.find_network_process = view.find_network_process
        self.find_leftovers = view.find_leftovers
        self.is_populated = view.is_populated
        self.find_similar_unit = view.find_similar_unit
        self.is_inside = view.is_inside
        self.is_main = view.is_main
        self.find_login = view.find_login
        self.list_running_commands = view.list_running_commands
        self.job = view.job
        self.read_command_result = view.read_command_result
        self.find_command = view.find_command
        self.find_process = view.find_process
        self.find_start_time = view.find_start_time
        self.is_alive = view.is_alive
        self.describe_process_state = view.describe_process_state
        self.find_start_obstacle = view.find_start_obstacle
        self.query = view.query


class Host(HostView, Protocol):
    """A machine that may be changed."""

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        """Ask systemd for a job and do not wait. Its end is heard even if it comes before the answer.

        Raises AccessDenied, NoSuchUnit, UnitMasked, HostError.
        """

    def cancel_job(self, ref: JobRef) -> None:
        """Take a job back that is still queued or running; one that has ended is let be."""

    def daemon_reload(self) -> None:
        """Let systemd read its unit files again."""

    def reset_failed(self, unit: str) -> None:
        """Clear the failed state, and the start-limit counter, of this one unit."""

    def start_command(self, name: str, command: Command) -> JobRef:
        """Start a command in a transient unit of its own, so that it outlives this program.

        `name` becomes part of the unit's name. Its output goes to `command.output`.
        """

    def start_scope(self, name: str) -> JobRef:
        """Let this program go into a scope of its own, called by `name`, out of whatever it was started in.

        It has gone when the job has ended well.
        """

    def stop_command(self, ref: JobRef) -> None:
        """End the command of `begin_command` with all that it started, and wait until that is so.

        It takes ten seconds at most. Raises BusTimeout if it did not end.
        """

    def signal_process(self, unit: Unit, holder: Holder, signum: signal.Signals) -> SignalResult:
        """Signal one process that is in the unit's way, if it is still the one that was judged.

        Through a pidfd: its start, cgroup and sockets are read again after the pidfd was opened, so that
        neither a PID that was used again nor a process that moved is hit (pidfd_open(2)).
        """

    def kill_cgroup(self, unit: Unit, expected: Callable[[Holder], bool]) -> SignalResult:
        """Send KILL to all at once that is left in the cgroup of a unit that is down, through systemd.

        For processes that fork faster than they can be ended one by one. NOT_THE_SAME, and nothing was sent: the
        unit is up or about to be, or there is one among them that must live, or that is not `expected`.
        """


class Waiter(Protocol):
    """What the engine waits with."""

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over.

        It may return early: whoever waits looks again. Raises Interrupted on SIGINT and SIGTERM.
        """
