"""What the two witnesses say, as plain data: systemd's units and jobs, the kernel's sockets and processes.

systemd's words stay systemd's words. An enum here takes a word it does not know as it is, because the next
systemd may have one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runbook.host.requesters import JobRequest, requester_evidence


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


UP = (ActiveState.ACTIVE, ActiveState.RELOADING, ActiveState.REFRESHING)
"""What a unit reads that is up."""

DOWN = (ActiveState.INACTIVE, ActiveState.FAILED)
"""What a unit reads that is down, and stays so."""


class JobResult(SystemdEnum):
    """How a job ended (systemd, src/core/job.h). GONE is ours: it ended while nobody could listen."""

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


@dataclass(frozen=True)
class JobRef:
    """A job that was asked for: its object path, which systemd never uses twice while it runs.

    `output` is the file of a command's job, next to which the command's unit leaves its result.
    """

    path: str
    unit: str
    verb: str
    output: str = ""

    @property
    def number(self) -> int:
        """Its number, which is the end of its path; a later job of the same boot has a higher one."""
        return job_number(self.path)


def job_number(path: str) -> int:
    """Give the number of a job by the path of its object."""
    return int(path.rpartition("/")[2])


def job_path(number: int) -> str:
    """Give the path of a job's object."""
    return f"/org/freedesktop/systemd1/job/{number}"


