"""Finds out whether a UDP socket receives multicast: then several processes share its port by design.

sock_diag does not show the groups that a socket has joined. So a descriptor of it is copied from a holder
(pidfd_getfd(2)), its options are read, and the copy is closed at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from runbook.host.holders import Listener

PORTS = {1900: "SSDP", 3702: "WS-Discovery", 5353: "mDNS", 5355: "LLMNR"}  # of protocols that are multicast
DEFAULT_GROUPS = ("224.0.0.1", "ff02::1", "ff01::1")  # the kernel joins these on every interface

_PIDFD_GETFD = 438  # the number of pidfd_getfd(2), which is the same on all architectures
_MCAST_MSFILTER = 48  # linux/in.h
_SOCKADDR_STORAGE = 128  # bytes of a struct sockaddr_storage
_HEAD = struct.Struct("@I4x")  # struct group_filter: the interface, then the group
_TAIL = struct.Struct("@II")  # fmode and the number of sources, before the first source
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def is_multicast(listener: Listener, pids: Iterable[int], *, reusable: bool = False) -> bool:
    """True if a UDP socket is bound to a multicast address or port, or has joined a group.

    `pids` are its holders. With `reusable` it must also allow others to share its port.
    """
    by_address = ip_address(listener.address).is_multicast or listener.number in PORTS
    if by_address and not reusable:
        return True
    for pid in pids:
        with contextlib.suppress(OSError), _copy(pid, listener.inode) as copy:
            options = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            if reusable and not any(copy.getsockopt(socket.SOL_SOCKET, option) for option in options):
                return False
            return by_address or _has_joined(copy, pid)
    return False


def _copy(pid: int, inode: int) -> socket.socket:
    """Return a copy of a socket that a process holds. Raises OSError."""
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - pathlib would stat each
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{name}") == f"socket:[{inode}]":  # noqa: PTH115
                break
    else:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    pidfd = os.pidfd_open(pid)
    try:
        if (fd := _syscall(_PIDFD_GETFD, pidfd, int(name), 0)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(pidfd)
    copy = socket.socket(fileno=fd)
    if os.fstat(fd).st_ino != inode:  # Another descriptor has its number by now.
        copy.close()
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return copy


def _has_joined(copy: socket.socket, pid: int) -> bool:
    """True if a socket is a member of one of the groups of its network namespace."""
    level = socket.IPPROTO_IPV6 if copy.family == socket.AF_INET6 else socket.IPPROTO_IP
    return any(_is_member(copy, level, interface, group) for interface, group in _list_groups(pid, copy.family))


def _is_member(copy: socket.socket, level: int, interface: int, group: str) -> bool:
    """True if a socket has joined a group on an interface: the kernel lets only members read their filter."""
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    data = socket.inet_pton(family, group)
    address = struct.pack("=HHI", family, 0, 0) + data if ":" in group else struct.pack("=HH", family, 0) + data
    request = _HEAD.pack(interface) + address.ljust(_SOCKADDR_STORAGE, b"\0") + _TAIL.pack(0, 0)
    buffer, size = ctypes.create_string_buffer(request), ctypes.c_uint32(len(request))
    return bool(_getsockopt(copy.fileno(), level, _MCAST_MSFILTER, buffer, ctypes.byref(size)) == 0)


_getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt


def _list_groups(pid: int, family: int) -> Iterator[tuple[int, str]]:
    """Yield the interface and the group of each membership in the network namespace of a process."""
    with contextlib.suppress(OSError):
        if family == socket.AF_INET6:
            for line in Path(f"/proc/{pid}/net/igmp6").read_text().splitlines():
                index, _, group, *_ = line.split()
                yield from _unless_default(int(index), socket.inet_ntop(family, bytes.fromhex(group)))
            return
        index = "0"
        for line in Path(f"/proc/{pid}/net/igmp").read_text().splitlines()[1:]:
            if not line.startswith("\t"):
                index = line.split()[0]
                continue
            data = int(line.split()[0], 16).to_bytes(4, sys.byteorder)
            yield from _unless_default(int(index), socket.inet_ntop(family, data))


def _unless_default(interface: int, group: str) -> Iterator[tuple[int, str]]:
    if group not in DEFAULT_GROUPS:
        yield interface, group
