"""This machine: `LocalView` reads it, `LocalHost` also changes it.

Both join the parts of this folder: systemd over the bus, the kernel, the judgement of ports, and queries.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

from runbook.host import cgroups
from runbook.host.facts import JobRef, JobResult, JobVerb, Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role, SignalResult
from runbook.host.kernel import descriptors, processes, signals, sock_diag
from runbook.host.kernel.accounts import find_start_obstacle
from runbook.host.kernel.sock_diag import SocketTable
from runbook.host.loop import Loop
from runbook.host.ownership.cache import OwnershipCache
from runbook.host.ownership.judge import PortJudge
from runbook.host.ownership.kernel_source import LocalKernel
from runbook.host.ownership.network import UnitNetworks
from runbook.host.queries import Answer, Command, CommandResult, Query
from runbook.host.runners.query_runner import QueryRunner
from runbook.host.systemd import transient
from runbook.host.systemd.addresses import ManagerScope
from runbook.host.systemd.manager import SystemdManager
from runbook.host.systemd.transient import TransientCommands
from runbook.model import Deadline, Port, ProcessId, Wake

T = TypeVar("T")

NAME_SIMILARITY = 0.8
"""How similar two unit names must be (difflib's ratio). The shared suffix `.service` alone makes 0.5."""


class LocalView:
    """The machine that this program runs on, through one manager: a `HostView` and a `Waiter`.

    Use one at a time, in the main thread: it handles SIGINT, SIGTERM and SIGHUP until it is closed. Raises
    BusUnavailable if no systemd answers.
    """

    def __init__(self, scope: ManagerScope = "system") -> None:
        self.scope = scope
        with contextlib.ExitStack() as undo:
            self._sockets = undo.enter_context(SocketTable())
            self._loop = Loop(look=self._sockets.list_inodes, pidfd=signals.open_pidfd)
            undo.callback(self._loop.close)
            self._systemd = SystemdManager(scope, self._loop)
            undo.callback(self._systemd.close)
            self._commands = TransientCommands(self._systemd, self._loop)
            self._queries = QueryRunner(self._loop, lambda: self.manager_environment, own=scope == "user")
            undo.callback(self._queries.close)
            self._undo = undo.pop_all()
        self.clock = self._loop.clock
        self._networks = UnitNetworks(self._systemd)
        self._ownership = OwnershipCache(self._judge, self._systemd, self.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop unfinished queries, close the bus connection, restore the signal handlers. May be called twice."""
        self._undo.close()

    @cached_property
    def manager_environment(self) -> Mapping[str, str]:
        """The environment that the manager passes to every command, with PATH."""
        return self._systemd.manager_environment()

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over."""
        for name in wake.units:
            self._systemd.watch(name)
        self._loop.wait(wake, deadline)

    # Units and their ports

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        """Read a unit."""
        return self._systemd.unit(name, max_age=max_age)

    def find_similar_unit(self, name: str) -> str:
        """Return the name of an installed unit that is spelled almost like `name`; empty if there is none."""
        import difflib  # noqa: PLC0415 - Only a misspelled name needs it.

        installed = self._systemd.list_unit_files()
        return next(iter(difflib.get_close_matches(name, installed, n=1, cutoff=NAME_SIMILARITY)), "")

    def judge_port(self, unit: Unit, port: Port, *, max_age: float = 0.0) -> PortOwnership:
        """Judge which processes listen on `port`, from the point of view of `unit`."""
        return self._ownership.judge_port(unit, port, max_age=max_age)

    def list_unit_listeners(self, unit: Unit) -> tuple[str, ...]:
        """List the TCP sockets that the unit's processes listen on."""
        pids = processes.list_cgroup_pids(unit.control_group) if unit.control_group else ()
        found = sock_diag.list_all_listeners(pids[0]) if pids else ()
        return tuple(
            sorted(str(one) for one in found if any(descriptors.holds_any_socket(pid, {one.inode}) for pid in pids))
        )

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        """Return the process in whose network namespace a unit is probed; None if that is this program's own."""
        return self._networks.find_process(unit, port)

    def find_leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        """Return the processes of the unit's earlier invocations."""
        return self._judge(unit).find_leftovers()

    def is_populated(self, unit: Unit) -> bool:
        """True if there is any process in the unit's cgroup."""
        return bool(unit.control_group) and processes.is_populated(unit.control_group)

    def list_unit_pids(self, unit: Unit) -> tuple[int, ...]:
        """Return the PIDs in the unit's cgroup and below."""
        return processes.read_cgroup_procs(unit.control_group) if unit.control_group else ()

    def _judge(self, unit: Unit) -> PortJudge:
        uid = None if self.scope == "system" else os.geteuid()
        kernel = LocalKernel(self._sockets, self._loop)
        return PortJudge(unit, kernel, self._systemd, self._networks.is_separate(unit), uid)

    # This program's own place

    def is_inside(self, unit: Unit) -> bool:
        """True if this program is a process of the unit."""
        group = unit.control_group
        return bool(group) and f"{self._own_cgroup()}/".startswith(f"{group}/")

    def is_main(self, unit: Unit) -> bool:
        """True if this program is the unit's main process."""
        return unit.main_pid == os.getpid()

    def find_login(self) -> str:
        """Return the session that this program was started in, or the user manager if it acts on the system's."""
        place = cgroups.parse_cgroup_path(self._own_cgroup())
        if place.kind is cgroups.CgroupKind.SESSION:
            return place.unit
        elsewhere = self.scope == "system" and place.user_uid is not None
        return f"user@{place.user_uid}.service" if elsewhere else ""

    def _own_cgroup(self) -> str:
        me = processes.read_process(os.getpid())
        return me.cgroup if me is not None else ""

    # Jobs, commands, processes

    def list_running_commands(self) -> tuple[str, ...]:
        """List the units in which a command of `start_command` is running."""
        return self._commands.list_running()

    def job(self, ref: JobRef) -> JobResult | None:
        """Return how a job ended, or None while it is queued or running."""
        return self._systemd.job(ref)

    def read_command_result(self, ref: JobRef) -> CommandResult:
        """Return how the command of an ended job ended."""
        return self._commands.result(ref)

    def find_command(self, name: str, output: str, token: str) -> JobRef | None:
        """Find the command that an earlier part of this run started."""
        return self._commands.find(name, output, token)

    def find_process(self, pid: int) -> Process | None:
        """Read the process that has this PID now."""
        return processes.read_process(pid)

    def find_start_time(self, process: Process) -> float:
        """Return when a process started, in seconds since the epoch, by the clock as it is set now."""
        return processes.find_start_time(process)

    def is_alive(self, process: ProcessId) -> bool:
        """True if this very process is still running."""
        return processes.is_alive(process)

    def describe_process_state(self, process: ProcessId) -> str:
        """Return the state letter of a process, and where in the kernel it waits."""
        return processes.describe_state(process)

    def find_start_obstacle(self, command: Command) -> str:
        """Return what is certain to prevent a command from starting; empty if nothing is."""
        return find_start_obstacle(command)

    def query(self, query: Query[T]) -> Answer[T] | None:
        """Ask something that may take a while: None as long as the answer is on its way."""
        return self._queries.query(query)


class LocalHost(LocalView):
    """The same machine, with the methods that change it: a `Host`."""

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        """Request a job from systemd and do not wait for it."""
        return self._systemd.enqueue_job(verb, unit)

    def cancel_job(self, ref: JobRef) -> None:
        """Cancel a job."""
        self._systemd.cancel_job(ref)

    def daemon_reload(self) -> None:
        """Make systemd read its unit files again."""
        self._systemd.daemon_reload()

    def reset_failed(self, unit: str) -> None:
        """Clear the failed state and the start-limit counter of one unit."""
        self._systemd.reset_failed(unit)

    def start_command(self, name: str, command: Command) -> JobRef:
        """Start a command in a transient unit of its own."""
        return self._commands.start(name, command)

    def start_scope(self, name: str) -> JobRef:
        """Move this program to a scope of its own."""
        return transient.start_scope(self._systemd, name)

    def stop_command(self, ref: JobRef) -> None:
        """Stop a command and everything that it started."""
        self._commands.stop(ref)

    def signal_process(self, unit: Unit, holder: Holder, signum: signal.Signals) -> SignalResult:
        """Signal one process, if it is still the process that was judged, and may still be killed."""

        def may_be_killed(process: Process) -> bool:
            # The unit may have been started since, with this process as its main process. A socket unit's leftovers
            # are those of the service that it triggers.
            owner = holder.unit if holder.role is Role.LEFTOVER else unit.name
            return self._judge(self._systemd.unit(owner)).judge_process(process, holder.sockets).may_be_killed

        self._loop.raise_if_interrupted()  # Before each of perhaps a thousand processes: SIGTERM must not wait.
        return signals.signal_process(holder, signum, confirm=may_be_killed)

    def kill_cgroup(self, unit: Unit, expected: Callable[[Holder], bool]) -> SignalResult:
        """Kill all processes that are left of a unit that is down, at once.

        The processes of a new start must not be hit. systemd handles one request after the other: only a start that it
        begins between the read of the unit's state and the kill, both made here, could be.
        """
        judge = self._judge(self._systemd.unit(unit.name))
        pids = self.list_unit_pids(unit)
        found = [processes.read_process(pid) for pid in pids]
        holders = [judge.judge_process(one, ()) for one in found if one is not None and not one.dead]
        # PID 0 stands for a process of an outer PID namespace, which cannot be judged.
        if 0 in pids or not all(holder.may_be_killed and expected(holder) for holder in holders):
            return SignalResult.CHANGED
        now = self._systemd.unit(unit.name)
        if now.is_running or now.is_untracked or now.job or not _is_same_invocation(unit, now):
            return SignalResult.CHANGED
        self._systemd.kill_cgroup(unit.name)
        return SignalResult.SENT


def _is_same_invocation(before: Unit, now: Unit) -> bool:
    """True if a unit has the same cgroup in two reads, and no other invocation has begun in it."""
    return (before.invocation_id, before.control_group) == (now.invocation_id, now.control_group)
