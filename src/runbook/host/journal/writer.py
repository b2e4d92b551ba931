"""Writes entries into the journal by journald's native protocol. It never waits for journald, and never fails.

An entry is one datagram. Each field is a line `NAME=value`; if the value has line breaks, it is the name, the value's
length in 64 bits, and the value. An entry that is too long for a datagram goes into a sealed memfd, and the memfd's
descriptor is sent instead (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable

JOURNALD_SOCKET = "/run/systemd/journal/socket"  # where journald listens

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

Field = tuple[str, str]  # A field's name, of capitals, digits and `_`, and its value. A name may occur more than once


def send(fields: Iterable[Field], *, to: str = JOURNALD_SOCKET) -> None:
    """Send an entry. If journald does not take it at once, it is dropped: a run must not wait for the journal."""
    data = b"".join(_encode(name, value) for name, value in fields)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)  # The socket is full if journald hangs.
        try:
            out.sendto(data, to)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise  # The length is not the cause.
            _send_as_file(out, data, to)


def _encode(name: str, value: str) -> bytes:
    text = value.encode(errors="backslashreplace")
    if b"\n" in text:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(text)), text)
    return b"%s=%s\n" % (name.encode(), text)


def _send_as_file(out: socket.socket, data: bytes, to: str) -> None:
    with os.fdopen(os.memfd_create("runbook", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
        file.write(data)
        file.flush()
        # journald maps the file, so it accepts only one that can no longer change.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        out.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))], 0, to)
