"""Parsing the texts of /proc, and reading unusual real processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.kernel import processes
from runbook.host.kernel.processes import (
    describe_state,
    is_alive,
    read_ancestor_ids,
    read_id,
    read_process,
)
from runbook.model import ProcessId

from .family import Family, may_choose_pids

ROOT = pytest.mark.root

ID = "0123456789abcdef0123456789abcdef"


# Texts ----------------------------------------------------------------------------------------------------------


def stat(name: bytes, state: bytes = b"S", threads: int = 1, flags: int = 4194560) -> bytes:
    rest = b" 1 74 74 0 -1 %d 1000 0 0 0 3 2 0 0 20 0 %d 0 4711 225280 200 18446744073709551615 1 1 0\n"
    return b"74 (" + name + b") " + state + rest % (flags, threads)


@pytest.mark.parametrize("name", [b"node", b"we (ird) 1", b") R 1 (", b"", b"a b c", b"(sd-pam)"])
def test_a_name_cannot_lead_the_parser_astray(name: bytes) -> None:
    parsed = processes.parse_stat(stat(name))
    assert (parsed.name, parsed.state, parsed.ppid) == (name.decode(), "S", 1)
    assert (parsed.flags, parsed.threads, parsed.start, parsed.terminal) == (4194560, 1, 4711, 0)


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [(b"S", 1, True), (b"D", 1, True), (b"T", 1, True), (b"Z", 1, False), (b"X", 0, False), (b"Z", 3, True)],
)
def test_a_zombie_is_not_alive_unless_its_threads_are(state: bytes, threads: int, alive: bool) -> None:
    assert processes.parse_stat(stat(b"x", state, threads)).is_alive is alive


PURE = "0::/system.slice/nginx.service\n"
HYBRID = "12:pids:/a\n3:cpu,cpuacct:/b\n1:name=systemd:/system.slice/old.service\n0::/system.slice/new.service\n"


@pytest.mark.parametrize(
    ("text", "unified", "path"),
    [
        (PURE, True, "/system.slice/nginx.service"),
        (PURE, False, "/system.slice/nginx.service"),
        (HYBRID, True, "/system.slice/new.service"),
        (HYBRID, False, "/system.slice/old.service"),
        ("4:memory:/x\n1:name=systemd:/only\n", True, "/only"),
        ("4:memory:/x\n", True, ""),
        ("0::/a:b/c\n", True, "/a:b/c"),
        ("0::/evil\x0b0::/system.slice/gw.service\n", True, "/evil\x0b0::/system.slice/gw.service"),
        ("0::/evil\u2028\x85\x1cx\n", True, "/evil\u2028\x85\x1cx"),
        ("", True, ""),
    ],
)
def test_the_line_of_systemd_is_picked(text: str, unified: bool, path: str) -> None:
    assert processes.parse_cgroup(text, unified=unified) == path


# One read -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cat(*argv: str | Path, **environment: str) -> Iterator[int]:
    """Run cat(1), and wait until it runs: Popen returns in the middle of execve(2), before it has a command line."""
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"up\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"up\n"
        yield child.pid
        child.communicate()


def test_all_fields_of_a_child_are_read() -> None:
    with cat("cat", "-u", INVOCATION_ID=ID, PATH="/usr/bin:/bin") as pid:
        seen, me = read_process(pid), read_process(os.getpid())
        alive = seen is not None and is_alive(seen.id)
    assert seen is not None
    assert me is not None
    assert (seen.pid, seen.ppid, seen.uid) == (pid, os.getpid(), os.geteuid())
    assert (seen.name, seen.command, seen.invocation_id) == ("cat", ("cat", "-u"), ID)
    assert seen.exe == os.path.realpath(shutil.which("cat") or "")
    assert (seen.cgroup, seen.kernel) == (me.cgroup, False)
    assert (seen.pid_namespace, seen.user_namespace) == (me.pid_namespace, me.user_namespace)
    assert seen.pid_namespace == Path("/proc/self/ns/pid").stat().st_ino
    assert me.started <= seen.started <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert alive
    assert read_process(pid) is None
    assert read_id(pid) is None
    assert not is_alive(seen.id)
    assert describe_state(seen.id) == "gone"


def test_a_controlling_terminal_is_found() -> None:
    terminal, its_end = os.openpty()
    with subprocess.Popen(["setsid", "--ctty", "cat", "-u"], stdin=its_end, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        os.close(its_end)
        os.write(terminal, b"up\n")
        assert child.stdout.readline() == b"up\n"
        seen = read_process(child.pid)
        os.close(terminal)
    assert seen is not None
    assert seen.has_terminal
    with subprocess.Popen(["setsid", "cat", "-u"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"up\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"up\n"
        seen = read_process(child.pid)
        child.communicate()
    assert seen is not None
    assert not seen.has_terminal


def test_another_start_is_another_process() -> None:
    me = read_id(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(ProcessId(me.pid, me.start + 1))
    assert describe_state(ProcessId(me.pid, me.start + 1)) == "gone"


def test_a_program_that_was_removed_and_has_an_odd_name(tmp_path: Path) -> None:
    odd = tmp_path / "we (ird) 1"
    shutil.copy(shutil.which("cat") or "", odd)
    with cat(odd) as pid:
        odd.unlink()
        seen = read_process(pid)
    assert seen is not None
    assert (seen.name, seen.exe) == ("we (ird) 1", f"{odd} (deleted)")


def test_bytes_that_are_not_utf_8_are_shown_escaped() -> None:
    assert processes._command(b"a\xff\0b c\0\0\0", 100) == (r"a\xff", "b c")
    assert processes._command(b"", 100) == ()


def test_a_title_written_over_the_environment_is_no_invocation() -> None:
    """As setproctitle, nginx and postgres do: the title overwrites argv, and then the environment."""
    overwrite = """
