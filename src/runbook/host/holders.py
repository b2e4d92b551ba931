"""Who holds a port, as plain data: listening sockets, the processes that hold them, and their roles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.model import Port, ProcessId, Verdict, frozen

MAX_EVIDENCE = 1000  # holders, and sockets, that the evidence lists; the others are counted
MAX_COMMAND_LISTED = 4096  # characters of a command line in the evidence
NO_UNIT = "no unit"  # where a process is that belongs to no service, session, scope or slice
NEEDS_ROOT = "run it as root, which can read every process"  # the end of a reason for `owner-unknown`
DELETED = " (deleted)"  # the suffix of /proc/PID/exe for a program that an upgrade has removed or replaced


class Listener(NamedTuple):
    """One socket that accepts connections (TCP) or datagrams (UDP), as the kernel lists it."""

    protocol: str
    address: str
    number: int
    inode: int  # the number that /proc/PID/fd shows
    cookie: int = 0  # never used again until the machine is rebooted; 0 if the kernel has no sock_diag
    uid: int = 0  # the user who created the socket
    cgroup_id: int = 0  # the cgroup in which the socket was created; 0 if the kernel does not report it
    only_v6: bool = False
    interface: str = ""  # the only interface that it serves: SO_BINDTODEVICE, or the scope of a link-local address

    @property
    def endpoint(self) -> str:
        """Its address and port as a socket unit has them: "127.0.0.1:8080"."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.number}"

    def __str__(self) -> str:
        zone = f"%{self.interface}" if self.interface else ""
        host = f"[{self.address}{zone}]" if ":" in self.address else f"{self.address}{zone}"
        return f"{'' if self.protocol == 'tcp' else f'{self.protocol}:'}{host}:{self.number}"

    def overlaps(self, other: Listener) -> bool:
        """True if both are on one address of one interface: one of them receives what is sent to the other.

        A wildcard is on every address. That of IPv6 is on those of IPv4 too, without IPV6_V6ONLY.
        """
        mine, theirs = parse_address(self.address), parse_address(other.address)
        if self.interface and other.interface and self.interface != other.interface:
            return False
        if mine.version == theirs.version:
            return mine == theirs or mine.is_unspecified or theirs.is_unspecified
        six = self if mine.version == 6 else other  # noqa: PLR2004
        return parse_address(six.address).is_unspecified and not six.only_v6


@lru_cache(maxsize=1024)
def parse_address(text: str) -> IPv4Address | IPv6Address:
    """Return an address; of an IPv4-mapped one (`::ffff:127.0.0.1`) the IPv4 address that it serves. ValueError."""
    address = ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def address_of(endpoint: str, number: int) -> str:
    """Return the address of "127.0.0.1:80" or "udp:[fe80::1%eth0]:80"; empty if it is none with this port number."""
    host, _, port = endpoint.removeprefix("udp:").rpartition(":")
    address = host.strip("[]").partition("%")[0]
    try:
        parse_address(address)
    except ValueError:
        return ""
    return address if port.partition("%")[0] == str(number) else ""


class PortScan(NamedTuple):
    """The sockets that listen on any port, and which processes hold them."""

    listeners: tuple[Listener, ...] = ()
    holders: Mapping[int, Collection[int]] = {}  # by PID the inodes of the sockets
    hidden: int = 0  # how many processes could not be read


class SocketState(StrEnum):
    """The state of a socket that has a port, and does not listen on it."""

    CONNECTED = "connected"
    BOUND = "bound"  # bind(2) without listen(2)
    CLOSING = "closing"  # no process has it any more: TIME_WAIT and the states before it


class PortUse(NamedTuple):
    """A socket that does not listen, and may keep another from being bound to its port."""

    socket: Listener  # its own address
    state: SocketState
    peer: str = ""  # the other end of a connection: "10.0.0.7:443"
    peer_port: int = 0  # its port


@frozen
class Process:
    """One read of a process, from /proc/PID."""

    id: ProcessId
    ppid: int
    uid: int  # its effective user; -1 if that cannot be read
    user: str
    name: str
    state: str  # the state letter of proc(5)
    cgroup: str  # its path in systemd's hierarchy
    command: tuple[str, ...] = ()
    exe: str = ""
    invocation_id: str = ""  # from its environment; empty if that has none, or cannot be read
    environment: tuple[str, ...] = ()  # the names of the variables, without their values
    started: float = 0.0  # seconds of CLOCK_BOOTTIME
    kernel: bool = False  # True if it is a thread of the kernel
    dead: bool = False  # True if it is a zombie: it waits for its parent to reap it, and holds nothing
    stalled: bool = False  # True if the kernel did not return its command line and its environment in time
    pid_namespace: int = 0  # the inode number of the namespace; 0 if it cannot be read
    user_namespace: int = 0  # the same
    has_terminal: bool = False  # True if it has a controlling terminal
    session: int = 0  # the PID of the process that began its session (setsid(2)); not reused while the session lasts

    @property
    def pid(self) -> int:
        """Its PID, which another process may have later."""
        return self.id.pid

    @property
    def exe_path(self) -> str:
        """The path of its program, also if the file was removed or replaced since."""
        return self.exe.removesuffix(DELETED)

    @property
    def program(self) -> str:
        """The file name of its program."""
        return self.exe_path.rpartition("/")[2]

    def is_same_program(self, other: Process) -> bool:
        """True if this very process still is the same program of the same user."""
        return (self.id, self.uid, self.exe_path) == (other.id, other.uid, other.exe_path)

    def __str__(self) -> str:
        return f"PID {self.pid} ({self.name})"


