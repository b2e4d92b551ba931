"""A machine that consists of data: units, processes and sockets, and a clock that moves only during a wait.

Ports are judged by the real PortJudge, from the processes and sockets of the test. `later` lists what changes at which
time. Each change that the program makes is recorded in `written`, as a text.
"""

from __future__ import annotations

import difflib
import signal
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, TypeVar

from runbook.errors import HostError
from runbook.host.dpkg import Installation
from runbook.host.facts import UNLOADABLE, ActiveState, JobRef, JobResult, JobVerb, LoadState, Unit
from runbook.host.holders import Holder, Listener, PortOwnership, PortScan, PortUse, Process, SignalResult
from runbook.host.kernel import protected
from runbook.host.kernel.descriptors import DescriptorScan
from runbook.host.ownership.judge import PortJudge
from runbook.host.ownership.verdict import WILDCARDS
from runbook.host.queries import (
    Answer,
    Command,
    CommandResult,
    FileChange,
    FileText,
    JournalLine,
    JournalTailQuery,
    OtherManagers,
    PreviousExitQuery,
    Query,
    StartTimesQuery,
)
from runbook.host.requesters import JobRequest, Requester
from runbook.model import Deadline, Port, ProcessId, Wake

T = TypeVar("T")

INVOCATION = "a" * 32
EARLIER = "e" * 32
UNSEEN = 9999
"""The PID of a process that holds sockets and cannot be read."""
USER = 1000
"""The user whose manager has the units with `of_user`."""


EPOCH = 1_700_000_000.0
"""When the machine was booted, in seconds since the epoch."""


class FakeClock:
    """A clock that moves only during a wait."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return EPOCH + self.time


def unit(name: str = "gw.service", **changes: Any) -> Unit:
    """Return a running service, with some properties changed."""
    running: dict[str, Any] = {
        "active_state": ActiveState.ACTIVE,
        "sub_state": "running",
        "names": (name,),
        "invocation_id": INVOCATION,
        "main_pid": 100,
        "control_group": f"/system.slice/{name}",
        "control_group_id": 77,
        "type": "simple",
        "restart": "always",
        "result": "success",
        "timeout_start_usec": 90_000_000,
        "timeout_stop_usec": 90_000_000,
        "start_limit_burst": 5,
        "start_limit_interval_usec": 60_000_000,
        "exec_main_pid": 100,
        "exec_main_start_monotonic": 950_000_000,
        "inactive_enter_monotonic": 800_000_000,
        "inactive_exit_monotonic": 900_000_000,
    }
    return Unit(name, **{**running, **changes})


def process(pid: int, **changes: Any) -> Process:
    """Return the main process of `unit()`, with some facts changed."""
    facts: dict[str, Any] = {
        "ppid": 1,
        "uid": 0,
        "user": "root",
        "name": "gateway",
        "state": "S",
        "cgroup": "/system.slice/gw.service",
        "command": ("/usr/bin/gateway",),
        "exe": "/usr/bin/gateway" if pid > 1 else "/usr/lib/systemd/systemd",
        "started": 950.0,
    }
    return Process(ProcessId(pid, pid * 10), **{**facts, **changes})


def journal_lines(*texts: str, pid: int = 100) -> Answer[tuple[JournalLine, ...]]:
    """Return the answer to a query of the journal's tail."""
    return Answer(True, "", tuple(JournalLine(pid, text) for text in texts))


