"""Writes in a thread, so that a terminal or a reader that takes nothing holds up nothing but the output.

A write to a terminal that is stopped (Ctrl-S) blocks, as does one to a full pipe. The run must continue meanwhile, and
must end within a second of SIGTERM.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Generic, TextIO, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Takes items, and writes the text that `make` makes of them to a descriptor.

    With an `interval`, it writes at most once in so many seconds, and `make` is also called if there is no new item,
    because the text may depend on the time. `make` is called in the thread, and so may block.
    """

    def __init__(self, fd: int, make: Callable[[list[T]], bytes], interval: float | None = None) -> None:
        self._fd = fd
        self._make = make
        self._interval = interval
        self._items: list[T] = []
        self._news = threading.Condition()
        self._is_closing = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Add an item. Raises the OSError with which an earlier write failed: then nothing is written any more."""
        if self._error is not None:
            raise self._error
        with self._news:
            self._items.append(item)
            self._news.notify()

    def close(self, limit: float | None = None) -> None:
        """Wait until everything is written; at most `limit` seconds. Without one, only a signal ends the wait."""
        self._is_closing.set()
        with self._news:
            self._news.notify()
        self._thread.join(limit)

    def _run(self) -> None:
        try:
            while self._write_next():
                pass
        except OSError as error:
            self._error = error

    def _write_next(self) -> bool:
        """Write what is there, or will be; return whether more may follow."""
        with self._news:
            self._news.wait_for(lambda: self._items or self._is_closing.is_set(), self._interval)
        if self._interval is not None:
            # Events come in groups, such as the end of a step and the beginning of the next: they are written together.
            self._is_closing.wait(SETTLE)
        is_last = self._is_closing.is_set()  # Read before the items: nothing is added after `close`.
        with self._news:
            items, self._items = self._items, []
        if text := self._make(items):
            began = time.monotonic()
            _write(self._fd, text)
            self._is_closing.wait(max(0.0, (self._interval or 0.0) - SETTLE - (time.monotonic() - began)))
        return not is_last


SETTLE = 0.03  # seconds to wait for more items before a write, if there is an interval


def _write(fd: int, text: bytes) -> None:
    while text:
        try:
            text = text[os.write(fd, text) :]
        except BlockingIOError:  # Another process made the terminal or the pipe non-blocking.
            select.select([], [fd], [])


class BackgroundStream(io.TextIOBase):
    """A text stream in the place of another one, which is written to in a thread. `flush` passes the text on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._writer = BackgroundWriter[str](stream.fileno(), lambda texts: encode("".join(texts), stream))

    def write(self, text: str) -> int:
        """Add a text."""
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Pass the text on. Raises the OSError with which an earlier write failed."""
        text, self._text = self._text, ""
        if text:
            self._writer.put(text)

    def isatty(self) -> bool:
        """True if the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def finish(self, limit: float | None = None) -> None:
        """Wait until everything is written; at most `limit` seconds."""
        self._writer.close(limit)


def encode(text: str, stream: TextIO) -> bytes:
    """Return a text in the encoding of a stream. What it cannot contain becomes escapes."""
    return text.encode(stream.encoding or "utf-8", "backslashreplace")
