"""What the tests of the host's folders share."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from runbook.host.journal import reader
from runbook.host.kernel import signals
from runbook.host.loop import Loop
from runbook.host.queries import Answer, Query, QueryKind
from runbook.host.runners.query_runner import QueryRunner
from runbook.model import Deadline, ProcessId, Wake
from tests.unit.host.kernel.family import Family

PATIENCE = 10.0

PROMPT = 5.0
"""Seconds within which even a busy machine does it. Any other limit that would end it is far longer."""

T = TypeVar("T")
Handler = Callable[[socket.socket], None]


JOURNALCTL = """
import pathlib, sys
here = pathlib.Path(__file__).parent
(here / "call").write_text(" ".join(sys.argv[1:]))
with (here / "calls").open("a") as calls:
    calls.write(sys.argv[1] + "\\n")
sys.stdout.write((here / "entries").read_text())
sys.exit(int((here / "status").read_text()))
"""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a journalctl that prints its `entries`, exits with its `status`, and writes its last `call` and
    the first word of all `calls`."""
    program = tmp_path / "journalctl"
    # Not the virtual environment's: a `#!` line ends at a space, which the path of a checkout may have.
    program.write_text(f"#!{Path(sys.executable).resolve()}\n{JOURNALCTL}")
    program.chmod(0o755)
    (tmp_path / "entries").touch()
    (tmp_path / "status").write_text("0")
    monkeypatch.setattr(reader, "PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def family() -> Iterator[Family]:
    """Real processes that hold a listening socket."""
    with Family() as new:
        yield new


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(look=lambda _port: frozenset(), pidfd=signals.open_pidfd)
    yield made
    made.close()


@pytest.fixture
def queries(loop: Loop) -> Iterator[QueryRunner]:
    made = QueryRunner(loop, lambda: {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    yield made
    made.close()


class Ask:
    """Makes queries, and waits for the answer as the engine does."""

    def __init__(self, loop: Loop, runner: QueryRunner) -> None:
        self._loop = loop
        self._runner = runner
        self._ids = itertools.count()
        self.seconds = 0.0
        """How long the last query took."""

    def __call__(self, kind: QueryKind[T], timeout: float = PATIENCE, inside: ProcessId | None = None) -> Answer[T]:
        query = Query(kind, next(self._ids), timeout, inside)
        began = time.monotonic()
        deadline = Deadline.after(self._loop.clock, PATIENCE)
        while (answer := self._runner.query(query)) is None:
            assert not deadline.expired
            self._loop.wait(Wake(pending=True, within=PATIENCE), deadline)
        self.seconds = time.monotonic() - began
        return answer


@pytest.fixture
def ask(loop: Loop, queries: QueryRunner) -> Ask:
    return Ask(loop, queries)


@pytest.fixture
def server() -> Iterator[Callable[[Handler], str]]:
    """Start a server that passes each connection to a handler; return its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(handler: Handler) -> str:
        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    handler(connection)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join(PATIENCE)
