"""Reads which sockets listen on a port, from the kernel through sock_diag (sock_diag(7)).

One netlink request is sent for each address family, with a small filter program that the kernel runs for each socket
(INET_DIAG_REQ_BYTECODE), so that only the port's own sockets come back. The answer fits into one message. So no socket
is missed between two messages, and the cost does not depend on the number of processes.

If the kernel has no sock_diag, /proc/net has the same data, more slowly and without the cookie and the cgroup.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

from runbook.errors import HostError, LookLimitExceeded
from runbook.host.holders import Listener, PortUse, SocketState, parse_address
from runbook.host.kernel.look_limit import LookLimit
from runbook.model import Port

T = TypeVar("T")

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h. Netlink uses the machine's byte order; only ports and
# addresses are in network byte order.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
INET_DIAG_REQ_BYTECODE = 1
INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE = 2, 3
INET_DIAG_SKV6ONLY, INET_DIAG_CGROUP_ID = 11, 21
TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN = 1, 7, 10  # net/tcp_states.h
TCP_BOUND_INACTIVE = 13  # since Linux 6.8: bound, and neither connected nor listening
TCP_USES = 1 << TCP_BOUND_INACTIVE | sum(1 << state for state in (1, 2, 3, 4, 5, 6, 8, 9, 11))  # all but CLOSE, LISTEN

NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, extensions, states, no sockid
ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
FILTER = struct.Struct("=BBH")  # inet_diag_bc_op: code, jump if true, jump if false
ANSWER = struct.Struct("=BBxx2s2s16s16sIQ4xIIII")  # inet_diag_msg, see _parse_answer

PROTOCOLS = {"tcp": (socket.IPPROTO_TCP, TCP_LISTEN), "udp": (socket.IPPROTO_UDP, TCP_CLOSE)}
"""Of each protocol the number, and the state of a socket that listens: a UDP socket does if it is not connected."""
USES = {"tcp": TCP_USES, "udp": 1 << TCP_ESTABLISHED}  # the states of sockets that have a port and do not listen
FAMILIES = (socket.AF_INET, socket.AF_INET6)
MAX_SOCKETS = 50_000  # of one port that are read. Any user can open many: there are 16 million loopback addresses
LINES_PER_CHECK = 256  # lines of a table in /proc/net, after which the time is checked
DUMP_TRIES = 8  # how often a dump is repeated that the kernel reports as disturbed
NETLINK_TIMEOUT = 1.0  # seconds; the kernel answers within the call, so that this is never reached
ANY_PORT = 0  # stands for all ports: no socket listens on it


class SocketTable:
    """The sockets that listen on a port. It keeps its netlink socket, so that a repeated read takes 0.1 ms.

    Use it in one thread, and in the network namespace in which it was created.
    """

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._sequence = 0
        self._unavailable = False  # the kernel has no sock_diag

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the netlink socket; the next read opens another."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def list_inodes(self, port: Port) -> frozenset[int]:
        """Return the inodes of the sockets that listen on the port: another set means that one was opened or closed.

        Raises HostError.
        """
        if port.address is None and (inodes := self._from_kernel(port, _inode)) is not None:
            return frozenset(inodes)
        return frozenset(listener.inode for listener in self.list_listeners(port))

    def list_listeners(self, port: Port, inodes: Collection[int] | None = None) -> tuple[Listener, ...]:
        """List every socket that listens on the port, in both families, in this network namespace.

        For UDP these are all that are bound to it and not connected. With an address, those that accept what is sent to
        that address, or prevent a bind to it: its own, and the wildcards. With `inodes`, only these. `ANY_PORT` stands
        for all ports. Raises LookLimitExceeded and HostError.
        """
        listeners = self._from_kernel(port, lambda body: _parse_answer(port.protocol, body).socket, inodes=inodes)
        if listeners is None:
            found = _from_proc(Path("/proc/net"), port, LookLimit())
            listeners = [one for one in found if inodes is None or one.inode in inodes]
        return _select(listeners, port)

    def list_uses(self, port: Port) -> tuple[PortUse, ...]:
        """List the sockets that have the port as their own and may prevent a bind: clients, and sockets only bound.

        Empty if the kernel has no sock_diag. Raises LookLimitExceeded and HostError.
        """
        uses = self._from_kernel(port, lambda body: _parse_answer(port.protocol, body), USES[port.protocol]) or []
        sockets, ephemeral = {*_select([use.socket for use in uses], port)}, read_ephemeral_ports()
        return tuple(use for use in uses if use.socket in sockets and not _is_accepted(use, ephemeral))

    def _from_kernel(
        self, port: Port, parse: Callable[[bytes], T], states: int = 0, inodes: Collection[int] | None = None
    ) -> list[T] | None:
        """Return the sockets in these states, a bit for each; without any, those that listen."""
        states = states or 1 << PROTOCOLS[port.protocol][1]
        if self._unavailable:
            return None
        for _ in range(DUMP_TRIES):
            try:
                bodies = (body for family in FAMILIES for body in self._dump(family, port, states))
                wanted = (body for body in bodies if inodes is None or _inode(body) in inodes)
                sockets = [parse(body) for body in itertools.islice(wanted, MAX_SOCKETS + 1)]
            except OSError as error:
                self.close()
                if error.errno not in (errno.ENOBUFS, errno.EBUSY, errno.EAGAIN):
                    # ENOENT: the module tcp_diag or udp_diag is missing and cannot be loaded. Other errors: a sandbox,
                    # or a kernel without sock_diag.
                    self._unavailable = True
                    return None
            else:
                if len(sockets) > MAX_SOCKETS:
                    self.close()  # The rest of the answer goes with the netlink socket.
                    what = "listen on" if states == 1 << PROTOCOLS[port.protocol][1] else "are connected from"
                    raise LookLimitExceeded(f"more than {MAX_SOCKETS} sockets {what} port {port}")
                return sockets
        raise HostError(f"cannot list the sockets of port {port}: they change faster than they can be read")

    def _dump(self, family: int, port: Port, states: int) -> Iterator[bytes]:
        """Request the sockets of one family, and yield the message of each.

        Raises OSError; EAGAIN if the table changed while it was dumped.
        """
        if self._netlink is None:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
            self._netlink.settimeout(NETLINK_TIMEOUT)
        self._sequence += 1
        self._netlink.send(_request(family, port, states, self._sequence))
        while True:
            for (kind, flags, sequence, _), body in _split(NLMSGHDR, self._netlink.recv(1 << 16)):
                if sequence != self._sequence:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    status = struct.unpack_from("=i", body)[0] if body else 0
                    if status:
                        raise OSError(-status, os.strerror(-status))
                    return
                yield body


def list_netns_listeners(pid: int, port: Port, limit: LookLimit) -> tuple[Listener, ...]:
    """List the sockets that listen on the port in the network namespace of a process, from its /proc/PID/net.

    Empty if the process is gone. There is no cookie and no cgroup, and an IPv6 wildcard counts as serving IPv4 as well,
    since /proc does not show that. `ANY_PORT` stands for all ports. Raises LookLimitExceeded and HostError.
    """
    return _select(_from_proc(Path(f"/proc/{pid}/net"), port, limit), port)


def _request(family: int, port: Port, states: int, sequence: int) -> bytes:
    protocol, _ = PROTOCOLS[port.protocol]
    # Port >= N, then port <= N (S_EQ would need Linux 5.9). Each instruction is followed by its port; a jump
    # to the very end accepts the socket, one to four bytes behind the end drops it.
    least, most = (port.number, port.number) if port.number != ANY_PORT else (0, 0xFFFF)
    program = FILTER.pack(INET_DIAG_BC_S_GE, 8, 20) + FILTER.pack(0, 0, least)
    program += FILTER.pack(INET_DIAG_BC_S_LE, 8, 12) + FILTER.pack(0, 0, most)
    body = REQUEST.pack(family, protocol, 0, states)
    body += ATTRIBUTE.pack(ATTRIBUTE.size + len(program), INET_DIAG_REQ_BYTECODE) + program
    length = NLMSGHDR.size + len(body)
    return NLMSGHDR.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body


def _split(header: struct.Struct, data: bytes) -> Iterator[tuple[Sequence[int], bytes]]:
    """Split netlink messages, or the attributes of one: the other fields of the header, and the body, of each."""
    at = 0
    while at + header.size <= len(data):
        length, *others = header.unpack_from(data, at)
        if length < header.size:
            return
        yield others, data[at + header.size : at + length]
        at += (length + 3) & ~3  # Each begins at a multiple of 4.


def _inode(body: bytes) -> int:
    return int(ANSWER.unpack_from(body)[-1])


def _parse_answer(protocol: str, body: bytes) -> PortUse:
    family, state, number, far_number, address, far, interface, cookie, _, _, uid, inode = ANSWER.unpack_from(body)
    attributes = {kind: value for (kind,), value in _split(ATTRIBUTE, body[ANSWER.size :])}
    listener = Listener(
        protocol,
        _format_address(family, address),
        int.from_bytes(number, "big"),
        inode,
        cookie,
        uid,
        int.from_bytes(attributes.get(INET_DIAG_CGROUP_ID, b""), sys.byteorder),
        only_v6=any(attributes.get(INET_DIAG_SKV6ONLY, b"")),
        interface=_interface_name(interface) if interface else "",
    )
    if state in (TCP_BOUND_INACTIVE, TCP_CLOSE):  # The kernel reports the former as the latter.
        return PortUse(listener, SocketState.BOUND)
    peer = Listener(protocol, _format_address(family, far), int.from_bytes(far_number, "big"), 0)
    return PortUse(listener, SocketState.CONNECTED if inode else SocketState.CLOSING, peer.endpoint, peer.number)


def _is_accepted(use: PortUse, ephemeral: range) -> bool:
    """True for a connection that was accepted on the port: it keeps the listener's SO_REUSEADDR, and prevents no bind.

    The kernel does not report which end connected. The end with a port of ip_local_port_range did, if only one has one.
    """
    is_far_end_client = use.peer_port in ephemeral and use.socket.number not in ephemeral
    return is_far_end_client and use.socket.protocol == "tcp" and use.state is SocketState.CONNECTED


def read_ephemeral_ports() -> range:
    """Return the ports from which the kernel chooses that of a client (ip(7), ip_local_port_range)."""
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    except (OSError, ValueError):
        first, last = 32768, 60999  # the kernel's default
    return range(first, last + 1)


def _format_address(family: int, data: bytes) -> str:
    return socket.inet_ntop(family, data[:4] if family == socket.AF_INET else data)


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)  # It is gone.


def _from_proc(net: Path, port: Port, limit: LookLimit) -> list[Listener]:
    """Read the tables of proc_net_tcp(5). A missing table, as without IPv6, has no sockets."""
    _, state = PROTOCOLS[port.protocol]
    listeners = list[Listener]()
    for table in (port.protocol, f"{port.protocol}6"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            for line in _read_lines(net / table, b" %02X " % state, limit):
                if (listener := _row(port, state, line)) is not None:
                    listeners.append(listener)
                if len(listeners) > MAX_SOCKETS:
                    raise LookLimitExceeded(f"more than {MAX_SOCKETS} sockets are listed in {net}")
    return listeners


def _read_lines(table: Path, part: bytes, limit: LookLimit) -> Iterator[str]:
    """Yield the lines that contain a part, one by one: there is a line for each connection, too."""
    with table.open("rb") as file:
        for at, line in enumerate(file):
            if at % LINES_PER_CHECK == 0:
                limit.check()
            if at and part in line:
                yield line.decode("ascii")


def _row(port: Port, state: int, line: str) -> Listener | None:
    _, local, _remote, its_state, _queues, _timer, _retransmits, uid, _timeout, inode, *_ = line.split()
    address, _, number = local.partition(":")
    if int(its_state, 16) != state or port.number not in (ANY_PORT, int(number, 16)):
        return None
    # Each 32-bit word of the address is printed as a number in the machine's byte order.
    words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
    data = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    family = socket.AF_INET if len(data) == 4 else socket.AF_INET6  # noqa: PLR2004 - bytes of an IPv4 address
    return Listener(port.protocol, socket.inet_ntop(family, data), int(number, 16), int(inode), 0, int(uid))


def _select(listeners: list[Listener], port: Port) -> tuple[Listener, ...]:
    """Return the sockets that accept what is sent to the port's address, or prevent a bind to it. Raises HostError."""
    if port.address is None:
        return tuple(listeners)
    try:
        parse_address(port.address)
    except ValueError:
        raise HostError(f"cannot read port {port}: {port.address!r} is not an IP address") from None
    target = Listener(port.protocol, port.address, port.number, 0)
    return tuple(listener for listener in listeners if listener.overlaps(target))
