# ruff: noqa: PTH123 - pathlib cannot use the descriptor of a folder
"""Reads the command line and the environment of a process, which the kernel copies from the process's own memory.

Any user can make such a read take for ever, or return any amount of data:

- PR_SET_MM_MAP (prctl(2)) makes any part of the memory the command line or the environment, however long it is.
- The kernel waits while the process is in execve(2), which closes files, and while the process changes its memory.
  Both can depend on a file system of the same user (FUSE), or on a dead NFS server.

So a read has a limit, and a thread does it, which is abandoned if it stalls.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence

from runbook.model import ProcessId

READ_TIMEOUT = 0.5  # seconds after which a read is abandoned; mostly it takes 0.02 ms

FileLimit = tuple[str, int]  # The name of a file in /proc/PID, and how many bytes of it to read at most

_idle: list[_Reader] = []  # readers that wait for the next read
_stuck: dict[ProcessId, _Reader] = {}  # processes at which a reader stalled: while it does, they are not read again


class _Reader(threading.Thread):
    """A thread that reads until it stalls."""

    def __init__(self) -> None:
        super().__init__(name="memory", daemon=True)
        self.requests: queue.SimpleQueue[tuple[int, Sequence[FileLimit]]] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self.is_abandoned = False

    def run(self) -> None:
        while not self.is_abandoned:
            folder, files = self.requests.get()
            self.answers.put([read_file(folder, *one) for one in files])


def read_memory(process: ProcessId, folder: int, files: Sequence[FileLimit]) -> list[bytes] | None:
    """Read files of /proc/PID, whose descriptor is `folder`. None if the kernel does not answer in time."""
    if process in _stuck and _stuck[process].is_alive():
        return None
    _stuck.pop(process, None)
    try:
        reader = _idle.pop()
    except IndexError:
        reader = _Reader()
        try:
            reader.start()
        except RuntimeError:  # No more threads are allowed here.
            return None
    reader.requests.put((folder, files))
    try:
        answer = reader.answers.get(timeout=READ_TIMEOUT)
    except queue.Empty:
        reader.is_abandoned = True
        _stuck[process] = reader
        return None
    _idle.append(reader)
    return answer


def read_file(folder: int, name: str, most: int) -> bytes:
    """Return at most `most` bytes of a file in a folder; empty if it cannot be read."""
    try:
        # Buffered: the kernel returns a command line one page at a time, and read() continues until it has them all.
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            return file.read(most)
    except OSError:
        return b""