@dataclass(frozen=True)
class Unit:
    """One look at a unit: the properties of its D-Bus object, under systemd's own names.

    Timestamps and spans ending in `_usec` are microseconds; `…_monotonic` ones of CLOCK_MONOTONIC; 0 means
    never. `exec_main_start` and `inactive_exit` are in microseconds since the epoch, by the clock of that moment.
    `invocation_id` is 32 hex digits, or empty. `restarts_with` are the units that systemd stops and starts together
    with this one, which they require or are a part of. `job` is the id of a queued or running job, 0 for none,
    `job_type` what it does; `other_jobs` counts ends of jobs that this program did not ask for, and `asked` are the
    latest that were begun since it last asked for one itself, oldest first; `activation` is what systemd knows of the
    timer or path that started it; `follows` are the units whose stop or restart goes on to it. `unmet` are conditions
    that did not hold; `broke` is the command beside the main one that failed first, in words. `starts_cleared`: a
    reset-failed stands before its next start. `listen` is a socket's; fields below `main_pid` are a service's.
    """

    name: str
    load_state: LoadState = LoadState.LOADED
    load_error: str = ""
    active_state: ActiveState = ActiveState.INACTIVE
    sub_state: str = "dead"
    names: tuple[str, ...] = ()
    description: str = ""
    invocation_id: str = ""
    job: int = 0
    job_type: str = ""
    other_jobs: int = 0
    job_requests: tuple[JobRequest, ...] = ()
    activation: tuple[tuple[str, str], ...] = ()
    propagated_from: tuple[str, ...] = ()
    need_daemon_reload: bool = False
    can_reload: bool = False
    can_stop: bool = True
    condition_result: bool = True
    assert_result: bool = True
    unmet_conditions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    triggered_by: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    propagates_to: tuple[str, ...] = ()
    listen: tuple[tuple[str, str], ...] = ()
    fragment_path: str = ""
    unit_file_state: str = ""
    start_limit_interval_usec: int = 0
    start_limit_burst: int = 0
    start_limit_cleared: bool = False
    inactive_enter_monotonic: int = 0
    inactive_exit: int = 0
    inactive_exit_monotonic: int = 0
    active_enter_monotonic: int = 0
    active_exit_monotonic: int = 0
    state_change_monotonic: int = 0
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
    timeout_start_usec: int = 0
    timeout_stop_usec: int = 0
    watchdog_usec: int = 0
    bus_name: str = ""
    pid_file: str = ""
    failed_command: str = ""
    restart_prevent_statuses: tuple[int, ...] = ()
    restart_prevent_signals: tuple[int, ...] = ()
    restart_force_statuses: tuple[int, ...] = ()
    restart_force_signals: tuple[int, ...] = ()
    kill_mode: str = ""
    send_sigkill: bool = True
    status_text: str = ""
    stored_fds: int = 0
    private_network: bool = False
    joins_namespace_of: tuple[str, ...] = ()
    """The units whose namespaces it shares (JoinsNamespaceOf=), which goes both ways."""
    network_namespace_path: str = ""
    of_user: bool = False
    """Whether it belongs to a user's manager, not to the system's."""

    def job_of(self, verb: JobVerb) -> JobRef | None:
        """Give the job that it has at this moment, if that does what `verb` asks for.

        systemd makes a start of a restart when the first half of that is over.
        """
        types = (JobVerb.RESTART, JobVerb.START) if verb is JobVerb.RESTART else (verb,)
        return JobRef(job_path(self.job), self.name, verb) if self.job and self.job_type in types else None

    @property
    def is_service(self) -> bool:
        """Whether it has processes of its own."""
        return self.name.endswith(".service")

    @property
    def is_running(self) -> bool:
        """Whether an invocation is under way, from the start of its start to the end of its stop.

        The pause before an automatic restart reads `activating (auto-restart)`, and nothing runs in it.
        """
        if self.sub_state.startswith("auto-restart"):
            return False
        return self.active_state not in (ActiveState.INACTIVE, ActiveState.FAILED)

    @property
    def began_monotonic(self) -> int:
        """When its invocation began, at the latest known moment before its first process.

        With RestartMode=direct (systemd 254) it is not down between two of them, and InactiveExitTimestamp stays that
        of the first: then the later one came after the end of an earlier one.
        """
        return max(self.inactive_exit_monotonic, self._left_active_monotonic)

    @property
    def previous_end_monotonic(self) -> int:
        """When the invocation before its current one ended; 0 where there was none."""
        return max(self.inactive_enter_monotonic, self._left_active_monotonic)

    def find_trigger(self, before: tuple[tuple[str, str], ...] | None) -> str:
        """Name the timer or path unit that began its invocation; nothing where that is not sure.

        systemd keeps these details over a restart that somebody asked for (seen on 252 and 257). So a timer's moment
        must be later than the end of the invocation before; a path's has none, and must be other than it was `before`.
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
        """Whether systemd has lost sight of it: it reads down, and systemd knows its main process (see naming.lost)."""
        return self.active_state in DOWN and self.main_pid != 0

    def stop_kills(self, pid: int, ppid: int) -> bool:
        """Whether a stop is sure to end a process of it: KillMode= may spare all but the main one (systemd.kill(5)).

        That one takes its own workers along.
        """
        return self.kill_mode not in ("process", "none") or self.main_pid in (pid, ppid)

    @property
    def is_umbrella(self) -> bool:
        """Whether it runs no server itself, and may be mistaken for one that does."""
        return self.type == "oneshot"

    def describe_alternative(self, other: str) -> str:
        """Say that another service may be the one that is meant: a Type=oneshot one is mostly a roof over several.

        Debian's postgresql.service is one: it runs /bin/true, and postgresql@15-main.service is the database.
        """
        if not self.is_umbrella or not other.endswith(".service"):
            return ""
        return f"; {self.name} runs no server (Type=oneshot): if {other} is meant, name that as `unit`"

    def systemctl_command(self, verb: str) -> str:
        """Give the command by which a person acts on it: "systemctl unmask gw.service"."""
        return f"systemctl{' --user' if self.of_user else ''} {verb} {self.name}"

    @property
    def state(self) -> str:
        """Its ActiveState, and its SubState where that says more: "active (running)", "failed"."""
        return str(self.active_state) + (f" ({self.sub_state})" if self.sub_state != self.active_state else "")

    def describe_not_found(self, near: str = "") -> str:
        """Say that its manager knows no such unit, and which one may be meant."""
        who = "the user manager" if self.of_user else "systemd"
        return f"{who} knows no unit {self.name}" + (f"; did you mean {near}?" if near else "")

    def describe(self) -> str:
        """Say its state as `systemctl status` would: "active (running), PID 315"."""
        if self.load_state in (LoadState.NOT_FOUND, LoadState.MASKED) and not self.is_running:
            return "not found" if self.load_state is LoadState.NOT_FOUND else "masked"
        return self.state + (f", PID {self.main_pid}" if self.main_pid else "")

    def evidence(self) -> dict[str, Any]:
        """Give what an operator would ask for first, in systemd's names."""
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