@dataclass
class FakeMachine:
    """A machine that consists of data, as both a Host and a Waiter."""

    units: dict[str, Unit] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    sockets: dict[int, list[Listener]] = field(default_factory=dict)
    answers: dict[str, list[Answer[Any]]] = field(default_factory=dict)
    later: list[tuple[float, Callable[[FakeMachine], None]]] = field(default_factory=list)
    on_job: dict[str, Callable[[FakeMachine, str], JobResult | None]] = field(default_factory=dict)
    on_command: Callable[[FakeMachine, Command], CommandResult | None] = lambda machine, command: CommandResult(
        "success", 0
    )
    found_commands: dict[str, JobRef] = field(default_factory=dict)
    dies_on: dict[int, signal.Signals | None] = field(default_factory=dict)
    spared: dict[int, str] = field(default_factory=dict)
    changing: Counter[int] = field(default_factory=Counter)
    """How many signals to a process come after it has changed."""
    virtual_machines: tuple[int, ...] = ()
    refuse: dict[str, Exception] = field(default_factory=dict)
    hinders: dict[str, str] = field(default_factory=dict)
    hidden: int = 0
    pid_churn: bool = False
    """True if unreadable processes fork and exit all the time in the unit's cgroup."""
    last_pid: int = 5000
    uses: list[PortUse] = field(default_factory=list)
    """Sockets that have a port and do not listen. Their holders have them among their `sockets`, too."""
    cgroups: dict[int, str] = field(default_factory=dict)
    """The paths of cgroups by their ids. A socket with another id was created in the cgroup of its holder."""
    in_flight: bool = False
    executed: set[int] = field(default_factory=set)
    """Processes that called execve(2) after the search for holders: they have no socket any more."""
    """True if a process is passing a socket to another."""
    refused: tuple[str, ...] = ()
    """Addresses that the log of each unit shows as in use; empty for one that is not named."""
    refused_ports: dict[str, tuple[Port, ...]] = field(default_factory=dict)
    """Ports that the log of a unit shows as in use, by its name."""
    other_managers: OtherManagers = field(default_factory=OtherManagers)
    open_logs: tuple[str, ...] = ()
    files: dict[str, FileText] = field(default_factory=dict)
    latest_changes: dict[str, FileChange] = field(
        default_factory=dict
    )  # the latest change, by the path that is asked for
    hides_main_pids: bool = False
    """True if systemd does not report the main processes of all services."""
    unit_load: int = 0
    """When systemd last read its unit files, in microseconds."""
    earlier: tuple[str, ...] = ()
    """Addresses on which each unit listened before."""
    unreadable: tuple[int, ...] = ()
    """PIDs in the unit's cgroup that stay, and cannot be read."""
    frozen_cgroups: tuple[str, ...] = ()
    """Units whose cgroup the kernel has frozen."""
    reload_loses: list[str] = field(default_factory=list)
    reload_breaks: list[str] = field(default_factory=list)
    inside: str = ""
    session: str = ""
    stuck: bool = False
    running: tuple[str, ...] = ()
    starts: int = 0
    written: list[str] = field(default_factory=list)
    waits: list[Wake] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    jobs: dict[str, JobResult | None] = field(default_factory=dict)
    results: dict[str, CommandResult | None] = field(default_factory=dict)
    asked: dict[Query[Any], Answer[Any]] = field(default_factory=dict)
    user_units: dict[int, tuple[Unit, ...]] = field(default_factory=dict)
    """The units of users' managers that can be reached, by the user's number."""
    replaced: dict[int, tuple[str, ...] | None] = field(default_factory=dict)
    """The files that were replaced under a process, by its PID; None if that cannot be read."""
    installations: dict[str, Installation] = field(default_factory=dict)
    """The package of a file, and when it was installed last."""
    slow: float = 0.0
    judged: dict[tuple[str, Port, tuple[str, ...]], tuple[float, PortOwnership]] = field(default_factory=dict)
    asked_at: dict[Query[Any], float] = field(default_factory=dict)

    # -- HostView

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        return self.units.get(name) or Unit(name, load_state=LoadState.NOT_FOUND)

    def judge_port(
        self, unit: Unit, port: Port, *, max_age: float = 0.0, shared_with: tuple[str, ...] = ()
    ) -> PortOwnership:
        """Return an earlier verdict as long as `max_age` permits, even if the facts have changed, as a host may."""
        at, known = self.judged.get((unit.name, port, shared_with), (0.0, None))
        if known is not None and known.is_owned and self.clock.monotonic() - at <= max_age:
            return known
        found = self._judge(unit).judge_port(port, shared_with)
        self.judged[unit.name, port, shared_with] = (self.clock.monotonic(), found)
        return found

    def describe_port_uses(self, unit: Unit, port: Port) -> str:
        return self._judge(unit).describe_uses(port)

    def find_refused_ports(self, unit: Unit) -> tuple[Port, ...]:
        return self.refused_ports.get(unit.name, ())

    def read_files(self, *paths: str) -> tuple[FileText, ...]:
        return tuple(self.files[path] for path in paths if path in self.files)

    def find_latest_change(self, path: str) -> FileChange | None:
        return self.latest_changes.get(path)

    def find_other_managers(self, name: str) -> OtherManagers:
        return self.other_managers

    def find_open_logs(self, unit: Unit) -> tuple[str, ...]:
        return self.open_logs

    def last_unit_load(self) -> int:
        return self.unit_load

    def remember_addresses(self, unit: Unit, ports: Sequence[Port] = ()) -> None:
        pass

    def list_unit_listeners(self, unit: Unit) -> tuple[Listener, ...]:
        return tuple(
            listener
            for pid, held in self.sockets.items()
            for listener in held
            if pid in self.processes and self.processes[pid].cgroup == unit.control_group
        )

    def list_changed_services(self) -> tuple[str, ...]:
        return self.list_services()

    def list_units(self, user: int | None = None) -> tuple[Unit, ...]:
        if user is not None and user not in self.user_units:
            raise HostError("cannot reach it")
        units = self.units.values() if user is None else self.user_units[user]
        return tuple(one for one in units if one.active_state is not ActiveState.INACTIVE)

    def scan_ports(self) -> PortScan:
        inodes = {listener.inode: listener for held in self.sockets.values() for listener in held}
        return PortScan(tuple(inodes.values()), self.scan_holders(inodes, ()).holders, self.hidden)

    def find_replaced_files(self, process: ProcessId) -> tuple[str, ...] | None:
        return self.replaced.get(process.pid, ())

    def find_installations(self, files: Collection[str], since: float) -> Mapping[str, Installation]:
        return {file: found for file, found in self.installations.items() if file in files and found.at > since}

    def list_services(self) -> tuple[str, ...]:
        services = (one for name, one in self.units.items() if name.endswith(".service"))
        return tuple(one.name for one in services if one.active_state is not ActiveState.INACTIVE)

    def find_similar_unit(self, name: str) -> str:
        return next(iter(difflib.get_close_matches(name, self.units, n=1, cutoff=0.8)), "")

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        if not unit.private_network and not unit.network_namespace_path:
            return None
        if not unit.main_pid:
            raise HostError(f"{unit.name} has its own network namespace, and no main process to enter it through")
        return self.processes[unit.main_pid].id

    def judge_process(self, unit: Unit, process: Process) -> Holder:
        return self._judge(unit).judge_process(process, ())

    def find_leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        return self._judge(unit).find_leftovers()

    def is_frozen(self, unit: Unit) -> bool:
        return unit.name in self.frozen_cgroups

    def is_populated(self, unit: Unit) -> bool:
        hidden = self.pid_churn or self.unreadable
        return bool(hidden or (unit.control_group and self.list_cgroup_pids(unit.control_group)))

    def list_unit_pids(self, unit: Unit) -> tuple[int, ...]:
        self.last_pid += self.pid_churn
        return self.list_cgroup_pids(unit.control_group)

    def _judge(self, unit: Unit) -> PortJudge:
        own_network = unit.private_network or bool(unit.network_namespace_path)
        manager = USER if unit.of_user else None
        return PortJudge(unit, self, self, manager, own_network, self)

    def find_unit_of_invocation(self, invocation: str) -> Unit | None:
        return next((u for u in self.units.values() if u.invocation_id == invocation), None)

    def list_main_pids(self) -> dict[int, str] | None:
        if self.hides_main_pids:
            return None
        return {known.main_pid: name for name, known in self.units.items() if known.is_running and known.main_pid}

    def list_open_sockets(self) -> list[str]:
        return [name for name, known in self.units.items() if name.endswith(".socket") and known.is_running]

    def read_loaded_state(self, name: str) -> ActiveState | None:
        known = self.units.get(name)
        return known.active_state if known else None

    def job(self, ref: JobRef) -> JobResult | None:
        if ref.path in self.results:
            return JobResult.DONE if self.results[ref.path] else None
        return self.jobs[ref.path]

    def read_command_result(self, ref: JobRef) -> CommandResult:
        result = self.results[ref.path]
        assert result is not None
        return result

    def find_process(self, pid: int) -> Process | None:
        return self.processes.get(pid)

    def list_processes(self) -> tuple[Process, ...]:
        return tuple(self.processes.values())

    def find_process_state(self, pid: int) -> str:
        return found.state if (found := self.find_process(pid)) else ""

    def find_start_time(self, process: Process) -> float:
        return EPOCH + process.started

    def is_alive(self, process: ProcessId) -> bool:
        known = self.processes.get(process.pid)
        return known is not None and known.id == process

    def describe_process_state(self, process: ProcessId) -> str:
        return "D (uninterruptible)"

    def find_start_obstacle(self, command: Command) -> str:
        return self.hinders.get(command.user) or self.hinders.get(command.cwd, "")

    def query(self, query: Query[T]) -> Answer[T] | None:
        if self.slow and query not in self.asked_at:
            self.asked_at[query] = self.clock.time
            self.later.append((self.clock.time + self.slow, lambda machine: None))
            self._answer(query)
        if self.slow and self.clock.time < self.asked_at[query] + self.slow:
            return None
        return self._answer(query)

    def _answer(self, query: Query[T]) -> Answer[T]:
        if query not in self.asked:
            within = f" within PID {query.netns_process.pid}" if query.netns_process else ""
            if isinstance(query.kind, JournalTailQuery | PreviousExitQuery | StartTimesQuery):
                empty = None if isinstance(query.kind, PreviousExitQuery) else ()
                self.answers.setdefault(str(query.kind), [Answer(True, "", empty)])
            script = self.answers[f"{query.kind}{within}"]
            self.asked[query] = script.pop(0) if len(script) > 1 else script[0]
        return self.asked[query]

    # -- the kernel, for PortJudge

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        alike = [s for held in self.sockets.values() for s in held if s.number == port.number]
        if port.address not in (None, *WILDCARDS):
            alike = [s for s in alike if s.address in (port.address, *WILDCARDS)]
        found = {s.inode: s for s in alike}
        return tuple(found[inode] for inode in sorted(found))

    def list_uses(self, port: Port) -> tuple[PortUse, ...]:
        return tuple(use for use in self.uses if use.socket.number == port.number)

    def list_netns_listeners(self, pid: int, port: Port) -> tuple[Listener, ...]:
        return tuple(s for s in self.sockets.get(pid, []) if s.number == port.number)

    def list_cgroup_pids(self, path: str) -> tuple[int, ...]:
        found = (pid for pid, found in self.processes.items() if f"{found.cgroup}/".startswith(f"{path}/"))
        return (*((self.last_pid,) if self.pid_churn else ()), *self.unreadable, *found)

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> DescriptorScan:
        held = {
            pid: {s.inode for s in sockets if s.inode in inodes}
            for pid, sockets in self.sockets.items()
            if pid in self.processes
        }
        return DescriptorScan({pid: found for pid, found in held.items() if found}, self.hidden)

    def find_held_sockets(self, pid: int, inodes: Collection[int]) -> set[int]:
        return set() if pid in self.executed else {s.inode for s in self.sockets.get(pid, ()) if s.inode in inodes}

    def has_sockets_in_flight(self) -> bool:
        return self.in_flight

    def read_process(self, pid: int) -> Process | None:
        return self.processes.get(pid)

    def is_multicast(self, listener: Listener, pids: Collection[int], *, reusable: bool = False) -> bool:
        return ip_address(listener.address).is_multicast

    def find_refused(self, unit: Unit, port: Port) -> tuple[str, ...]:
        return self.refused

    def find_earlier(self, unit: Unit, port: Port) -> tuple[str, ...]:
        return self.earlier

    def describe_container(self, process: Process) -> str:
        return "it runs in another PID namespace" if process.pid_namespace else ""

    def describe_virtual_machine(self, process: Process) -> str:
        return protected.find_machine_protection(process, lambda pid, _: pid in self.virtual_machines)

    def describe_giver(self, process: Process, sockets: tuple[Listener, ...]) -> str:
        own = not sockets or any(one.uid in (0, process.uid) for one in sockets)
        return "" if own else f"user {sockets[0].uid} in session-7.scope"

    def is_created_in(self, socket: Listener, cgroup: str) -> bool:
        made_in = self.cgroups.get(socket.cgroup_id, cgroup)
        return bool(made_in) and f"{cgroup}/".startswith(f"{made_in}/")

    def find_cgroup(self, number: int) -> str:
        return self.cgroups.get(number, "")

    def find_protection(self, process: Process) -> str:
        return self.spared.get(process.pid, "")

    # -- Host

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        self._write(f"{verb} {unit}")
        path = f"/job/{len(self.jobs) + 1}"
        self.jobs[path] = self.on_job.get(str(verb), does_its_job)(self, unit)
        return JobRef(path, unit, str(verb))

    def cancel_job(self, ref: JobRef) -> None:
        self._write(f"cancel {ref.verb} {ref.unit}")

    def daemon_reload(self) -> None:
        self._write("daemon-reload")
        # After a reload systemd no longer has the PID of an untracked main process (seen on 252 and 257).
        self.units |= {name: replace(known, main_pid=0) for name, known in self.units.items() if known.is_untracked}
        for name, known in self.units.items():
            if name in self.reload_breaks:
                # systemd may still want a reload of a unit that it could not load (seen on 252, with a drop-in file).
                self.units[name] = replace(known, load_state=LoadState.BAD_SETTING)
            elif known.need_daemon_reload and known.load_state in UNLOADABLE:
                self.units[name] = replace(known, load_state=LoadState.LOADED, need_daemon_reload=False)
        for name in self.reload_loses:
            known = self.units[name]
            self.units[name] = replace(known, active_state=ActiveState.INACTIVE, need_daemon_reload=False)

    def reset_failed(self, unit: str) -> None:
        self._write(f"reset-failed {unit}")
        known = self.units[unit]
        down = ActiveState.INACTIVE if known.active_state is ActiveState.FAILED else known.active_state
        self.units[unit] = replace(known, active_state=down, n_restarts=0, result="success")

    def start_command(self, name: str, command: Command) -> JobRef:
        self._write(f"command {command}")
        path = f"/command/{len(self.results) + 1}"
        self.results[path] = self.on_command(self, command)
        return JobRef(path, f"runbook-{name}.service", "start")

    def find_command(self, name: str, output: str, token: str) -> JobRef | None:
        return self.found_commands.get(name)

    def stop_command(self, ref: JobRef) -> None:
        self._write(f"stop-command {ref.unit}")

    def is_inside(self, unit: Unit) -> bool:
        return unit.name == self.inside

    def is_main(self, unit: Unit) -> bool:
        return False

    def find_login(self) -> str:
        return self.session

    def list_running_commands(self) -> tuple[str, ...]:
        return self.running

    def start_scope(self, name: str) -> JobRef:
        self._write(f"scope {name}")
        if not self.stuck:
            self.inside = self.session = ""
        path = f"/job/{len(self.jobs) + 1}"
        self.jobs[path] = JobResult.DONE
        return JobRef(path, f"runbook-{name}.scope", "start")

    def signal_process(self, unit: Unit, holder: Holder, signum: signal.Signals) -> SignalResult:
        self._write(f"end {holder.process.pid} {signum.name}")
        if not self.is_alive(holder.process.id):
            return SignalResult.GONE
        if self.changing[holder.process.pid] > 0:
            self.changing[holder.process.pid] -= 1
            return SignalResult.CHANGED
        deadly = self.dies_on.get(holder.process.pid, signal.SIGTERM)
        if deadly in (signum, signal.SIGTERM):
            self.kill(holder.process.pid)
        return SignalResult.SENT

    def kill_cgroup(self, unit: Unit, expected: Callable[[Holder], bool]) -> SignalResult:
        self._write(f"end all {unit.name}")
        now = self.units[unit.name]
        pids = (pid for pid in self.list_cgroup_pids(unit.control_group) if pid in self.processes)
        left = [self._judge(now).judge_process(self.processes[pid], ()) for pid in pids]
        if any(holder.is_unread for holder in left):
            return SignalResult.UNREAD
        if now.is_running or not all(holder.may_be_killed and expected(holder) for holder in left):
            return SignalResult.CHANGED
        for holder in left:
            self.kill(holder.process.pid)
        if self.pid_churn:
            self.pid_churn = False
            self.sockets.clear()
        return SignalResult.SENT

    def kill(self, pid: int) -> None:
        """Remove a process and its sockets."""
        self.processes.pop(pid, None)
        self.sockets.pop(pid, None)

    def _write(self, what: str) -> None:
        self.written.append(what)
        if error := self.refuse.get(what.split(maxsplit=1)[0]):
            raise error

    # -- Waiter

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Move the clock to the next change, the end of the wake, or the deadline, whichever is first."""
        assert "" not in wake.units, "systemd takes no unit without a name"
        self.waits.append(wake)
        until = min(self.clock.time + wake.within, deadline.at)
        due = sorted((moment for moment in self.later if moment[0] <= until), key=lambda moment: moment[0])
        if due:
            at, happen = due[0]
            self.later.remove(due[0])
            self.clock.time = max(self.clock.time, at)
            happen(self)
        else:
            self.clock.time = until


def does_its_job(machine: FakeMachine, name: str) -> JobResult | None:
    """Finish the last job at once, as systemd does with a well-behaved service."""
    verb = machine.written[-1].split()[0]
    known = machine.units[name]
    if verb == "reload":
        pass
    elif verb == "stop":
        machine.units[name] = replace(
            known, active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, control_group=""
        )
        for pid, found in list(machine.processes.items()):
            if known.control_group and found.cgroup.startswith(known.control_group):
                machine.kill(pid)
    else:
        start_anew(machine, name)
    return JobResult.DONE


def start_anew(machine: FakeMachine, name: str, *, pid: int = 200) -> None:
    """Make a new invocation of a unit active."""
    known = machine.units[name]
    machine.starts += 1
    now = int(machine.clock.time * 1e6) + machine.starts
    machine.units[name] = replace(
        known,
        active_state=ActiveState.ACTIVE,
        sub_state="running",
        result="success",
        main_pid=pid,
        invocation_id=f"{machine.starts:032x}",
        control_group=f"/system.slice/{name}",
        exec_main_start_monotonic=now,
        inactive_exit_monotonic=now,
        n_restarts=0,
    )
    machine.processes[pid] = process(pid, cgroup=f"/system.slice/{name}", started=machine.clock.time)


def listen(machine: FakeMachine, pid: int, *addresses: str, first_inode: int | None = None) -> None:
    """Make a process listen. Two processes with the same inode hold one socket."""
    for number, address in enumerate(addresses):
        host, _, port = address.rpartition(":")
        inode = (first_inode if first_inode is not None else pid * 100) + number
        machine.sockets.setdefault(pid, []).append(Listener("tcp", host.strip("[]"), int(port), inode, cgroup_id=77))


def close_in_accept(machine: FakeMachine, pid: int, port: int) -> None:
    """Close a process's sockets of a port. A thread of it is in accept(2), so the kernel keeps them unseen."""
    for socket in [socket for socket in machine.sockets[pid] if socket.number == port]:
        machine.sockets[pid].remove(socket)
        machine.sockets.setdefault(UNSEEN, []).append(socket)


def _job_request(entry: Mapping[str, Any]) -> JobRequest:
    """Return a job of another requester: its number and, if they are known, the requester's PID and command."""
    if "pid" not in entry:
        return JobRequest(entry["job"])
    own = entry.get("own", False)
    return JobRequest(entry["job"], (Requester(entry["pid"], tuple(entry["command"].split()), "root", is_own=own),))


def facts_of(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the kebab-case facts of a case file as fields of a dataclass."""
    words = {"active_state": ActiveState, "load_state": LoadState}
    named = {key.replace("-", "_"): value for key, value in mapping.items()}
    if "listen" in named:
        named["listen"] = tuple(tuple(entry) for entry in named["listen"])
    if "job_requests" in named:
        named["job_requests"] = tuple(map(_job_request, named["job_requests"]))
    if "activation" in named:
        named["activation"] = tuple(named["activation"].items())
    return {key: words[key](value) if key in words else value for key, value in named.items()}
