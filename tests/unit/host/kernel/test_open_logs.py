"""The log files that a process has open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runbook.errors import LookLimitExceeded
from runbook.host.kernel.look_limit import LookLimit
from runbook.host.kernel.open_logs import find_open_logs

OPENS = "import sys; files = [open(path, mode) for path, mode in zip(sys.argv[1::2], sys.argv[2::2])]; input()"


def test_files_that_are_open_for_writing(tmp_path: Path) -> None:
    written, read, data = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "data.bin"
    read.touch()
    argv = [sys.executable, "-c", OPENS, str(written), "a", str(read), "r", str(data), "w"]
    with (tmp_path / "out.txt").open("w") as out, subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out) as process:
        while not data.exists():
            pass
        assert find_open_logs(process.pid, LookLimit()) == [str(tmp_path / "out.txt"), str(written)]
        process.kill()


def test_a_process_that_is_gone_or_may_not_be_read() -> None:
    assert find_open_logs(2**22, LookLimit()) == []


def test_a_look_that_takes_too_long() -> None:
    with pytest.raises(LookLimitExceeded):
        find_open_logs(os.getpid(), LookLimit(-1.0))
