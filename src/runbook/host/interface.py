"""The two interfaces to the machine: `HostView` only reads, `Host` may also act.

A step's `check` gets the first and its `apply` the second, so a dry run that writes does not type-check.
Nothing here blocks longer than its own time-out, and nothing here waits for the machine to change: that is the
`Waiter`'s part, and only the engine has one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # `runbook validate` needs no data of a machine.
    import signal

    from runbook.host.dpkg import Installation
    from runbook.host.facts import JobRef, JobResult, JobVerb, Unit
    from runbook.host.holders import Holder, Listener, PortOwnership, PortScan, Process, SignalResult
    from runbook.host.queries import Answer, Command, CommandResult, FileChange, FileText, OtherManagers, Query
    from runbook.model import Clock, Deadline, Port, ProcessId, Wake

T = TypeVar("T")

SHARED_READ_AGE = 1.0  # seconds within which several checks share one read: before a run, and for its final message


FILE_TIMEOUT = 0.5  # seconds for small files to be read


class HostView(Protocol):
    """What can be read of a machine, without changing it."""

    @property
    def clock(self) -> Clock:
        """The clock of this machine."""

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        """Read a unit. A unit that does not exist has LoadState=not-found.

        A read that is at most `max_age` seconds old may be returned again, unless systemd has announced a change
        since. Raises HostError if systemd does not answer.
        """

    def judge_port(
        self, unit: Unit, port: Port, *, max_age: float = 0.0, shared_with: tuple[str, ...] = ()
    ) -> PortOwnership:
        """Judge which processes listen on `port`, from the point of view of `unit`.

        The judgement that the unit owns the port may be up to `max_age` seconds old, as long as the unit, the
        listeners and their holders are unchanged. Another process that was handed a socket meanwhile, which nothing
        announces, is then missed: no step ends on an older judgement.

        Units whose names match `shared_with`, which may contain globs, may listen on the port too.
        """

    def describe_port_uses(self, unit: Unit, port: Port) -> str:
        """Describe which sockets that do not listen have the port: a client's, a connection's, or one only bound.

        A clause to be added to a reason; empty if there is none. It may read all processes: ask once nothing listens.
        """

    def find_refused_ports(self, unit: Unit) -> tuple[Port, ...]:
        """Return the ports that the unit found in use, by its log."""

    def read_files(self, *paths: str) -> tuple[FileText, ...]:
        """Read those of the files that are there, in this order; none if that takes longer than FILE_TIMEOUT.

        For small files that anyone may have written. To read them waits for nothing but the file system.
        """

    def find_latest_change(self, path: str) -> FileChange | None:
        """Return which changed last: a file, a link on the way to it, or what is in it if it is a folder.

        None if it does not exist, or if that takes longer than FILE_TIMEOUT.
        """

    def last_unit_load(self) -> int:
        """Return when systemd last read its unit files, in microseconds of CLOCK_MONOTONIC; 0 if it does not report it.

        It does so at boot, in a daemon-reload and in a daemon-reexec.
        """

    def remember_addresses(self, unit: Unit, ports: Sequence[Port] = ()) -> None:
        """Remember on which addresses a unit listens, or which its log shows in use, until the run ends.

        Only on these ports, whatever address they have; without any, on all ports.

        Once it is down, or another invocation has begun, nothing may show that any more.
        """

    def list_unit_listeners(self, unit: Unit) -> tuple[Listener, ...]:
        """List the sockets that the unit's processes listen on, on any port.

        A UDP socket with a port of ip_local_port_range is a client's, and is left out. If the processes cannot be read,
        these are the sockets that were created in the unit's cgroup.
        """

    def find_network_process(self, unit: Unit, port: Port | None = None) -> ProcessId | None:
        """Return the process in whose network namespace a unit is probed; None if that is this program's own.

        A socket unit listens on `port` in the manager's namespace, whichever the service is in. Raises HostError if
        the unit has its own namespace and no process through which it can be entered.
        """

    def judge_process(self, unit: Unit, process: Process) -> Holder:
        """Judge a process that holds no port, from the point of view of `unit`: what it is, and if it may be killed."""

    def find_leftovers(self, unit: Unit) -> tuple[Holder, ...]:
        """Return the processes of earlier invocations that are still in the unit's cgroup."""

    def is_frozen(self, unit: Unit) -> bool:
        """True if the kernel has frozen the unit's cgroup or that of its main process, or one above."""

    def is_populated(self, unit: Unit) -> bool:
        """True if there is any process in the unit's cgroup, even one that exits before it can be read."""

    def list_unit_pids(self, unit: Unit) -> tuple[int, ...]:
        """Return the PIDs in the unit's cgroup and below, readable or not; 0 for one of an outer PID namespace."""

    def find_similar_unit(self, name: str) -> str:
        """Return the name of an installed unit that is spelled almost like `name`; empty if there is none."""

    def find_other_managers(self, name: str) -> OtherManagers:
        """Find which other managers have a unit of this name; none if that takes longer than FILE_TIMEOUT."""

    def find_open_logs(self, unit: Unit) -> tuple[str, ...]:
        """Return the log files that the unit's processes have open, or had when they were looked at before."""

    def is_inside(self, unit: Unit) -> bool:
        """True if this program is a process of the unit, and would be stopped with it."""

    def is_main(self, unit: Unit) -> bool:
        """True if this program is the unit's main process: systemd stops that one in whichever cgroup it is."""

    def find_login(self) -> str:
        """Return the login that this program was started in and would end with; empty if there is none."""

    def list_services(self) -> tuple[str, ...]:
        """List the services of the manager that are not inactive: up, starting, stopping or failed."""

    def list_units(self, user: int | None = None) -> tuple[Unit, ...]:
        """Read the services and sockets that are not inactive, and all other units that failed.

        Of this manager, or of that of the user with this number. Raises HostError if that manager cannot be reached,
        or does not answer in time.
        """

    def scan_ports(self) -> PortScan:
        """Find all sockets that listen, and their holders. Raises HostError if that takes too long.

        A UDP socket with a port of ip_local_port_range is a client's, and is left out.
        """

    def find_replaced_files(self, process: ProcessId) -> tuple[str, ...] | None:
        """Return the program and the libraries that a process executes, and that were removed or replaced since.

        None if they cannot be read.
        """

    def find_installations(self, files: Collection[str], since: float) -> Mapping[str, Installation]:
        """Return the packages of those files whose package was installed or upgraded after a time, by file.

        The time is in seconds since the epoch. Packages of dpkg only.
        """

    def list_changed_services(self) -> tuple[str, ...]:
        """List those services that changed since the last call, even if they are as before again.

        At the first call, and if announcements of systemd may have been lost since, all of `list_services`.
        """

    def list_running_commands(self) -> tuple[str, ...]:
        """List the units in which a command of `Host.start_command` is running, of this run or of another."""

    def job(self, ref: JobRef) -> JobResult | None:
        """Return how a job ended, or None while it is queued or running."""

    def read_command_result(self, ref: JobRef) -> CommandResult:
        """Return how the command of an ended job of `Host.start_command` ended."""

    def find_command(self, name: str, output: str, token: str) -> JobRef | None:
        """Find the command that an earlier part of this run started with `Host.start_command`, running or ended.

        `output` and `token` are the command's. None if its unit is gone and left no result: then it is unknown
        whether the command was started.
        """

    def find_process(self, pid: int) -> Process | None:
        """Read the process that has this PID now; None if there is none."""

    def list_processes(self) -> tuple[Process, ...]:
        """Read all processes, without their command lines and environments. Raises HostError if that takes too long."""

    def find_process_state(self, pid: int) -> str:
        """Return the state letter (`S`, `T`, …, see proc(5)) of the process with this PID; empty if there is none.

        It costs a tenth of `find_process`.
        """

    def find_start_time(self, process: Process) -> float:
        """Return when a process started, in seconds since the epoch, by the clock as it is set now."""

    def is_alive(self, process: ProcessId) -> bool:
        """True if this very process is still running. A zombie is not."""

    def describe_process_state(self, process: ProcessId) -> str:
        """Return the state letter of proc(5) (`S`, `D`, …) and where the process waits, for a message."""

    def find_start_obstacle(self, command: Command) -> str:
        """Return what is certain to prevent a command from starting: no such user, no such folder. Empty if nothing."""

    def query(self, query: Query[T]) -> Answer[T] | None:
        """Return the answer to a query that may take a while; None while it runs.

        It runs in a child or a thread of this program, and is stopped at its time-out. Commands of the operator's that
        only read run here and nowhere else.
        """


