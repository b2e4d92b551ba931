"""What the tests of the host's rooms share."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from runbook.host import ending
from runbook.host.loop import Loop
from runbook.host.questions import Questions
from runbook.host.tasks import Answer, Askable, Question
from runbook.model import Deadline, ProcessId, Wake

from .family import Family

PATIENCE = 10.0

Ask = Callable[..., Answer]
Handler = Callable[[socket.socket], None]


@pytest.fixture
def family() -> Iterator[Family]:
    """Real processes that hold a listening socket."""
    with Family() as new:
        yield new


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(look=lambda _port: frozenset(), pidfd=ending.pidfd)
    yield made
    made.close()


@pytest.fixture
def questions(loop: Loop) -> Iterator[Questions]:
    made = Questions(loop, lambda: {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    yield made
    made.close()


@pytest.fixture
def ask(loop: Loop, questions: Questions) -> Ask:
    """Asks, and waits for the answer as the engine does."""
    asked = iter(range(1000))

    def ask(what: Askable, timeout: float = PATIENCE, inside: ProcessId | None = None) -> Answer:
        question = Question(what, next(asked), timeout, inside)
        deadline = Deadline.after(loop.clock, PATIENCE)
        while (answer := questions.ask(question)) is None:
            assert not deadline.passed
            loop.wait(Wake(pending=True, within=PATIENCE), deadline)
        return answer

    return ask


@pytest.fixture
def server() -> Iterator[Callable[[Handler], str]]:
    """Starts a server that handles each connection as it is told; gives its URL."""
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
