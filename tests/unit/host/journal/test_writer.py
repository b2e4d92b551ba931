"""What is sent to journald, and that the run continues even if journald does not accept it."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.journal.writer import send


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.setblocking(False)
        yield listener


def test_a_value_with_lines_is_sent_with_its_length(journald: socket.socket) -> None:
    send([("MESSAGE", "one\ntwo"), ("PRIORITY", "6"), ("PRIORITY", "5")], to=journald.getsockname())
    assert journald.recv(4096) == b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nPRIORITY=6\nPRIORITY=5\n"


def test_what_is_no_text_does_not_fail(journald: socket.socket) -> None:
    send([("MESSAGE", "caf\udce9")], to=journald.getsockname())
    assert journald.recv(4096) == b"MESSAGE=caf\\udce9\n"


def test_a_long_entry_comes_as_a_sealed_file(journald: socket.socket) -> None:
    send([("MESSAGE", "x" * 10_000_000)], to=journald.getsockname())
    data, [(_, _, descriptors)], *_ = journald.recvmsg(16, socket.CMSG_SPACE(4))
    [fd] = array.array("i", descriptors)
    try:
        assert data == b""
        assert os.pread(fd, 20, 0) == b"MESSAGE=xxxxxxxxxxxx"
        assert os.fstat(fd).st_size == len("MESSAGE=\n") + 10_000_000
        with pytest.raises(PermissionError):
            os.write(fd, b"y")
    finally:
        os.close(fd)


def test_no_journald(tmp_path: Path) -> None:
    send([("MESSAGE", "hello")], to=str(tmp_path / "none"))


def test_a_journald_that_hangs_does_not_block(journald: socket.socket) -> None:
    for _ in range(5000):
        send([("MESSAGE", "hello")], to=journald.getsockname())
