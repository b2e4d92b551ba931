"""Which processes a comparison rules out: real processes, and the kernel's own answers."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import pytest

from runbook.host.kernel import descriptors, kcmp
from runbook.host.kernel.descriptors import scan_holders
from runbook.host.kernel.kcmp import KnownDescriptor, filter_candidates
from runbook.host.kernel.look_limit import LookLimit
from runbook.host.kernel.processes import list_pids

from .family import Family

COMPARES = kcmp._NUMBER is not None and kcmp._compare(KnownDescriptor(os.getpid(), 0, b""), os.getpid(), [0]) == [0]
"""True if this kernel has kcmp(2) and permits it. Otherwise no process is ruled out."""


@pytest.fixture
def mine() -> Iterator[socket.socket]:
    """A socket that this process holds."""
    with socket.socket() as own:
        yield own


@pytest.fixture
def children() -> Iterator[ExitStack]:
    """Keep child processes running for as long as a test lasts."""
    with ExitStack() as kept:
        yield kept


def child(kept: ExitStack, *passed: int) -> int:
    """Start a process that holds what is passed to it, and waits."""
    argv = [sys.executable, "-IS", "-c", "import sys; print(flush=True); sys.stdin.read()"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=passed)
    kept.callback(process.communicate)
    assert process.stdout is not None
    process.stdout.readline()
    return process.pid


def place_of(sock: socket.socket) -> KnownDescriptor:
    return KnownDescriptor(os.getpid(), sock.fileno(), b"socket:[%d]" % os.fstat(sock.fileno()).st_ino)


def test_a_process_that_does_not_hold_it_is_ruled_out(mine: socket.socket, children: ExitStack) -> None:
    with_gaps, not_it = (fcntl.fcntl(file, fcntl.F_DUPFD, 700) for file in (mine.fileno(), 0))
    children.callback(os.close, with_gaps)
    children.callback(os.close, not_it)
    stranger, heir, far = child(children), child(children, mine.fileno()), child(children, with_gaps)
    other = child(children, not_it)
    everyone = [os.getpid(), stranger, heir, far, other]
    assert filter_candidates(everyone, place_of(mine), LookLimit()) == (
        [os.getpid(), heir, far] if COMPARES else everyone
    )


def test_every_holder_is_found_beside_one_that_is_known(mine: socket.socket, children: ExitStack) -> None:
    inode = os.fstat(mine.fileno()).st_ino
    high = fcntl.fcntl(mine.fileno(), fcntl.F_DUPFD, 700)
    children.callback(os.close, high)
    held_by = {os.getpid(), child(children, mine.fileno()), child(children, high), child(children, mine.fileno(), high)}
    child(children)
    for likely in (), (1,), (os.getpid(),), (2**22 + 1, os.getpid()), tuple(held_by):
        assert scan_holders([inode], likely).holders == {pid: {inode} for pid in held_by}


def test_with_two_sockets_no_process_is_ruled_out(mine: socket.socket, children: ExitStack) -> None:
    with socket.socket() as second:
        heir = child(children, second.fileno())
        one, two = (os.fstat(sock.fileno()).st_ino for sock in (mine, second))
        assert scan_holders([one, two], [os.getpid()]).holders == {os.getpid(): {one, two}, heir: {two}}


def test_a_process_that_may_not_be_compared_is_not_ruled_out(
    mine: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = kcmp._syscall
    monkeypatch.setattr(kcmp, "_syscall", lambda *given: plain(*given) if given[2] == os.getpid() else -1)
    everyone = [*list_pids()]
    assert {*filter_candidates(everyone, place_of(mine), LookLimit())} == {*everyone}


@pytest.mark.parametrize("answer", [-1, 1, 2, 3])
def test_a_kernel_that_does_not_compare_rules_out_no_process(
    answer: int, mine: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without kcmp(2), a sandbox that forbids it, or a PID namespace in which the PIDs differ."""
    monkeypatch.setattr(kcmp, "_syscall", lambda *_: answer)
    everyone = [*list_pids()]
    assert [*filter_candidates(everyone, place_of(mine), LookLimit())] == everyone
    monkeypatch.setattr(kcmp, "_NUMBER", None)
    assert [*filter_candidates(everyone, place_of(mine), LookLimit())] == everyone


def test_if_the_descriptor_was_replaced_no_process_is_ruled_out(mine: socket.socket, children: ExitStack) -> None:
    """The descriptor is another file by now: a process that was compared with it may still hold the socket."""
    heir = child(children, mine.fileno())
    place = place_of(mine)
    fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(fd, mine.fileno())
    os.close(fd)
    assert [*filter_candidates([os.getpid(), heir], place, LookLimit())] == [os.getpid(), heir]


def test_a_comparison_that_does_not_return_is_abandoned(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example with a process that closes a file on a dead NFS mount during execve(2)."""
    (listener,) = family.sockets()
    others = {family.bear() for _ in range(3)}
    blocked, plain, begun = threading.Event(), kcmp._syscall, list[threading.Thread]()

    def compare(*given: int) -> int:
        if given[2] in others:
            begun.append(threading.current_thread())
            assert blocked.wait(60)
        return int(plain(*given))

    monkeypatch.setattr(kcmp, "_syscall", compare)
    monkeypatch.setattr(kcmp, "STALL_TIMEOUT", 0.05)
    everyone = {family.parent.pid: {listener}, **{pid: {listener} for pid in others}}
    try:
        for _ in range(3):  # And while it waits no other is begun.
            assert scan_holders([listener], [family.parent.pid]).holders == everyone
            assert len(begun) <= 1
    finally:
        blocked.set()
        for thread in begun:
            thread.join(60)
    assert scan_holders([listener], [family.parent.pid]).holders == everyone
    assert descriptors.scan_holders([listener]).holders == everyone


# A table of 0, 1, 2 and 4, in which the socket is 4; 3 is filled when a line comes.
GAP = """
import os, sys
os.dup2(int(sys.argv[1]), 4)
os.closerange(5, 1024)
print(flush=True)
sys.stdin.readline()
os.dup2(0, 3)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def gap(mine: socket.socket) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the socket above a gap in its table."""
    high = fcntl.fcntl(mine.fileno(), fcntl.F_DUPFD, 20)
    argv = [sys.executable, "-IS", "-c", GAP, str(high)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[high], text=True) as process:
        os.close(high)
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def fill(process: subprocess.Popen[str]) -> None:
    """Make the process fill the gap, once."""
    assert process.stdin is not None
    assert process.stdout is not None
    if not process.stdin.closed:
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()


def test_a_gap_that_is_filled_while_it_is_compared_hides_nothing(
    mine: socket.socket, gap: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, filled = kcmp._compare, list[bool]()

    def late(place: KnownDescriptor, pid: int, numbers: Iterable[int]) -> list[int]:
        if not filled:
            filled.append(True)
            fill(gap)
        return compare(place, pid, numbers)

    monkeypatch.setattr(kcmp, "_compare", late)
    assert not kcmp._rules_out(place_of(mine), gap.pid)
    assert filled


def test_a_gap_that_is_filled_while_it_is_read_hides_nothing(
    mine: socket.socket, gap: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, filled = os.readlink, list[bool]()

    def late(path: bytes, dir_fd: int | None = None) -> bytes:
        if not filled:
            filled.append(True)
            fill(gap)
        return read(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", late)
    assert descriptors.find_held_sockets(gap.pid, {os.fstat(mine.fileno()).st_ino})
    assert filled
