"""Output that is written in a thread: complete, in order, and no harm if it cannot be written."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from runbook.util.background_writer import BackgroundStream, BackgroundWriter

BIG = 1 << 20  # bytes: more than a pipe takes


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


@pytest.mark.parametrize("blocking", [True, False])
def test_everything_is_written_in_order(blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    background = BackgroundWriter[bytes](writer, b"".join)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()
    sent = [bytes([number]) * 999 for number in range(200)]
    for item in sent:
        background.put(item)
    background.close()
    os.close(writer)
    thread.join()
    assert found == [b"".join(sent)]


def test_a_reader_that_does_not_read_holds_up_nothing() -> None:
    reader, writer = os.pipe()
    background = BackgroundWriter[bytes](writer, b"".join)
    for _ in range(5):
        background.put(b"x" * BIG)
    began = time.monotonic()
    background.close(0.1)
    assert time.monotonic() - began < 5
    os.close(reader)  # The write fails, and the thread ends.
    background.close()
    with pytest.raises(BrokenPipeError):
        background.put(b"y")
    os.close(writer)


def test_with_an_interval_the_text_is_made_anew_while_nothing_happens() -> None:
    reader, writer = os.pipe()
    made: list[list[str]] = []
    third = threading.Event()

    def make(items: list[str]) -> bytes:
        made.append(items)
        if len(made) == 3:
            third.set()
        return b""

    background = BackgroundWriter[str](writer, make, 0.01)
    assert third.wait(20)
    background.put("last")
    background.close()
    assert ["last"] in made
    for fd in (reader, writer):
        os.close(fd)


def test_a_stream_is_written_with_each_flush() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii") as out:
        stream = BackgroundStream(out)
        print("caf\u00e9", file=stream, flush=True)
        stream.finish()
        assert (os.read(reader, 100), stream.isatty(), stream.fileno()) == (b"caf\\xe9\n", False, writer)
    os.close(reader)


def test_a_stream_without_a_descriptor_cannot_be_written_to_in_a_thread() -> None:
    with pytest.raises(OSError, match="fileno"):
        BackgroundStream(io.StringIO())
