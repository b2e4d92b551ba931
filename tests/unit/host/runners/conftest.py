"""What the tests of the runners share."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.queries import Command
from tests.unit.host.conftest import PATIENCE, Handler

OK = "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"
"""A response as `replying` takes it."""


def script(text: str, **options: object) -> Command:
    return Command(("/bin/sh", "-e", "-c", text), **{"cwd": "/", **options})  # type: ignore[arg-type]


def replying(text: str) -> Handler:
    def reply(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text.replace("\n", "\r\n").encode())

    return reply


class Lifeline:
    """A FIFO that processes hold open for writing, so that their exit can be awaited."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def held(self) -> bool:
        """True if a process holds it now."""
        try:
            return bool(os.read(self.reader, 1))
        except BlockingIOError:
            return True

    def ended(self) -> bool:
        """Wait until no process holds it."""
        poll = select.poll()
        poll.register(self.reader, 0)
        return bool(poll.poll(1000 * PATIENCE))


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    made = Lifeline(tmp_path / "lifeline")
    yield made
    os.close(made.reader)
