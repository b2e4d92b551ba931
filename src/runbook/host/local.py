"""This machine: `LocalView` reads it, `LocalHost` also changes it.

Both join the parts of this folder: systemd over the bus, the kernel, the judgement of ports, and queries.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, TypeVar

from runbook.errors import LookLimitExceeded
from runbook.host import cgroups, dpkg
from runbook.host.facts import UP, JobRef, JobResult, JobVerb, Unit
from runbook.host.holders import Holder, Listener, PortOwnership, PortScan, Process, Role, SignalResult
from runbook.host.interface import FILE_TIMEOUT
from runbook.host.kernel import cgroupfs, descriptors, mapped_files, open_logs, processes, signals, sock_diag
from runbook.host.kernel.accounts import find_start_obstacle
from runbook.host.kernel.sock_diag import ANY_PORT, SocketTable
from runbook.host.loop import Loop
from runbook.host.ownership.cache import OwnershipCache
from runbook.host.ownership.judge import PortJudge
from runbook.host.ownership.kernel_source import LocalKernel
from runbook.host.ownership.listen_history import ListenHistory, Recall
from runbook.host.ownership.manager_source import OnceReadManager
from runbook.host.ownership.network import UnitNetworks
from runbook.host.queries import (
    Answer,
    Command,
    CommandResult,
    FileChange,
    FileText,
    FileTextsQuery,
    LatestChangeQuery,
    OtherManagers,
    OtherManagersQuery,
    Query,
    QueryKind,
)
from runbook.host.runners.query_runner import QueryRunner
from runbook.host.systemd import transient, unit_list
from runbook.host.systemd.addresses import ManagerScope
from runbook.host.systemd.manager import MANAGER, MANAGER_PATH, SystemdManager
from runbook.host.systemd.service_changes import ServiceChanges
from runbook.host.systemd.transient import TransientCommands
from runbook.model import Deadline, Port, ProcessId, Wake

T = TypeVar("T")

ALL_PORTS = (Port(ANY_PORT, "tcp"), Port(ANY_PORT, "udp"))
MAX_LOGGING = 8  # how many processes of a unit are looked at for log files
UNITS_TIMEOUT = 10.0  # seconds for all units to be read; 200 take 0.3
NAME_SIMILARITY = 0.8  # how similar two unit names must be without their suffix (difflib's ratio)


class LocalView:
    """The machine that this program runs on, through one manager: a `HostView` and a `Waiter`, which document it.

    Use one at a time, in the main thread: it handles SIGINT, SIGTERM and SIGHUP until it is closed. Raises
    BusUnavailable if no systemd answers. `recall` returns where earlier runs found a unit listening on a port.
    """

    def __init__(self, scope: ManagerScope = "system", recall: Recall = lambda *_: ()) -> None:
        self.scope = scope
        with contextlib.ExitStack() as undo:
            self._sockets = undo.enter_context(SocketTable())
            self._loop = Loop(look=self._sockets.list_inodes, pidfd=signals.open_pidfd)
            undo.callback(self._loop.close)
            self._systemd = SystemdManager(scope, self._loop)
            undo.callback(self._systemd.close)
            self._service_changes = ServiceChanges(self._systemd)
            self._commands = TransientCommands(self._systemd, self._loop)
            self._queries = QueryRunner(self._loop, lambda: self.manager_environment, own=scope == "user")
            undo.callback(self._queries.close)
            self._undo = undo.pop_all()
        self.clock = self._loop.clock
        self._open_logs: dict[str, tuple[str, ...]] = {}  # by the unit's name
        self._reads = 0
        self._unread: set[QueryKind[Any]] = set()  # what could not be read in time
        self._networks = UnitNetworks(self._systemd)
        self._addresses = ListenHistory(self._loop, self._queries.query, recall)
        self._ownership = OwnershipCache(self._judge, self._systemd, self.clock, self._addresses.remember)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop unfinished queries, close the bus connection, restore the signal handlers. May be called twice."""
        self._undo.close()

    @cached_property
    def manager_environment(self) -> Mapping[str, str]:
        """The environment that the manager passes to every command, with PATH."""
        return self._systemd.manager_environment()

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        for name in wake.units:
            self._systemd.watch(name)
        self._loop.wait(wake, deadline)

    # Units and their ports

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        return self._systemd.unit(name, max_age=max_age)

    def list_services(self) -> tuple[str, ...]:
        return tuple(self._systemd.list_services())

    def list_units(self, user: int | None = None) -> tuple[Unit, ...]:
        if user is not None:
            return unit_list.list_user_units(self._loop, user)
        deadline = Deadline.after(self.clock, UNITS_TIMEOUT)
        return unit_list.list_units(self._systemd.bus, deadline, of_user=self.scope == "user")

    def list_changed_services(self) -> tuple[str, ...]:
        return tuple(self._service_changes.list_changed())

    def find_similar_unit(self, name: str) -> str:
        import difflib  # noqa: PLC0415 - Only a misspelled name needs it.

        stem, _, kind = name.rpartition(".")
        suffix = f".{kind}"
        # Without the suffix: it would make any two services similar. systemd lists a link that leads nowhere, too.
        files = (file for file in self._systemd.list_unit_files() if file.endswith(suffix) and file != name)
        installed = (file.removesuffix(suffix) for file in files)
        return "".join(f"{near}{suffix}" for near in difflib.get_close_matches(stem, installed, 1, NAME_SIMILARITY))

    def judge_port(
        self, unit: Unit, port: Port, *, max_age: float = 0.0, shared_with: tuple[str, ...] = ()
    ) -> PortOwnership:
        return self._ownership.judge_port(unit, port, max_age=max_age, shared_with=shared_with)

    def describe_port_uses(self, unit: Unit, port: Port) -> str:
        return self._judge(unit).describe_uses(port)

    def find_refused_ports(self, unit: Unit) -> tuple[Port, ...]:
        return self._addresses.find_refused_ports(unit)

    def read_files(self, *paths: str) -> tuple[FileText, ...]:
        return self._read_now(FileTextsQuery(paths)) or ()

    def find_latest_change(self, path: str) -> FileChange | None:
        return self._read_now(LatestChangeQuery((path,)))

    def find_other_managers(self, name: str) -> OtherManagers:
        return self._read_now(OtherManagersQuery(name, self.scope == "user")) or OtherManagers()

    def _read_now(self, kind: QueryKind[T]) -> T | None:
        """Return the answer of a query that reads small files; None if it takes too long."""
        if kind in self._unread:
            return None  # A file system that did not answer: each further read would leave one more thread.
        self._reads += 1
        query = Query(kind, -self._reads, FILE_TIMEOUT)  # Below 0: the steps count theirs from 1.
        if not self._loop.run_until(lambda: self._queries.query(query) is not None, FILE_TIMEOUT):
            self._unread.add(kind)
        answer = self._queries.query(query)
        return answer.value if answer is not None else None

    def find_open_logs(self, unit: Unit) -> tuple[str, ...]:
        with contextlib.suppress(LookLimitExceeded):
            limit = self._loop.limit_look()
            pids = sorted(self.list_unit_pids(unit), key=lambda pid: pid != unit.main_pid)[:MAX_LOGGING]
            found = tuple(dict.fromkeys(path for pid in pids if pid for path in open_logs.find_open_logs(pid, limit)))
            self._open_logs[unit.name] = found or self._open_logs.get(unit.name, ())
        return self._open_logs.get(unit.name, ())

    def last_unit_load(self) -> int:
        what = "read when systemd read its unit files"
        return int(self._systemd.bus.read(MANAGER_PATH, MANAGER, "UnitsLoadTimestampMonotonic", what=what))

    def remember_addresses(self, unit: Unit, ports: Sequence[Port] = ()) -> None:
        # A machine that cannot be read in time must not prevent the job.
        with contextlib.suppress(LookLimitExceeded):
            if unit.active_state not in UP:
                self._addresses.find_refused_ports(unit)
                return
            self._addresses.remember(
                unit, self._find_unit_listeners(unit, [Port(port.number, port.protocol) for port in ports] or ALL_PORTS)
            )

    def scan_ports(self) -> PortScan:
        clients = sock_diag.read_ephemeral_ports()
        found = [one for port in ALL_PORTS for one in self._sockets.list_listeners(port)]
        servers = tuple(one for one in found if one.protocol == "tcp" or one.number not in clients)
        scan = descriptors.scan_holders({one.inode for one in servers}, (), self._loop.limit_look())
        return PortScan(servers, scan.holders, scan.hidden)

    def list_unit_listeners(self, unit: Unit) -> tuple[Listener, ...]:
        clients = sock_diag.read_ephemeral_ports()
        found = self._find_unit_listeners(unit, ALL_PORTS)
        servers = (one for one in found if one.protocol == "tcp" or one.number not in clients)
        return tuple(sorted(servers, key=lambda one: (one.protocol, one.number, one.address)))

    def _find_unit_listeners(self, unit: Unit, ports: Sequence[Port]) -> list[Listener]:
        limit = self._loop.limit_look()
        pids = [pid for pid in self.list_unit_pids(unit) if pid]
        held = set[int]().union(*(descriptors.list_sockets(pid, limit) for pid in pids))
        if not held and pids and os.geteuid():
            # Processes of other users cannot be read, but the kernel reports to each user where a socket was created.
            created = (one for port in ports for one in self._sockets.list_listeners(port))
            return [one for one in created if one.cgroup_id == unit.control_group_id != 0]
        if held and processes.is_in_other_netns(pids[0]):
            # Only /proc shows it, whose reading takes ten times as long.
            found = [one for port in ports for one in sock_diag.list_netns_listeners(pids[0], port, limit)]
            return [one for one in found if one.inode in held]
        return [one for port in ports if held for one in self._sockets.list_listeners(port, held)]

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        return self._networks.find_process(unit, port)

    def judge_process(self, unit: Unit, process: Process) -> Holder:
        return self._judge(unit).judge_process(process, ())

    def find_leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        return self._judge(unit).find_leftovers()

    def is_frozen(self, unit: Unit) -> bool:
        groups = {unit.control_group, processes.read_cgroup(unit.main_pid) if unit.main_pid else ""}
        return any(group and cgroupfs.read_cgroup_event(group, "frozen") for group in groups)

    def is_populated(self, unit: Unit) -> bool:
        return bool(unit.control_group) and cgroupfs.is_populated(unit.control_group)

    def list_unit_pids(self, unit: Unit) -> tuple[int, ...]:
        limit = self._loop.limit_look()
        return cgroupfs.read_cgroup_procs(unit.control_group, limit) if unit.control_group else ()

    def _judge(self, unit: Unit) -> PortJudge:
        uid = None if self.scope == "system" else os.geteuid()
        kernel = LocalKernel(self._sockets, self._loop)
        manager, is_separate = OnceReadManager(self._systemd), self._networks.is_separate(unit)
        return PortJudge(unit, kernel, manager, uid, is_separate, self._addresses)

    # This program's own place

    def is_inside(self, unit: Unit) -> bool:
        group = unit.control_group
        return bool(group) and f"{self._own_cgroup()}/".startswith(f"{group}/")

    def is_main(self, unit: Unit) -> bool:
        return unit.main_pid == os.getpid()

    def find_login(self) -> str:
        place = cgroups.parse_cgroup_path(self._own_cgroup())
        if place.kind is cgroups.CgroupKind.SESSION:
            return place.unit
        elsewhere = self.scope == "system" and place.user_uid is not None
        return f"user@{place.user_uid}.service" if elsewhere else ""

    def _own_cgroup(self) -> str:
        return processes.read_cgroup(os.getpid())

    # Jobs, commands, processes

    def list_running_commands(self) -> tuple[str, ...]:
        return self._commands.list_running()

    def job(self, ref: JobRef) -> JobResult | None:
        return self._systemd.job(ref)

    def read_command_result(self, ref: JobRef) -> CommandResult:
        return self._commands.result(ref)

    def find_command(self, name: str, output: str, token: str) -> JobRef | None:
        return self._commands.find(name, output, token)

    def list_processes(self) -> tuple[Process, ...]:
        limit, found = self._loop.limit_look(), []
        for pid in processes.list_pids():
            limit.check()
            found.append(processes.read_outline(pid))
        return tuple(filter(None, found))

    def find_process_state(self, pid: int) -> str:
        return stat.state if (stat := processes.read_stat(pid)) else ""

    find_process = staticmethod(processes.read_process)
    find_start_time = staticmethod(processes.find_start_time)
    find_installations = staticmethod(dpkg.find_installations)
    find_replaced_files = staticmethod(mapped_files.find_replaced_files)
    is_alive = staticmethod(processes.is_alive)
    describe_process_state = staticmethod(processes.describe_state)
    find_start_obstacle = staticmethod(find_start_obstacle)

    def query(self, query: Query[T]) -> Answer[T] | None:
        return self._queries.query(query)


