"""This machine: both witnesses, and the hands that act, put together behind the doors of `ports`."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from runbook.errors import HostError
from runbook.host import cgroups
from runbook.host.facts import JobRef, JobResult, JobVerb, Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Process, Role, SignalResult
from runbook.host.kernel import descriptors, processes, protected, signals, sock_diag
from runbook.host.kernel.accounts import find_start_obstacle
from runbook.host.kernel.sock_diag import SocketTable
from runbook.host.loop import Loop
from runbook.host.ownership.judge import MAX_READS, PortJudge
from runbook.host.ownership.verdict import make_changing
from runbook.host.queries import Answer, Command, CommandResult, Query
from runbook.host.runners.query_runner import QueryRunner
from runbook.host.systemd import transient
from runbook.host.systemd.addresses import ManagerScope
from runbook.host.systemd.manager import SystemdManager
from runbook.host.systemd.transient import TransientCommands
from runbook.model import Clock, Deadline, Port, ProcessId, SystemClock, Wake

NAME_SIMILARITY = 0.8
"""How alike two names must be (difflib's ratio): `.service` alone makes any two alike by half."""

EXECUTORS = ("systemd", "systemd-executor")
"""What runs in a new main process until that becomes the service: it enters the unit's namespaces meanwhile."""


class LocalHost:
    """The machine it runs on, seen through one manager; a `Host` and a `Waiter`.

    One at a time, in the main thread: it takes SIGINT, SIGTERM and SIGHUP until it is closed. Raises
    BusUnavailable when no systemd answers.
    """

    def __init__(self, scope: ManagerScope = "system", *, clock: Clock | None = None) -> None:
        self.scope = scope
        self._own_networks: set[str] = set()
        self._owned: dict[tuple[str, Port], _CachedOwnership] = {}
        self.clock: Clock = clock or SystemClock()
        with contextlib.ExitStack() as undo:
            self._sockets = undo.enter_context(SocketTable())
            self.loop = Loop(look=self._sockets.list_inodes, pidfd=signals.open_pidfd, clock=self.clock)
            undo.callback(self.loop.close)
            self.systemd = SystemdManager(scope, self.loop)
            undo.callback(self.systemd.close)
            self._commands = TransientCommands(self.systemd, self.loop)
            self._queries = QueryRunner(self.loop, lambda: self.manager_environment, own=scope == "user")
            undo.callback(self._queries.close)
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

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        """Look at a unit."""
        return self.systemd.unit(name, max_age=max_age)

    def judge_port(self, unit: Unit, port: Port, *, max_age: float = 0.0) -> PortOwnership:
        """Judge who listens on `port`, as seen by `unit`; see `HostView.ownership`."""
        if (
            (known := self._owned.get((unit.name, port))) is not None
            and max_age
            and self._is_current(known, unit, max_age)
        ):
            return known.ownership
        for _ in range(MAX_READS):
            judged = _CachedOwnership(unit, self.clock.monotonic(), self._judge(unit).judge_port(port))
            # The unit may have been restarted while the processes were read: then all of it is judged anew.
            now = self.systemd.unit(unit.name)
            if _same_moment(unit, now):
                if judged.ownership.is_owned:
                    self._owned[unit.name, port] = judged
                return judged.ownership
            unit = now
        return make_changing(port)

    def _is_current(self, known: _CachedOwnership, unit: Unit, max_age: float) -> bool:
        """Whether nothing has changed since that can be seen without a look at all processes."""
        if self.clock.monotonic() - known.judged_at > max_age or not _same_moment(known.unit, unit):
            return False
        same = self._judge(unit).list_listeners(known.ownership.port) == known.ownership.listeners
        return same and all(processes.is_alive(holder.process.id) for holder in known.ownership.holders)

    def list_unit_listeners(self, unit: Unit) -> tuple[str, ...]:
        """Name the TCP sockets that the unit's processes listen on."""
        pids = processes.list_cgroup_pids(unit.control_group) if unit.control_group else ()
        found = sock_diag.list_all_listeners(pids[0]) if pids else ()
        return tuple(
            sorted(str(one) for one in found if any(descriptors.holds_any_socket(pid, {one.inode}) for pid in pids))
        )

    def find_similar_unit(self, name: str) -> str:
        """Give the name of an installed unit that is spelled nearly so, or nothing."""
        import difflib  # noqa: PLC0415 - Only a mistake needs it.

        return next(
            iter(difflib.get_close_matches(name, self.systemd.list_unit_files(), n=1, cutoff=NAME_SIMILARITY)), ""
        )

    def find_leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        """Give the processes of the unit's earlier invocations."""
        return self._judge(unit).find_leftovers()

    def is_populated(self, unit: Unit) -> bool:
        """Whether there is any process in the unit's cgroup."""
        return bool(unit.control_group) and processes.is_populated(unit.control_group)

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        """Give the process in whose network namespace a unit is asked; None where that is this program's own."""
        if not self._own_network(unit) or (port is not None and self._is_socket_activated(unit, port)):
            return None
        process = processes.read_process(unit.main_pid) if unit.main_pid else None
        if process is None:
            raise HostError(f"{unit.name} has a network of its own, and no main process to ask from within it")
        if processes.is_in_other_netns(process.pid):
            return process.id
        if Path(process.exe).name in EXECUTORS:
            raise HostError(f"{process} of {unit.name} has not entered the unit's network yet")
        # systemd leaves it here where a container does not permit more; or it is on its way, as `ip netns exec` is.
        return None

    def _is_socket_activated(self, unit: Unit, port: Port) -> bool:
        """Whether a socket unit listens on a port for a unit: it does so in the manager's own network."""
        units = [self.systemd.unit(name) for name in unit.triggered_by if name.endswith(".socket")]
        opened = (address for one in units if one.is_running for _, address in one.listen)
        return any(address.rpartition(":")[2] == str(port.number) for address in opened)

    def _judge(self, unit: Unit) -> PortJudge:
        uid = None if self.scope == "system" else os.geteuid()
        return PortJudge(
            unit,
            _Kernel(self._sockets, self.loop),
            self.systemd,
            self._own_network(unit),
            uid,
        )

    def _own_network(self, unit: Unit) -> bool:
        """Whether a unit is in another network namespace than this program, by its settings or its own doing.

        One that was seen so once, as with `ip netns exec`, is taken to be so while it is down as well.
        """
        if unit.private_network or unit.network_namespace_path:
            return True
        if unit.main_pid and processes.is_in_other_netns(unit.main_pid):
            self._own_networks.add(unit.name)
        return unit.name in self._own_networks

    def is_inside(self, unit: Unit) -> bool:
        """Whether this very program is a process of the unit."""
        group = unit.control_group
        return bool(group) and f"{self._my_cgroup()}/".startswith(f"{group}/")

    def is_main(self, unit: Unit) -> bool:
        """Whether this very program is the unit's main process."""
        return unit.main_pid == os.getpid()

    def find_login(self) -> str:
        """Name the login that this program was started in: a session, or a user's manager that is not the one asked."""
        place = cgroups.parse_cgroup_path(self._my_cgroup())
        if place.kind is cgroups.CgroupKind.SESSION:
            return place.unit
        elsewhere = self.scope == "system" and place.user_uid is not None
        return f"user@{place.user_uid}.service" if elsewhere else ""

    def _my_cgroup(self) -> str:
        me = processes.read_process(os.getpid())
        return me.cgroup if me is not None else ""

    def list_running_commands(self) -> tuple[str, ...]:
        """Name the units in which a command is at work."""
        return self._commands.list_running()

    def job(self, ref: JobRef) -> JobResult | None:
        """Tell how a job ended, or None while it is queued or running."""
        return self.systemd.job(ref)

    def read_command_result(self, ref: JobRef) -> CommandResult:
        """Tell how the command of an ended job ended."""
        return self._commands.result(ref)

    def find_command(self, name: str, output: str, token: str) -> JobRef | None:
        """Find the command that an earlier part of this run made."""
        return self._commands.find(name, output, token)

    def find_process(self, pid: int) -> Process | None:
        """Look at the process that has this PID now."""
        return processes.read_process(pid)

    def find_start_time(self, process: Process) -> float:
        """Say when a process began, in seconds since the epoch, by the clock as it goes now."""
        return processes.find_start_time(process)

    def is_alive(self, process: ProcessId) -> bool:
        """Whether this very process is still there."""
        return processes.is_alive(process)

    def describe_process_state(self, process: ProcessId) -> str:
        """Give the state letter of a process, and where it waits."""
        return processes.describe_state(process)

    def find_start_obstacle(self, command: Command) -> str:
        """Say what is sure to keep a command from starting."""
        return find_start_obstacle(command)

    def query(self, question: Query) -> Answer | None:
        """Ask something that may take a while: None as long as the answer is on its way."""
        return self._queries.query(question)

    # Acting

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        """Ask systemd for a job and do not wait."""
        return self.systemd.enqueue_job(verb, unit)

    def cancel_job(self, ref: JobRef) -> None:
        """Take a job back."""
        self.systemd.cancel_job(ref)

    def daemon_reload(self) -> None:
        """Let systemd read its unit files again."""
        self.systemd.daemon_reload()

    def reset_failed(self, unit: str) -> None:
        """Clear the failed state, and the start-limit counter, of one unit."""
        self.systemd.reset_failed(unit)

    def start_command(self, name: str, command: Command) -> JobRef:
        """Start a command in a transient unit of its own."""
        return self._commands.start(name, command)

    def start_scope(self, name: str) -> JobRef:
        """Let this program go into a scope of its own."""
        return transient.start_scope(self.systemd, name)

    def stop_command(self, ref: JobRef) -> None:
        """End a command with all that it started."""
        self._commands.stop(ref)

    def signal_process(self, unit: Unit, holder: Holder, signum: signal.Signals) -> SignalResult:
        """Signal one process, if it is still the one that was judged, and still nobody's."""

        def still(process: Process) -> bool:
            # The unit may have been started anew since, and this be its main process. A socket unit's leftovers are
            # those of the service behind it.
            whose = holder.unit if holder.role is Role.LEFTOVER else unit.name
            return self._judge(self.systemd.unit(whose)).judge_process(process, holder.sockets).may_be_killed

        self.loop.raise_if_interrupted()  # Of a thousand that are to end SIGTERM must not wait for the last.
        return signals.signal_process(holder, signum, still=still)

    def kill_cgroup(self, unit: Unit, expected: Callable[[Holder], bool]) -> SignalResult:
        """Send KILL to all at once that is left of a unit that is down.

        What comes with the unit's next start is not meant. systemd looks at one request after the other: a start that
        it has not begun when it is asked here for the unit's state has this moment, and no longer, to be hit.
        """
        judge = self._judge(self.systemd.unit(unit.name))
        found = [
            one
            for pid in processes.list_cgroup_pids(unit.control_group)
            if (one := processes.read_process(pid)) is not None
        ]
        seen = [judge.judge_process(one, ()) for one in found if not one.dead]
        if not all(holder.may_be_killed and expected(holder) for holder in seen):
            return SignalResult.CHANGED
        now = self.systemd.unit(unit.name)
        if now.is_running or now.is_untracked or now.job or not _same_group(unit, now):
            return SignalResult.CHANGED
        self.systemd.kill_cgroup(unit.name)
        return SignalResult.SENT


@dataclass(frozen=True)
class _CachedOwnership:
    """That a unit owns a port: as it was, when the look at it began."""

    unit: Unit
    judged_at: float
    ownership: PortOwnership


def _same_group(before: Unit, now: Unit) -> bool:
    """Whether a unit's cgroup is that of two looks, and no other invocation has begun in it."""
    return (before.invocation_id, before.control_group) == (now.invocation_id, now.control_group)


def _same_moment(before: Unit, now: Unit) -> bool:
    """Whether a unit is at the same point of its life in two looks."""
    return (before.invocation_id, before.main_pid, before.is_running) == (
        now.invocation_id,
        now.main_pid,
        now.is_running,
    )


class _Kernel:
    """The kernel's side of a judgement, through the loop, which remembers each look at the sockets."""

    def __init__(self, sockets: SocketTable, loop: Loop) -> None:
        self._sockets = sockets
        self._loop = loop
        self._me = signals.OwnProcess.read()

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        listeners = self._sockets.list_listeners(port)
        self._loop.record_sockets(port, frozenset(listener.inode for listener in listeners))
        return listeners

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        return sock_diag.list_netns_listeners(pid, port)

    def list_cgroup_pids(self, path: str) -> tuple[int, ...]:
        return processes.list_cgroup_pids(path)

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> descriptors.DescriptorScan:
        return descriptors.scan_holders(inodes, likely)

    def read_process(self, pid: int) -> Process | None:
        return processes.read_process(pid)

    def describe_container(self, process: Process) -> str:
        return signals.describe_container(process, self._me)

    def describe_container_keeper(self, process: Process) -> str:
        return protected.describe_container_keeper(process)

    def find_protection(self, process: Process) -> str:
        return signals.find_protection(process, me=self._me)