class Role(StrEnum):
    """The role of a process that holds the port, towards the unit that should own it."""

    CURRENT = "current"
    LEFTOVER = "leftover"
    SOCKET_UNIT = "socket-unit"
    OTHER_UNIT = "other-unit"
    ORPHAN = "orphan"
    UNKNOWN = "unknown"


@frozen
class Holder:
    """A process that holds listening sockets of the port, and its role."""

    process: Process
    role: Role
    unit: str  # the service, scope, session or container that it is in
    why: str  # the fact that decided its role
    sockets: tuple[Listener, ...]
    protection: str = ""  # why it must never be killed; empty if it may be
    stop_verb: str = "stop"  # the verb of systemctl that stops `unit`; empty if none should
    stop_command: str = ""  # the command by which a container's engine stops the container
    outlives_stop: bool = False  # True if it may run on after `unit` was stopped
    is_unread: bool = False  # True if the kernel did not return in time what may show that it is another unit's

    @property
    def in_its_service(self) -> bool:
        """True if `unit` is a service, and the process's cgroup is that of it."""
        return self.unit.endswith(".service") and parse_cgroup_path(self.process.cgroup).unit == self.unit

    @property
    def in_manager_cgroup(self) -> bool:
        """True if it is a manager or in the cgroup of one: to stop that cgroup would stop all of a user's services."""
        return parse_cgroup_path(self.process.cgroup).kind is CgroupKind.MANAGER

    def is_user_unit(self, unit_is: bool) -> bool:
        """Return whether `unit` is a user manager's. If the process has left it, it is our manager's: `unit_is`."""
        place = parse_cgroup_path(self.process.cgroup)
        if place.kind is CgroupKind.MANAGER:
            return unit_is and self.unit.endswith(".socket")  # user@1000.service itself is the system's.
        return place.user_uid is not None if place.unit == self.unit else unit_is

    @property
    def is_foreign(self) -> bool:
        """True if it is not of the unit's current invocation, nor systemd that holds a socket for it."""
        return self.role not in (Role.CURRENT, Role.SOCKET_UNIT)

    @property
    def may_be_killed(self) -> bool:
        """True if kill-orphan may signal it."""
        return not self.protection and self.role in (Role.ORPHAN, Role.LEFTOVER)

    def evidence(self) -> dict[str, Any]:
        """Return the facts that the judgement is based on."""
        process = self.process
        command = " ".join(process.command) or process.name
        return {
            "pid": process.pid,
            "role": str(self.role),
            "unit": self.unit,
            "command": command if len(command) <= MAX_COMMAND_LISTED else f"{command[:MAX_COMMAND_LISTED]}...",
            "exe": process.exe,
            "user": process.user,
            "parent": process.ppid,
            "cgroup": process.cgroup,
            "invocation": process.invocation_id,
            "started": process.started,
            "sockets": [str(socket) for socket in self.sockets[:MAX_EVIDENCE]],
            "why": self.why,
            **({"spared": self.protection} if self.protection else {}),
        }


@frozen
class PortOwnership:
    """Which processes listen on a port, compared with the unit that should own it, at one moment."""

    port: Port
    verdict: Verdict
    reason: str  # A sentence for an operator
    listeners: tuple[Listener, ...] = ()
    holders: tuple[Holder, ...] = ()
    unseen: tuple[Listener, ...] = ()  # sockets for which no holder was found
    apart: tuple[Listener, ...] = ()  # sockets of the same number that are not in the unit's way
    bystanders: tuple[Holder, ...] = ()  # their holders: never killed, and not held against the unit
    is_kernels: bool = False  # True if the kernel itself holds the sockets, as for NFS
    is_incomplete: bool = False  # True if the machine could not be read in time

    @property
    def is_owned(self) -> bool:
        """True if the unit has the port, and no other process has."""
        return self.verdict is Verdict.OWNED

    @property
    def foreign_holders(self) -> tuple[Holder, ...]:
        """The holders that are not of the unit's current invocation."""
        return tuple(holder for holder in self.holders if holder.is_foreign)

    @property
    def unread(self) -> tuple[str, ...]:
        """What could not be read in time, in words: another reading may find another owner."""
        unread = (f"{one.process}: {one.protection}" for one in self.foreign_holders if one.is_unread)
        return (*unread, self.reason) if self.is_incomplete else tuple(unread)

    @property
    def sockets(self) -> frozenset[int]:
        """The inodes of the sockets: the set changes when any of them is closed or opened."""
        return frozenset(listener.inode for listener in self.listeners)

    def evidence(self) -> dict[str, Any]:
        """Return the sockets and their holders. If there are many, foreign holders come first."""
        foreign = self.foreign_holders
        holders = self.holders if len(self.holders) <= MAX_EVIDENCE else (*foreign, *self.holders)[:MAX_EVIDENCE]
        counts = {"listeners": len(self.listeners), "holders": len(self.holders), "bystanders": len(self.bystanders)}
        omitted = {name: count - MAX_EVIDENCE for name, count in counts.items() if count > MAX_EVIDENCE}
        return {
            "port": str(self.port),
            "listeners": [str(listener) for listener in self.listeners[:MAX_EVIDENCE]],
            "holders": [holder.evidence() for holder in holders],
            **({"unseen": [str(listener) for listener in self.unseen[:MAX_EVIDENCE]]} if self.unseen else {}),
            **({"bystanders": [one.evidence() for one in self.bystanders[:MAX_EVIDENCE]]} if self.bystanders else {}),
            **({"omitted": omitted} if omitted else {}),
        }


class SignalResult(StrEnum):
    """What became of a signal."""

    SENT = "sent"
    GONE = "gone"  # the process had exited before
    CHANGED = "not-the-same"  # it runs, but is no longer what was judged: nothing was sent
    UNREAD = "unread"  # it could not be read in time, and so not be judged: nothing was sent