class LocalHost(LocalView):
    """The same machine, with the methods that change it: a `Host`, which documents them."""

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        if verb in (JobVerb.STOP, JobVerb.RESTART):
            # Once it is down, nothing else shows on which addresses it listens, and where it logs.
            before = self._systemd.unit(unit)
            self.remember_addresses(before)
            self.find_open_logs(before)
        return self._systemd.enqueue_job(verb, unit)

    def cancel_job(self, ref: JobRef) -> None:
        self._systemd.cancel_job(ref)

    def daemon_reload(self) -> None:
        self._systemd.daemon_reload()

    def reset_failed(self, unit: str) -> None:
        self._systemd.reset_failed(unit)

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call a function once, after so many seconds, while this host waits."""
        self._loop.call_later(seconds, call)

    def start_command(self, name: str, command: Command) -> JobRef:
        return self._commands.start(name, command)

    def start_scope(self, name: str) -> JobRef:
        return transient.start_scope(self._systemd, name)

    def stop_command(self, ref: JobRef) -> None:
        self._commands.stop(ref)

    def signal_process(self, unit: Unit, holder: Holder, signum: signal.Signals) -> SignalResult:
        def may_be_killed(process: Process) -> bool:
            # The unit may have been started since, with this process as its main process. A socket unit's leftovers
            # are those of the service that it triggers.
            owner = holder.unit if holder.role is Role.LEFTOVER else unit.name
            return self._judge(self._systemd.unit(owner)).judge_process(process, holder.sockets).may_be_killed

        self._loop.raise_if_interrupted()  # Before each of perhaps a thousand processes: SIGTERM must not wait.
        return signals.signal_process(holder, signum, confirm=may_be_killed, limit=self._loop.limit_look())

    def kill_cgroup(self, unit: Unit, expected: Callable[[Holder], bool]) -> SignalResult:
        """Kill all processes that are left of a unit that is down, at once.

        The processes of a new start must not be killed. systemd handles one request after the other, so that can happen
        only if it begins a start between the last read of the unit and the kill below.
        """
        judge = self._judge(self._systemd.unit(unit.name))
        pids = self.list_unit_pids(unit)
        holders = [judge.judge_process(one, ()) for one in judge.read_processes(pids)]
        if any(holder.is_unread for holder in holders):
            return SignalResult.UNREAD
        # PID 0 stands for a process of an outer PID namespace, which cannot be judged.
        if 0 in pids or not all(holder.may_be_killed and expected(holder) for holder in holders):
            return SignalResult.CHANGED
        now = self._systemd.unit(unit.name)
        same = (now.invocation_id, now.control_group) == (unit.invocation_id, unit.control_group)
        if now.is_running or now.is_untracked or now.job or not same:
            return SignalResult.CHANGED
        self._systemd.kill_cgroup(unit.name)
        return SignalResult.SENT
