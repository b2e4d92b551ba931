"""Clients of a service: processes that connect to its port, and do not listen."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from tests.machine.machine import Machine

_CONNECT = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
time.sleep(1e6)
"""


@contextlib.contextmanager
def connected(machine: Machine, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run a client that is connected to the port, and keeps running when the connection breaks."""
    with machine.popen(["python3", "-c", _CONNECT, str(port)]) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        try:
            yield client
        finally:
            client.kill()
