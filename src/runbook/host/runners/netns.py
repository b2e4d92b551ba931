"""Where a question goes: into the network namespace of a process, and to which port of this machine.

What is asked in a network namespace is answered by whoever listens there.

A namespace is entered by a thread for itself (setns(2)). A thread of this program's that has entered one asks its
question and ends; the commands that it starts are in that namespace from their beginning.
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
    """Take this thread into the network namespace of this very process, for good. Raises HostError."""
    try:
        namespace = processes.open_netns(process)
        try:
            _setns(namespace)
        finally:
            os.close(namespace)
    except OSError as error:
        hint = "; only root may" if isinstance(error, PermissionError) and os.geteuid() else ""
        what = f"the network namespace of PID {process.pid}"
        raise HostError(f"cannot enter {what}: {describe_error(error)}{hint}") from None


def find_reached_port(connection: socket.socket) -> Port | None:
    """Give the port of this machine that a connection leads to; None where that is another machine's.

    To an address of its own the kernel also goes from that very address.
    """
    with contextlib.suppress(OSError, ValueError):
        peer, number = connection.getpeername()[:2]
        address = ipaddress.ip_address(peer.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or connection.getsockname()[0] == peer:
            return Port(number, address=str(address))
    return None


def _setns(namespace: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