class Host(HostView, Protocol):
    """A machine that may be changed."""

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        """Request a job from systemd and do not wait for it. Its end is recorded even if it comes before the answer.

        Raises AccessDenied, NoSuchUnit, UnitMasked, HostError.
        """

    def cancel_job(self, ref: JobRef) -> None:
        """Cancel a job that is still queued or running; do nothing if it has ended."""

    def daemon_reload(self) -> None:
        """Make systemd read its unit files again."""

    def reset_failed(self, unit: str) -> None:
        """Clear the failed state and the start-limit counter of this one unit."""

    def start_command(self, name: str, command: Command) -> JobRef:
        """Start a command in a transient unit, so that it outlives this program. `name` is part of the unit's name."""

    def start_scope(self, name: str) -> JobRef:
        """Move this program to a scope of its own, named after `name`. When the job is done, it has moved."""

    def stop_command(self, ref: JobRef) -> None:
        """Stop the command of `start_command` and everything that it started. Raises BusTimeout if processes remain.

        It returns when all have exited, after ten seconds at most.
        """

    def signal_process(self, unit: Unit, holder: Holder, signum: signal.Signals) -> SignalResult:
        """Signal one process that holds the unit's port, if it is still the process that was judged.

        Through a pidfd: start time, cgroup and sockets are read again after the pidfd was opened, so that neither
        another process with a reused PID nor a process that moved is signalled (pidfd_open(2)).
        """

    def kill_cgroup(self, unit: Unit, expected: Callable[[Holder], bool]) -> SignalResult:
        """Send SIGKILL to all processes in the cgroup of a unit that is down, at once, through systemd.

        For processes that fork faster than they can be killed one by one. CHANGED, and nothing was sent, if the unit
        is up or has a job, or if one of the processes is protected or not `expected`. UNREAD, and nothing was sent, if
        one of them could not be read in time.
        """


class Waiter(Protocol):
    """What the engine waits with."""

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over.

        It may return early; the caller checks again. Raises Interrupted on SIGINT and SIGTERM.
        """
