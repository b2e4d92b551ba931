"""Reads that stall: a FIFO without a writer blocks open(2) as the kernel blocks it for a process in execve(2)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.kernel import process_memory
from runbook.host.kernel.process_memory import read_file, read_memory
from runbook.model import ProcessId

PROCESS = ProcessId(74, 1000)
FILES = (("cmdline", 5), ("environ", 100))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "cmdline").write_bytes(b"sleep\0infinity\0")
    (tmp_path / "environ").write_bytes(b"A=1\0")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_no_more_is_read_than_wanted(folder: int) -> None:
    assert read_memory(PROCESS, folder, FILES) == [b"sleep", b"A=1\0"]
    assert read_file(folder, "missing", 9) == b""


def test_a_read_that_stalls_is_abandoned(tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "READ_TIMEOUT", 0.2)
    (tmp_path / "environ").unlink()
    os.mkfifo(tmp_path / "environ")
    assert read_memory(PROCESS, folder, FILES) is None
    # As long as it stalls, it is not tried again, and other processes are read.
    began = time.monotonic()
    assert read_memory(PROCESS, folder, FILES) is None
    assert time.monotonic() - began < 0.1
    assert read_memory(ProcessId(75, 1000), folder, (("cmdline", 5),)) == [b"sleep"]
    reader = process_memory._stuck[PROCESS]
    os.close(os.open(tmp_path / "environ", os.O_WRONLY))
    reader.join(10)
    assert not reader.is_alive()
    (tmp_path / "environ").unlink()
    assert read_memory(PROCESS, folder, FILES) == [b"sleep", b""]


def test_without_a_thread_nothing_is_read(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(process_memory, "_idle", [])
    monkeypatch.setattr(process_memory._Reader, "start", refuse)
    assert read_memory(PROCESS, folder, FILES) is None
