"""What the two witnesses say, as plain data: systemd's units and jobs, the kernel's sockets and processes.

systemd's words stay systemd's words. An enum here takes a word it does not know as it is, because the next
systemd may have one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runbook.model import Port, ProcessId, Verdict


class SystemdWord(StrEnum):
    """A word of systemd's. One that is not listed becomes a member of its own, equal to its text."""

    @classmethod
    def _missing_(cls, value: object) -> SystemdWord | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value.upper().replace("-", "_")
        member._value_ = value
        return member


class LoadState(SystemdWord):
    """Whether systemd found the unit's file and could read it."""

    STUB = "stub"
    LOADED = "loaded"
    NOT_FOUND = "not-found"
    BAD_SETTING = "bad-setting"
    ERROR = "error"
    MERGED = "merged"
    MASKED = "masked"


class ActiveState(SystemdWord):
    """The state that `systemctl is-active` prints."""

    ACTIVE = "active"
    RELOADING = "reloading"
    REFRESHING = "refreshing"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    MAINTENANCE = "maintenance"


class JobResult(SystemdWord):
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


@dataclass(frozen=True)
class Unit:
    """One look at a unit: the properties of its D-Bus object, under systemd's own names.

    Timestamps and spans ending in `_usec` are microseconds; `…_monotonic` ones of CLOCK_MONOTONIC; 0 means
    never. `invocation_id` is 32 hex digits, or empty. `job` is the id of a queued or running job, 0 for none.
    `listen` is a socket unit's; fields below `main_pid` are a service's. Other units keep the defaults.
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
    need_daemon_reload: bool = False
    can_reload: bool = False
    condition_result: bool = True
    assert_result: bool = True
    triggered_by: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    listen: tuple[tuple[str, str], ...] = ()
    fragment_path: str = ""
    unit_file_state: str = ""
    start_limit_interval_usec: int = 0
    start_limit_burst: int = 0
    inactive_exit_monotonic: int = 0
    active_enter_monotonic: int = 0
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
    timeout_start_usec: int = 0
    timeout_stop_usec: int = 0
    restart_prevent_statuses: tuple[int, ...] = ()
    kill_mode: str = ""
    status_text: str = ""
    private_network: bool = False
    network_namespace_path: str = ""

    @property
    def is_service(self) -> bool:
        """Whether it has processes of its own."""
        return self.name.endswith(".service")

    @property
    def runs(self) -> bool:
        """Whether an invocation is under way, from the start of its start to the end of its stop.

        The pause before an automatic restart reads `activating (auto-restart)`, and nothing runs in it.
        """
        if self.sub_state.startswith("auto-restart"):
            return False
        return self.active_state not in (ActiveState.INACTIVE, ActiveState.FAILED)

    def describe(self) -> str:
        """Say its state as `systemctl status` would: "active (running), PID 315"."""
        if self.load_state in (LoadState.NOT_FOUND, LoadState.MASKED) and not self.runs:
            return "not found" if self.load_state is LoadState.NOT_FOUND else "masked"
        text = f"{self.active_state} ({self.sub_state})"
        if self.main_pid:
            text += f", PID {self.main_pid}"
        return text

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
        }


@dataclass(frozen=True)
class Listener:
    """One socket that takes connections (TCP) or datagrams (UDP), as the kernel lists it.

    `inode` is what /proc/PID/fd shows, `cookie` is never used again while the machine is up. `cgroup_id` is
    the cgroup that created the socket, 0 where the kernel does not say; `uid` its creator.
    """

    protocol: str
    address: str
    number: int
    inode: int
    cookie: int = 0
    uid: int = 0
    cgroup_id: int = 0
    only_v6: bool = False

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.number}"


@dataclass(frozen=True)
class Process:
    """One look at a process, from /proc/PID.

    `cgroup` is its path in systemd's hierarchy. `invocation_id` comes from its environment and is empty where
    that has none or may not be read. `started` is in seconds of CLOCK_BOOTTIME. The namespaces are inode
    numbers, 0 where they may not be seen.
    """

    id: ProcessId
    ppid: int
    uid: int
    user: str
    name: str
    state: str
    cgroup: str
    command: tuple[str, ...] = ()
    exe: str = ""
    invocation_id: str = ""
    started: float = 0.0
    kernel: bool = False
    pid_namespace: int = 0
    user_namespace: int = 0

    @property
    def pid(self) -> int:
        """Its PID, which alone does not say who it is."""
        return self.id.pid

    def __str__(self) -> str:
        return f"PID {self.pid} ({self.name})"


class Role(StrEnum):
    """Whose a process is that holds the port."""

    CURRENT = "current"
    LEFTOVER = "leftover"
    SOCKET_UNIT = "socket-unit"
    OTHER_UNIT = "other-unit"
    ORPHAN = "orphan"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Holder:
    """A process that holds listening sockets of the port, whose it is, and by which facts.

    `unit` names where it lives: a service, a scope, a login's session, a container. `spared` says why it may
    never be ended, and is empty for a process that may.
    """

    process: Process
    role: Role
    unit: str
    why: str
    sockets: tuple[Listener, ...]
    spared: str = ""

    @property
    def may_be_ended(self) -> bool:
        """Whether kill-orphan may signal it."""
        return not self.spared and self.role in (Role.ORPHAN, Role.LEFTOVER)

    def evidence(self) -> dict[str, Any]:
        """Give the facts the judgement rests on."""
        process = self.process
        return {
            "pid": process.pid,
            "role": str(self.role),
            "unit": self.unit,
            "command": " ".join(process.command) or process.name,
            "exe": process.exe,
            "user": process.user,
            "parent": process.ppid,
            "cgroup": process.cgroup,
            "invocation": process.invocation_id,
            "started": process.started,
            "sockets": [str(socket) for socket in self.sockets],
            "why": self.why,
            **({"spared": self.spared} if self.spared else {}),
        }


@dataclass(frozen=True)
class PortOwnership:
    """Who listens on a port, held against the unit that is to own it, at one moment.

    `unseen` are sockets none of whose holders could be seen. `reason` is a sentence for people.
    """

    port: Port
    verdict: Verdict
    reason: str
    listeners: tuple[Listener, ...] = ()
    holders: tuple[Holder, ...] = ()
    unseen: tuple[Listener, ...] = ()

    @property
    def owned(self) -> bool:
        """Whether the unit, and nobody else, has the port."""
        return self.verdict is Verdict.OWNED

    @property
    def strangers(self) -> tuple[Holder, ...]:
        """The holders that are not the unit's current invocation."""
        return tuple(h for h in self.holders if h.role not in (Role.CURRENT, Role.SOCKET_UNIT))

    @property
    def sockets(self) -> frozenset[int]:
        """The identity of the set of sockets: it changes when any of them is closed or opened."""
        return frozenset(listener.inode for listener in self.listeners)

    def evidence(self) -> dict[str, Any]:
        """Give the sockets and their holders."""
        return {
            "port": str(self.port),
            "listeners": [str(listener) for listener in self.listeners],
            "holders": [holder.evidence() for holder in self.holders],
            **({"unseen": [str(listener) for listener in self.unseen]} if self.unseen else {}),
        }


class Sent(StrEnum):
    """What became of a signal."""

    SENT = "sent"
    GONE = "gone"  # the process had ended before
    NOT_THE_SAME = "not-the-same"  # it lives, but is no longer what was judged: nothing was sent
