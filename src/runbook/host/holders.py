"""Who holds a port, as plain data: the sockets that listen, the processes that hold them, and whose those are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.model import Port, ProcessId, Verdict


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
    that has none or may not be read; of `environment` there are the names alone. `started` is in seconds of
    CLOCK_BOOTTIME. One that is `dead` waits for its parent to hear of it, and holds nothing. The namespaces are
    inode numbers, 0 where they may not be seen.
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
    environment: tuple[str, ...] = ()
    started: float = 0.0
    kernel: bool = False
    dead: bool = False
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
    never be ended, and is empty for a process that may; `ended_by` is systemctl's verb that ends it, empty if none may;
    `stop` is the command by which a container's engine does.
    """

    process: Process
    role: Role
    unit: str
    why: str
    sockets: tuple[Listener, ...]
    protection: str = ""
    stop_verb: str = "stop"
    stop_command: str = ""

    @property
    def in_manager_cgroup(self) -> bool:
        """Whether it is a manager or sits in the cgroup of one: what would stop that stops all of a user's services."""
        return parse_cgroup_path(self.process.cgroup).kind is CgroupKind.MANAGER

    def is_user_unit(self, unit_is: bool) -> bool:
        """Whether `unit` is a user manager's. Where it was moved out of that, it is known to ours, as `unit_is`."""
        place = parse_cgroup_path(self.process.cgroup)
        if place.kind is CgroupKind.MANAGER:
            return unit_is and self.unit.endswith(".socket")  # user@1000.service itself is the system's.
        return place.user_uid is not None if place.unit == self.unit else unit_is

    @property
    def may_be_killed(self) -> bool:
        """Whether kill-orphan may signal it."""
        return not self.protection and self.role in (Role.ORPHAN, Role.LEFTOVER)

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
            **({"spared": self.protection} if self.protection else {}),
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
    def is_owned(self) -> bool:
        """Whether the unit, and nobody else, has the port."""
        return self.verdict is Verdict.OWNED

    @property
    def foreign_holders(self) -> tuple[Holder, ...]:
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


class SignalResult(StrEnum):
    """What became of a signal."""

    SENT = "sent"
    GONE = "gone"  # the process had ended before
    CHANGED = "not-the-same"  # it lives, but is no longer what was judged: nothing was sent
