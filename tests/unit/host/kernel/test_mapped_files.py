"""Which files of a process were replaced, with real processes and files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.kernel import mapped_files
from runbook.host.kernel.mapped_files import find_replaced_files
from runbook.host.kernel.processes import read_id
from runbook.model import ProcessId

HOLD = """
import ctypes, mmap, sys
library = ctypes.CDLL(sys.argv[1])
print("loaded", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that counts as one of programs and libraries, although it is a temporary one."""
    monkeypatch.setattr(mapped_files, "_NO_FILE", re.compile("/dev/"))
    return tmp_path


@pytest.fixture
def library(folder: Path) -> Path:
    """Return a copy of a library that Python's own process has mapped."""
    maps = Path("/proc/self/maps").read_text()
    known = next(line.split(None, 5)[5] for line in maps.splitlines() if "libc.so" in line)
    return Path(shutil.copy(known, folder / "libcopy.so.1"))


@pytest.fixture
def holder(library: Path) -> Iterator[ProcessId]:
    argv = [sys.executable, "-c", HOLD, str(library)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"loaded\n"
        found = read_id(child.pid)
        assert found
        yield found
        child.kill()


def test_a_library_that_was_replaced(library: Path, holder: ProcessId) -> None:
    assert find_replaced_files(holder) == ()
    shutil.copy(library, library.with_suffix(".new"))
    library.with_suffix(".new").rename(library)
    assert find_replaced_files(holder) == (str(library),)


def test_a_program_that_was_removed(folder: Path) -> None:
    program = Path(shutil.copy("/bin/sleep", folder / "serve"))
    with subprocess.Popen([program, "60"]) as child:
        found = read_id(child.pid)
        assert found
        program.unlink()
        assert find_replaced_files(found) == (str(program),)
        child.kill()


@pytest.mark.parametrize(
    "path",
    [
        "/memfd:libffi.so",
        "/dev/shm/code.so",
        "/tmp/jna.so",
        "/run/x.so",
        "/SYSV00000000",
        "/[aio]",
        "/usr/share/locale/a.mo",
        "/home/u/.orc/orcexec.Ab12",
    ],
)
def test_what_is_no_library(path: str) -> None:
    assert not mapped_files._is_library(path)


def test_only_mappings_that_are_executed_count() -> None:
    text = b"""\
7f00-7f10 r-xp 00000000 08:01 42       /usr/lib/libssl.so.3 (deleted)
7f10-7f20 r--p 00000000 08:01 43       /usr/lib/libdata.so.3 (deleted)
7f20-7f30 r-xp 00000000 08:01 44       /usr/lib/libfresh.so.3
7f30-7f40 r-xp 00000000 00:01 45       /memfd:jit (deleted)
7f40-7f50 rwxp 00000000 00:00 0
"""
    assert mapped_files._MAPPING.findall(text) == [b"/usr/lib/libssl.so.3", b"/memfd:jit"]


def test_a_process_that_is_gone_has_none() -> None:
    assert find_replaced_files(ProcessId(1, 1)) == ()
