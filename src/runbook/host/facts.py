"""What systemd reports about units and jobs, as plain data under systemd's own names.

An enum here accepts words that it does not list, because the next systemd may have one more.
"""

from __future__ import annotations

import string
from enum import StrEnum
from shlex import quote
from typing import Any

from runbook.host.requesters import JobRequest, requester_evidence
from runbook.model import frozen


class SystemdEnum(StrEnum):
    """A word of systemd's. One that is not listed becomes a member of its own, equal to its text."""

    @classmethod
    def _missing_(cls, value: object) -> SystemdEnum | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value.upper().replace("-", "_")
        member._value_ = value
        return member


class LoadState(SystemdEnum):
    """Whether systemd found the unit's file and could read it."""

    STUB = "stub"
    LOADED = "loaded"
    NOT_FOUND = "not-found"
    BAD_SETTING = "bad-setting"
    ERROR = "error"
    MERGED = "merged"
    MASKED = "masked"


UNLOADABLE = (LoadState.BAD_SETTING, LoadState.ERROR)  # states of a unit whose file is wrong, or cannot be read


class ActiveState(SystemdEnum):
    """The state that `systemctl is-active` prints."""

    ACTIVE = "active"
    RELOADING = "reloading"
    REFRESHING = "refreshing"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    MAINTENANCE = "maintenance"


UP = (ActiveState.ACTIVE, ActiveState.RELOADING, ActiveState.REFRESHING)  # states of a unit that is up
DOWN = (ActiveState.INACTIVE, ActiveState.FAILED)  # states of a unit that is down, and stays down

LISTEN_PROTOCOLS = {"Stream": "tcp", "Datagram": "udp"}
"""The kinds of `Listen` of a socket unit (org.freedesktop.systemd1(5)) that have port numbers."""


class JobResult(SystemdEnum):
    """How a job ended (systemd, src/core/job.h). GONE is ours: it ended while this program was not connected."""

    DONE = "done"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DEPENDENCY = "dependency"
    SKIPPED = "skipped"
    INVALID = "invalid"
    ASSERT = "assert"
    UNSUPPORTED = "unsupported"
    COLLECTED = "collected"
    ONCE = "once"
    FROZEN = "frozen"
    GONE = "gone"


class JobVerb(StrEnum):
    """What a job is to do to a unit."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    RELOAD = "reload"


@frozen
class JobRef:
    """A job that this program requested."""

    path: str  # its object path, which systemd never uses twice while it runs
    unit: str
    verb: str
    output: str = ""  # of a command's job: the file of its output; the command's unit writes its result next to it

    @property
    def number(self) -> int:
        """The end of its path. A later job of the same boot has a higher number."""
        return job_number(self.path)


def job_number(path: str) -> int:
    """Return the number of a job from the path of its object."""
    return int(path.rpartition("/")[2])


def job_path(number: int) -> str:
    """Return the path of a job's object."""
    return f"/org/freedesktop/systemd1/job/{number}"


def unit_path(name: str) -> str:
    """Return the object path of a unit: a byte that is neither a letter nor a digit is written as `_` and its hex code.

    A leading digit is written so too (systemd, src/shared/bus-label.c).
    """
    plain = set(string.ascii_letters + string.digits)
    escaped = [chr(byte) if chr(byte) in plain else f"_{byte:02x}" for byte in name.encode()]
    if name[:1].isdigit():
        escaped[0] = f"_{ord(name[0]):02x}"
    return f"/org/freedesktop/systemd1/unit/{''.join(escaped)}"


