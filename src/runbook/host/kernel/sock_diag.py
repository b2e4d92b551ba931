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
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Self, TypeVar

from runbook.errors import HostError, LookLimitExceeded
from runbook.host.holders import Listener
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
TCP_CLOSE, TCP_LISTEN = 7, 10  # net/tcp_states.h; a UDP socket that is not connected is in TCP_CLOSE

NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, extensions, states, no sockid
ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
FILTER = struct.Struct("=BBH")  # inet_diag_bc_op: code, jump if true, jump if false
ANSWER = struct.Struct("=BBxx2s2x16s16x4xQ4xIIII")  # inet_diag_msg, see _listener

PROTOCOLS = {"tcp": (socket.IPPROTO_TCP, TCP_LISTEN), "udp": (socket.IPPROTO_UDP, TCP_CLOSE)}
FAMILIES = (socket.AF_INET, socket.AF_INET6)
MAX_SOCKETS = 50_000  # of one port that are read. Any user can open many: there are 16 million loopback addresses
LINES_PER_CHECK = 256  # lines of a table in /proc/net, after which the time is checked
DUMP_TRIES = 8  # how often a dump is repeated that the kernel reports as disturbed
NETLINK_TIMEOUT = 1.0  # seconds; the kernel answers within the call, so that this is never reached
ANY_PORT = 0  # stands for all ports in a read of the tables of /proc: no socket listens on it


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
        if port.address is None and (found := self._from_kernel(port, _inode)) is not None:
            return frozenset(found)
        return frozenset(listener.inode for listener in self.list_listeners(port))

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        """List every socket that listens on the port, in both families, in this network namespace.

        For UDP these are all that are bound to it and not connected. With an address, those that accept what is sent to
        that address, or prevent a bind to it: its own, and the wildcards. Raises LookLimitExceeded and HostError.
        """
        found = self._from_kernel(port, lambda body: _listener(port.protocol, body))
        return _select(_from_proc(Path("/proc/net"), port, LookLimit()) if found is None else found, port)

    def _from_kernel(self, port: Port, parse: Callable[[bytes], T]) -> list[T] | None:
        if self._unavailable:
            return None
        for _ in range(DUMP_TRIES):
            try:
                bodies = (body for family in FAMILIES for body in self._dump(family, port))
                found = [parse(body) for body in itertools.islice(bodies, MAX_SOCKETS + 1)]
            except OSError as error:
                self.close()
                if error.errno not in (errno.ENOBUFS, errno.EBUSY, errno.EAGAIN):
                    # ENOENT: the module tcp_diag or udp_diag is missing and cannot be loaded. Other errors: a sandbox,
                    # or a kernel without sock_diag.
                    self._unavailable = True
                    return None
            else:
                if len(found) > MAX_SOCKETS:
                    self.close()  # The rest of the answer goes with the netlink socket.
                    raise LookLimitExceeded(f"more than {MAX_SOCKETS} sockets listen on port {port}")
                return found
        raise HostError(f"cannot list the sockets of port {port}: they change faster than they can be read")

    def _dump(self, family: int, port: Port) -> Iterator[bytes]:
        """Request the sockets of one family, and yield the message of each.

        Raises OSError; EAGAIN if the table changed while it was dumped.
        """
        if self._netlink is None:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
            self._netlink.settimeout(NETLINK_TIMEOUT)
        self._sequence += 1
        self._netlink.send(_request(family, port, self._sequence))
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
    since /proc does not show that. Raises LookLimitExceeded and HostError.
    """
    return _select(_from_proc(Path(f"/proc/{pid}/net"), port, limit), port)


def list_all_listeners(pid: int, limit: LookLimit, protocol: str = "tcp") -> tuple[Listener, ...]:
    """List all listening sockets in the network namespace of a process, on any port. Raises LookLimitExceeded."""
    return tuple(_from_proc(Path(f"/proc/{pid}/net"), Port(ANY_PORT, protocol), limit))


def _request(family: int, port: Port, sequence: int) -> bytes:
    protocol, state = PROTOCOLS[port.protocol]
    # Port >= N, then port <= N (S_EQ would need Linux 5.9). Each instruction is followed by its port; a jump
    # to the very end accepts the socket, one to four bytes behind the end drops it.
    number = FILTER.pack(0, 0, port.number)
    program = FILTER.pack(INET_DIAG_BC_S_GE, 8, 20) + number + FILTER.pack(INET_DIAG_BC_S_LE, 8, 12) + number
    body = REQUEST.pack(family, protocol, 0, 1 << state)
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


def _listener(protocol: str, body: bytes) -> Listener:
    family, _state, number, address, cookie, _recv_queue, _send_queue, uid, inode = ANSWER.unpack_from(body)
    attributes = {kind: value for (kind,), value in _split(ATTRIBUTE, body[ANSWER.size :])}
    return Listener(
        protocol,
        socket.inet_ntop(family, address[:4] if family == socket.AF_INET else address),
        int.from_bytes(number, "big"),
        inode,
        cookie,
        uid,
        int.from_bytes(attributes.get(INET_DIAG_CGROUP_ID, b""), sys.byteorder),
        only_v6=any(attributes.get(INET_DIAG_SKV6ONLY, b"")),
    )


def _from_proc(net: Path, port: Port, limit: LookLimit) -> list[Listener]:
    """Read the tables of proc_net_tcp(5). A missing table, as without IPv6, has no sockets."""
    _, state = PROTOCOLS[port.protocol]
    found = list[Listener]()
    for table in (port.protocol, f"{port.protocol}6"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            for line in _read_lines(net / table, b" %02X " % state, limit):
                if (listener := _row(port, state, line)) is not None:
                    found.append(listener)
                if len(found) > MAX_SOCKETS:
                    raise LookLimitExceeded(f"more than {MAX_SOCKETS} sockets are listed in {net}")
    return found


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
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004 - bytes of an IPv4 address
    return Listener(port.protocol, socket.inet_ntop(family, packed), int(number, 16), int(inode), 0, int(uid))


def _address(port: Port) -> IPv4Address | IPv6Address | None:
    if port.address is None:
        return None
    try:
        return _unmapped(ip_address(port.address))
    except ValueError:
        raise HostError(f"cannot read port {port}: {port.address!r} is not an IP address") from None


def _select(found: list[Listener], port: Port) -> tuple[Listener, ...]:
    wanted = _address(port)
    return tuple(listener for listener in found if wanted is None or _accepts(listener, wanted))


def _accepts(listener: Listener, wanted: IPv4Address | IPv6Address) -> bool:
    """True if the socket accepts what is sent to that address, or prevents a bind to it."""
    dual = IPv6Address("::")
    own = ip_address(listener.address)
    if own == dual:
        return wanted.version == 6 or not listener.only_v6  # noqa: PLR2004
    own = _unmapped(own)
    same_family = own.version == wanted.version
    return wanted == dual or (same_family and (own == wanted or own.is_unspecified or wanted.is_unspecified))


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Convert an IPv4-mapped address (`::ffff:127.0.0.1`) to the IPv4 address that it serves."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
