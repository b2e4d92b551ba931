"""Queries in another network namespace, where another server has the same port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runbook.host.kernel import processes
from runbook.host.queries import Command, HttpProbe, QueryKind, TcpProbe, WebsocketProbe
from runbook.model import ProcessId
from tests.unit.host.conftest import Ask

pytestmark = pytest.mark.root

SERVER = """
import fcntl, http, socket, struct, sys
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import serve

name, port = sys.argv[1], int(sys.argv[2])
with socket.socket() as up:  # the loopback: SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(up, 0x8914, struct.pack("16sh14x", b"lo", 1))

def page(connection, request):
    if "Upgrade" not in request.headers:
        return Response(200, "OK", Headers({"Content-Length": str(len(name))}), name.encode())
    if name == "outside":
        return Response(404, "No", Headers({"Content-Length": "0"}), b"")

with serve(lambda connection: connection.recv(), "127.0.0.1", port, process_request=page) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
"""


@dataclass(frozen=True)
class Served:
    """A server: its process, and its port."""

    process: ProcessId
    port: int


Start = Callable[..., Served]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server, with `alone` in a network namespace of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, port: int = 0, *, alone: bool = False) -> Served:
        apart = ["unshare", "--net"] if alone else []
        argv = [*apart, sys.executable, "-c", SERVER, name, str(port)]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        out = started[-1].stdout
        assert out is not None
        number = int(out.readline())
        identity = processes.read_id(started[-1].pid)
        assert identity is not None
        return Served(identity, number)

    yield start
    for server in started:
        server.kill()
        server.communicate()


GET = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"


def asked(port: int) -> list[QueryKind[Any]]:
    url = f"127.0.0.1:{port}"
    return [
        TcpProbe("127.0.0.1", port),
        HttpProbe(f"http://{url}/", body="inside"),
        WebsocketProbe(f"ws://{url}/"),
        Command((sys.executable, "-c", f"{GET}\nassert r.urlopen(sys.argv[1]).read() == b'inside'", f"http://{url}/")),
    ]


@pytest.mark.parametrize("kind", range(4), ids=["tcp", "http", "websocket", "run"])
def test_a_server_inside_is_reached(ask: Ask, start: Start, kind: int) -> None:
    """Outside no server listens, and this program stays in its own namespace."""
    inside = start("inside", alone=True)
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    what = asked(inside.port)[kind]
    assert not ask(what).ok
    assert ask(what, inside=inside.process).ok
    assert not ask(what).ok
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before


@pytest.mark.parametrize("kind", range(4), ids=["tcp", "http", "websocket", "run"])
def test_a_server_outside_is_not_reached(ask: Ask, start: Start, kind: int) -> None:
    outside = start("outside")
    inside = start("inside", 1, alone=True)
    answer = ask(asked(outside.port)[kind], inside=inside.process)
    assert not answer.ok
    assert "404" not in answer.detail


def test_both_have_the_port(ask: Ask, start: Start) -> None:
    outside = start("outside")
    inside = start("inside", outside.port, alone=True)
    page = HttpProbe(f"http://127.0.0.1:{outside.port}/")
    assert (ask(page).value, ask(page, inside=inside.process).value) == ("outside", "inside")
    name = HttpProbe(f"http://localhost:{outside.port}/")
    assert ask(name, inside=inside.process).value == "inside"


def test_a_process_that_has_exited(ask: Ask, start: Start) -> None:
    inside = start("inside", alone=True)
    probe = TcpProbe("127.0.0.1", inside.port)
    other = replace(inside.process, start=inside.process.start + 1)
    answer = ask(probe, inside=other)
    pid = inside.process.pid
    assert (answer.ok, answer.detail) == (
        False,
        f"cannot enter the network namespace of PID {pid}: no such process",
    )


def test_a_user_who_may_not_enter_it(start: Start) -> None:
    """A user without permission can still find that the process is in another namespace."""
    inside = start("inside", alone=True)
    look = f"""
import os
os.setgid(65534); os.setuid(65534)
from runbook.errors import HostError
from runbook.host.kernel import processes
from runbook.host.runners import netns
assert processes.is_in_other_netns({inside.process.pid})
assert not processes.is_in_other_netns(os.getppid())
try:
    netns.enter_netns(processes.read_id({inside.process.pid}))
except HostError as error:
    print(error)
"""
    source = Path(processes.__file__).parents[3]
    output = subprocess.run([sys.executable, "-c", look], cwd=source, capture_output=True, text=True, check=True).stdout
    where = f"the network namespace of PID {inside.process.pid}"
    assert output == f"cannot enter {where}: permission denied; only root may\n"


def test_nothing_of_the_namespace_is_kept(ask: Ask, start: Start) -> None:
    inside = start("inside", alone=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        ask(TcpProbe("127.0.0.1", inside.port), inside=inside.process)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