@frozen
class Unit:
    """One read of a unit: the properties of its D-Bus object, under systemd's own names.

    Timestamps and spans that end in `_usec` are microseconds. `…_monotonic` are microseconds of CLOCK_MONOTONIC; other
    timestamps are microseconds since the epoch, by the clock at that moment. 0 means never. Fields from `type` on are
    those of a service, except `listen`, which is a socket's.
    """

    name: str
    load_state: LoadState = LoadState.LOADED
    load_error: str = ""
    active_state: ActiveState = ActiveState.INACTIVE
    sub_state: str = "dead"
    names: tuple[str, ...] = ()
    description: str = ""
    invocation_id: str = ""  # 32 hex digits, or empty
    job: int = 0  # the number of a queued or running job; 0 if there is none
    job_type: str = ""
    other_jobs: int = 0  # how many jobs have ended that this program did not request
    job_requests: tuple[JobRequest, ...] = ()  # the latest that began since this program requested one, oldest first
    activation: tuple[tuple[str, str], ...] = ()  # ActivationDetails: the timer or path unit that started it
    propagated_from: tuple[str, ...] = ()  # the units whose stop or restart continues to this one
    is_transient: bool = False  # True if it has no file: a client made it over the bus
    need_daemon_reload: bool = False
    unit_file_state: str = ""  # enabled, disabled, static, … as in systemctl(1), is-enabled
    can_reload: bool = False
    can_stop: bool = True
    condition_result: bool = True
    assert_result: bool = True
    unmet_conditions: tuple[str, ...] = ()  # the conditions and asserts that were not met, as in the unit file
    requires: tuple[str, ...] = ()
    requisite: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    upholds: tuple[str, ...] = ()
    binds_to: tuple[str, ...] = ()
    triggered_by: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    stop_when_unneeded: bool = False
    required_by: tuple[str, ...] = ()
    requisite_of: tuple[str, ...] = ()
    bound_by: tuple[str, ...] = ()
    consists_of: tuple[str, ...] = ()  # the units with PartOf= this one
    propagates_stop_to: tuple[str, ...] = ()
    stopped_by_restart: tuple[str, ...] = ()  # those of `propagates_stop_to`, if its restart stops them too
    propagates_reload_to: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    conflicted_by: tuple[str, ...] = ()
    refuse_manual_start: bool = False
    refuse_manual_stop: bool = False
    start_limit_action: str = ""
    failure_action: str = ""
    success_action: str = ""
    job_timeout_action: str = ""
    listen: tuple[tuple[str, str], ...] = ()  # the kinds and addresses on which a socket unit listens
    start_limit_interval_usec: int = 0
    start_limit_burst: int = 0
    start_limit_cleared: bool = False  # True if a reset-failed comes before its next start
    state_change_monotonic: int = 0
    inactive_enter_monotonic: int = 0
    inactive_exit: int = 0
    inactive_exit_monotonic: int = 0
    active_enter_monotonic: int = 0
    active_exit_monotonic: int = 0
    freezer_state: str = ""  # empty if systemd has none for it
    control_group: str = ""
    control_group_id: int = 0
    main_pid: int = 0
    control_pid: int = 0
    type: str = ""
    restart: str = ""
    restart_usec: int = 0
    remain_after_exit: bool = False
    result: str = ""
    reload_result: str = ""
    n_restarts: int = 0
    exec_main_pid: int = 0
    exec_main_code: int = 0
    exec_main_status: int = 0
    exec_main_start_monotonic: int = 0
    exec_main_start: int = 0
    exec_main_handoff_monotonic: int | None = None  # when systemd executed the program. None before systemd 256
    control_exit_monotonic: int = 0  # when the last command of the start exited after which systemd waits for PIDFile=
    reload_monotonic: int = 0  # when a command of ExecReload= last started in this invocation
    timeout_start_usec: int = 0
    timeout_stop_usec: int = 0
    watchdog_usec: int = 0
    standard_output: str = ""  # `file`, `append` and `truncate` come without the path
    standard_error: str = ""
    log_namespace: str = ""
    logs_directory: tuple[str, ...] = ()  # below /var/log
    fragment_path: str = ""  # its file
    drop_in_paths: tuple[str, ...] = ()
    start_arguments: tuple[str, ...] = ()  # the words of all commands of ExecStart=
    environment: tuple[str, ...] = ()  # the assignments of Environment=, which may have secrets
    bus_name: str = ""
    pid_file: str = ""
    environment_files: tuple[tuple[str, bool], ...] = ()  # each with whether it may be missing
    failed_command: str = ""  # the command beside the main process that failed first, in words
    restart_prevent_statuses: tuple[int, ...] = ()
    restart_prevent_signals: tuple[int, ...] = ()
    restart_force_statuses: tuple[int, ...] = ()
    restart_force_signals: tuple[int, ...] = ()
    kill_mode: str = ""
    delegate: bool = False  # True if its processes may make cgroups below its own
    send_sigkill: bool = True
    log_rate_limit_interval_usec: int = 0
    log_rate_limit_burst: int = 0
    log_level_max: int = -1
    log_filter_patterns: tuple[tuple[bool, str], ...] = ()  # each with whether it keeps what matches. systemd 253
    status_text: str = ""
    stored_fds: int = 0
    private_network: bool = False
    joins_namespace_of: tuple[str, ...] = ()  # the units that share its namespaces, in either direction
    network_namespace_path: str = ""
    of_user: bool = False  # True if it belongs to a user's manager, not to the system's

    def job_of(self, verb: JobVerb) -> JobRef | None:
        """Return the job that it has at this moment, if that does what `verb` asks for.

        systemd turns a restart into a start when the first half of it is over.
        """
        types = (JobVerb.RESTART, JobVerb.START) if verb is JobVerb.RESTART else (verb,)
        return JobRef(job_path(self.job), self.name, verb) if self.job and self.job_type in types else None

    @property
    def is_service(self) -> bool:
        """True if it has processes of its own."""
        return self.name.endswith(".service")

    @property
    def is_running(self) -> bool:
        """True from the beginning of its start to the end of its stop.

        The pause before an automatic restart reads `activating (auto-restart)`, and no process runs in it.
        """
        return self.active_state not in DOWN and not self.sub_state.startswith("auto-restart")

    @property
    def awaits_pid_file(self) -> bool:
        """True if its start waits for nothing but PIDFile=: with Type=forking, or after a command of ExecStartPost=."""
        waits = self.sub_state == "start-post" or (self.sub_state == "start" and self.type == "forking")
        return self.active_state is ActiveState.ACTIVATING and waits and bool(self.pid_file) and not self.control_pid

    @property
    def began_monotonic(self) -> int:
        """When its invocation began, at the latest known moment before its first process.

        With RestartMode=direct (systemd 254) it is not down between two invocations, and InactiveExitTimestamp stays
        that of the first. Then the later one began after the end of the earlier one.
        """
        return max(self.inactive_exit_monotonic, self._left_active_monotonic)

    @property
    def previous_end_monotonic(self) -> int:
        """When the invocation before its current one ended; 0 if there was none."""
        return max(self.inactive_enter_monotonic, self._left_active_monotonic)

    def find_trigger(self, before: tuple[tuple[str, str], ...] | None) -> str:
        """Return the timer or path unit that started its invocation; empty if that is not certain.

        systemd keeps these details over a restart that another client requested (seen on 252 and 257). So the time of a
        timer must be later than the end of the previous invocation. A path unit has no time, so its details must differ
        from those `before`.
        """
        details = dict(self.activation)
        moment = int(details.get("trigger_timer_monotonic_usec", 0))
        anew = moment >= self.previous_end_monotonic if moment else before is not None and self.activation != before
        return details.get("trigger_unit", "") if anew else ""

    @property
    def _left_active_monotonic(self) -> int:
        down = self.active_state in (ActiveState.DEACTIVATING, *DOWN)
        return 0 if down else self.active_exit_monotonic

    @property
    def is_untracked(self) -> bool:
        """True if systemd has lost track of it: it reads down, with a main process. See `describe_untracked`."""
        return self.active_state in DOWN and self.main_pid != 0

    def stop_kills(self, pid: int, ppid: int) -> bool:
        """Return whether a stop certainly kills a process of it: KillMode= may spare all but the main one and its
        own workers (systemd.kill(5)).
        """
        return self.kill_mode not in ("process", "none") or self.main_pid in (pid, ppid)

    def may_outlive_stop(self, pid: int) -> bool:
        """Return whether a stop may leave a process of it running, by KillMode= and SendSIGKILL= (systemd.kill(5)).

        With KillMode=process the main process may end its workers, or not.
        """
        spares = self.kill_mode == "none" or (self.kill_mode == "process" and pid != self.main_pid)
        return spares or not self.send_sigkill

    @property
    def is_umbrella(self) -> bool:
        """True if it runs no server itself, and may be mistaken for a unit that does."""
        return self.type == "oneshot"

    @property
    def has_done_its_work(self) -> bool:
        """True if it is down because a Type=oneshot without RemainAfterExit= is, once its work is done."""
        return self.type == "oneshot" and not self.remain_after_exit and self.result == "success"

    def describe_alternative(self, other: str) -> str:
        """Return a hint that another service may be meant: a Type=oneshot unit often only groups several services.

        Debian's postgresql.service is one: it runs /bin/true, and postgresql@15-main.service is the database.
        """
        hint = f"; {self.name} runs no server (Type=oneshot): if {other} is meant, name that as `unit`"
        return hint if self.is_umbrella and other.endswith(".service") else ""

    def systemctl_command(self, verb: str) -> str:
        """Return the command for an operator: "systemctl unmask gw.service"."""
        return f"systemctl{' --user' if self.of_user else ''} {verb} {quote(self.name)}"

    @property
    def state(self) -> str:
        """Its ActiveState, and its SubState if that adds something: "active (running)", "failed"."""
        return str(self.active_state) + (f" ({self.sub_state})" if self.sub_state != self.active_state else "")

    def describe_not_found(self, near: str = "") -> str:
        """Describe that its manager has no such unit, and which unit may be meant."""
        manager = "the user manager" if self.of_user else "systemd"
        return f"{manager} has no unit {self.name}" + (f"; did you mean {near}?" if near else "")

    def describe_unloadable(self) -> str:
        """Describe that its manager cannot load it; of a wrong setting, only the journal names which one it is."""
        why = "a setting in its file is wrong" if self.load_state is LoadState.BAD_SETTING else self.load_error
        return f"systemd cannot load {self.name}: {why or 'its file cannot be read'}"

    def describe(self) -> str:
        """Describe its state as `systemctl status` does: "active (running), PID 315"."""
        if self.load_state in (LoadState.NOT_FOUND, LoadState.MASKED) and not self.is_running:
            return "not found" if self.load_state is LoadState.NOT_FOUND else "masked"
        return self.state + (f", PID {self.main_pid}" if self.main_pid else "")

    def evidence(self) -> dict[str, Any]:
        """Return the facts that an operator looks at first, under systemd's names."""
        return {
            "ActiveState": str(self.active_state),
            "SubState": self.sub_state,
            "Result": self.result,
            "MainPID": self.main_pid,
            "NRestarts": self.n_restarts,
            "ExecMainStatus": self.exec_main_status,
            "InvocationID": self.invocation_id,
            **({"asked-by": named} if (named := requester_evidence(self.job_requests)) else {}),
        }