import sys
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    memory.seek(start)
    environment = memory.read(end - start)
    at = environment.index(b"INVOCATION_ID=")
    memory.seek(start)
    memory.write((b"x" * (at + 4)) if sys.argv[1:] else b"y")
print(at, flush=True)
sys.stdin.read()
"""
    environment = {"A": "1", "INVOCATION_ID": ID, "PATH": os.environ["PATH"]}
    for extra, found in (((), ID), (("all",), "")):
        with subprocess.Popen(
            [sys.executable, "-c", overwrite, *extra],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            assert int(child.stdout.readline()) > 0
            seen = read_process(child.pid)
            child.communicate()
        assert seen is not None
        assert seen.invocation_id == found


def test_a_zombie_exists_and_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    seen = read_process(child.pid)
    assert seen is not None
    assert seen.state == "Z"
    assert not is_alive(seen.id)
    assert describe_state(seen.id).startswith("Z (zombie)")
    child.wait()


def test_a_stopped_process_is_described() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = read_id(child.pid)
    assert process is not None
    child.send_signal(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    try:
        assert describe_state(process).startswith("T (stopped)")
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(not Path("/proc/2/stat").exists(), reason="no kernel threads are to be seen here")
def test_a_kernel_thread_is_recognised() -> None:
    seen = read_process(2)
    assert seen is not None
    assert (seen.kernel, seen.name, seen.command, seen.exe) == (True, "kthreadd", (), "")


def test_ancestors_lead_to_the_first_process() -> None:
    line = read_ancestor_ids(os.getpid())
    assert line[0] == read_id(os.getppid())
    assert all(child.start >= parent.start for child, parent in itertools.pairwise(line))
    assert read_ancestor_ids(1) == ()
    child = subprocess.Popen(["sleep", "60"])
    assert read_ancestor_ids(child.pid)[1:] == line
    child.kill()
    child.wait()


# One PID, two processes -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not may_choose_pids(), reason="ns_last_pid may not be written here")
def test_a_read_never_mixes_two_processes(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PID is reused in the middle of a read: nothing of either process is returned."""
    pid = family.bear()
    first = family.judged(pid).process.id
    plain = processes._uid

    def change_hands(status: bytes) -> int:
        family.replace(pid)
        return plain(status)

    monkeypatch.setattr(processes, "_uid", change_hands)
    assert read_process(pid) is None
    monkeypatch.undo()
    second = read_process(pid)
    assert second is not None
    assert second.id != first
    assert not is_alive(first)


def test_when_a_process_started() -> None:
    """By the clock of the files' times, exact to a tick."""
    before = time.time()
    with subprocess.Popen(["sleep", "60"]) as child:
        found = processes.read_process(child.pid)
        after = time.time()
        child.kill()
    assert found is not None
    assert before - 0.02 <= processes.find_start_time(found) <= after + 0.02


def test_a_long_command_line_is_cut_off() -> None:
    assert processes._command(b"ab\0cdef\0g", 5) == ("ab", "cd...")
    many = processes._command(b"x\0" * 2000, 4000)
    assert (len(many), many[0], many[-1]) == (processes.MAX_ARGUMENTS, "x", "x...")


def test_a_process_with_too_long_files_is_read_as_far_as_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_ENVIRON", 50)
    with cat("cat", "-u", PATH="/usr/bin:/bin", INVOCATION_ID=ID, X="y" * 50) as pid:
        seen = read_process(pid, 7)
    assert seen is not None
    assert (seen.command, seen.environment) == (("cat", "-u"), ())
    assert seen.uid == os.geteuid()
