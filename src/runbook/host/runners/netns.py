"""Where a query goes: into the network namespace of a process, and to which port of this machine.

A connection in a network namespace reaches the listeners of that namespace.

setns(2) moves one thread. The thread that has entered a namespace runs its one query there and ends; the commands that
it starts begin in that namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket

from runbook.errors import HostError
from runbook.host.kernel import processes
from runbook.model import Port, ProcessId
from runbook.util.wording import describe_error

_CLONE_NEWNET = 0x4000_0000


def enter_netns(process: ProcessId) -> None:
    """Move this thread into the network namespace of a process, until the thread ends. Raises HostError."""
    try:
        namespace = processes.open_netns(process)
        try:
            # os.setns came with Python 3.12.
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(namespace)
    except OSError as error:
        hint = "; only root may" if isinstance(error, PermissionError) and os.geteuid() else ""
        what = f"the network namespace of PID {process.pid}"
        raise HostError(f"cannot enter {what}: {describe_error(error)}{hint}") from None


def find_reached_port(connection: socket.socket) -> Port | None:
    """Return the port of this machine that a connection leads to; None if it leads to another machine.

    If the kernel connects to one of its own addresses, it also uses that address as the source.
    """
    with contextlib.suppress(OSError, ValueError):
        peer, number = connection.getpeername()[:2]
        address = ipaddress.ip_address(peer.partition("%")[0])  # fe80::1%eth0
        # An IPv6 socket shows an IPv4 peer as ::ffff:127.0.0.1.
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or connection.getsockname()[0] == peer:
            return Port(number, address=str(address))
    return None
