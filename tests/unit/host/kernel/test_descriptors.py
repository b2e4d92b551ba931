"""Which processes hold a socket: real processes and real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.errors import HostError, LookLimitExceeded
from runbook.host.kernel import accounts, descriptors
from runbook.host.kernel.descriptors import find_held_sockets, scan_holders
from runbook.host.kernel.look_limit import LookLimit
from runbook.host.kernel.processes import is_alive, read_id

from .family import Family

ROOT = pytest.mark.root
SOURCE = Path(descriptors.__file__).parents[3]


@contextlib.contextmanager
def python(code: str, **options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run Python code that prints one line when it is ready and then waits for its input to end."""
    child = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.communicate()


def test_every_holder_is_found(family: Family) -> None:
    children = {family.bear() for _ in range(3)}
    (listener,) = family.sockets()
    with socket.socket() as mine:
        own = os.fstat(mine.fileno()).st_ino
        found = scan_holders({listener, own, 1}).holders
    assert found == {**{pid: {listener} for pid in (family.parent.pid, *children)}, os.getpid(): {own}}
    family.end(children.pop())
    assert scan_holders([listener]).holders.keys() == {family.parent.pid, *children}
    assert find_held_sockets(family.parent.pid, [1, listener]) == {listener}
    assert not find_held_sockets(family.parent.pid, [own])
    assert not find_held_sockets(2**22 + 1, [listener])


def test_without_inodes_there_is_no_scan() -> None:
    assert scan_holders([]).holders == {}


UNSHARED = """
import ctypes, os, socket, threading, sys
def work():
    assert ctypes.CDLL(None).unshare(0x400) == 0  # CLONE_FILES
    own = socket.socket()
    print(os.fstat(own.fileno()).st_ino, flush=True)
    sys.stdin.read()
threading.Thread(target=work).start()
"""

FIRST_THREAD_ENDED = """
import ctypes, os, signal, socket, threading
own = socket.socket()
child = os.fork()
while child == 0:
    signal.pause()
main = threading.main_thread().native_id
def work():
    while open(f"/proc/self/task/{main}/stat").read().rpartition(")")[2].split()[0] != "Z":
        pass
    print(child, os.fstat(own.fileno()).st_ino, flush=True)
    os.read(0, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os._exit(0)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({exit}, 0)
"""


def test_a_table_of_a_single_thread_is_found() -> None:
    with python(UNSHARED) as (child, inode):
        assert scan_holders([int(inode)]).holders == {child.pid: {int(inode)}}
        assert find_held_sockets(child.pid, [int(inode)])


EXIT = {"x86_64": 60, "aarch64": 93, "riscv64": 93, "loongarch64": 93}
"""The number of exit(2), which glibc does not call; 1 on all other architectures of Debian."""


@ROOT  # Only root may read what is left of it; for other users it counts as hidden.
def test_a_process_whose_first_thread_has_ended_is_found() -> None:
    number = EXIT.get(os.uname().machine, 1)
    with python(FIRST_THREAD_ENDED.replace("{exit}", str(number))) as (child, line):
        fork, inode = map(int, line.split())
        for likely in (), (fork,), (child.pid,):
            assert scan_holders([inode], likely).holders == {child.pid: {inode}, fork: {inode}}
        process = read_id(child.pid)
        assert process is not None
        assert is_alive(process)


AS_NOBODY = f"""
import json, os, socket, sys
sys.path.insert(0, {str(SOURCE)!r})
from runbook.host.kernel import descriptors
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
other = int(sys.argv[1])
scan = descriptors.scan_holders([other])
print(json.dumps([scan.holders.get(int(sys.argv[2]), None) is not None, scan.hidden,
                  descriptors.scan_holders([]).hidden]))
"""


def as_nobody(inode: int, pid: int, *before: str) -> tuple[bool, int, int]:
    out = subprocess.run(
        [*before, sys.executable, "-c", AS_NOBODY, str(inode), str(pid)], capture_output=True, text=True, check=True
    ).stdout
    seen, hidden, without_looking = json.loads(out.splitlines()[0])
    return seen, hidden, without_looking


@ROOT
def test_processes_that_may_not_be_read_are_counted(family: Family) -> None:
    (inode,) = family.sockets()
    seen, hidden, without_looking = as_nobody(inode, family.parent.pid)
    assert not seen
    assert hidden >= 2  # the family's parent and this test; kernel threads hide nothing
    assert without_looking == 0


@ROOT
def test_with_hidepid_at_least_one_process_is_hidden(family: Family) -> None:
    (inode,) = family.sockets()
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    seen, hidden, without_looking = as_nobody(inode, 1, "unshare", "--mount", "sh", "-c", mount, "sh")
    assert (seen, without_looking) == (False, 1)
    assert hidden >= 1


# All of the work, however it is done ----------------------------------------------------------------------------


GAPS = """
import os, socket, sys
own = socket.socket()
for number in {numbers}:
    os.dup2(own.fileno(), number)
print(os.fstat(own.fileno()).st_ino, flush=True)
if own.fileno() not in {numbers}:
    own.close()
sys.stdin.read()
"""


@pytest.mark.parametrize("numbers", [(3,), (5,), (9,), (3, 40), (500, 200)])
def test_a_table_with_gaps_is_read_to_its_end(numbers: tuple[int, ...]) -> None:
    with python(GAPS.format(numbers=numbers)) as (child, inode):
        assert scan_holders([int(inode)]).holders == {child.pid: {int(inode)}}


def test_a_kernel_that_does_not_count_descriptors(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.2 the folder's size is 0: it is listed."""
    monkeypatch.setattr(descriptors, "NUMBERS", ())
    (listener,) = family.sockets()
    assert scan_holders([listener]).holders == {family.parent.pid: {listener}}


def test_each_thread_scans_its_share(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    children = {family.bear() for _ in range(7)}
    (listener,) = family.sockets()
    seen = set[threading.Thread]()
    plain = descriptors._scan

    def look(*given: object) -> descriptors.DescriptorScan:
        seen.add(threading.current_thread())
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(descriptors, "_scan", look)
    monkeypatch.setattr(descriptors, "THREADS", 3)
    monkeypatch.setattr(descriptors, "PIDS_PER_THREAD", 1)
    assert scan_holders([listener]).holders.keys() == {family.parent.pid, *children}
    assert len(seen) == 3


def test_without_permission_for_threads_the_main_thread_scans_all(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    children = {family.bear() for _ in range(7)}
    (listener,) = family.sockets()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(descriptors, "THREADS", 3)
    monkeypatch.setattr(descriptors, "PIDS_PER_THREAD", 1)
    for likely in (), (family.parent.pid,):
        assert scan_holders([listener], likely).holders.keys() == {family.parent.pid, *children}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_share_that_was_not_scanned_is_an_error(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = descriptors._scan

    def look(*given: object) -> descriptors.DescriptorScan:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(descriptors, "_scan", look)
    monkeypatch.setattr(descriptors, "THREADS", 2)
    monkeypatch.setattr(descriptors, "PIDS_PER_THREAD", 1)
    with pytest.raises(HostError, match="cannot look through all processes"):
        scan_holders(family.sockets())


def test_without_a_free_descriptor_a_process_counts_as_hidden(family: Family) -> None:
    (listener,) = family.sockets()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        scan = descriptors._scan([family.parent.pid], descriptors._Search(descriptors._links([listener]), LookLimit()))
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert (scan.holders, scan.hidden) == ({}, 1)


MANY = """
import os, socket, sys
own = socket.create_server(("127.0.0.1", 0))
for _ in range(700):
    os.dup(0)
print(os.fstat(own.fileno()).st_ino, flush=True)
sys.stdin.read()
"""


def test_a_look_ends_at_its_time_and_names_who_has_the_most() -> None:
    with python(MANY) as (child, inode):
        assert scan_holders([int(inode)]).holders == {child.pid: {int(inode)}}
        limit = LookLimit()
        assert find_held_sockets(child.pid, [int(inode)], limit) == {int(inode)}
        assert limit.large_tables == {child.pid: 2 * descriptors.CHECK_EVERY}
        limit._over = True
        with pytest.raises(LookLimitExceeded) as over:
            scan_holders([int(inode)], limit=limit)
    uid = os.geteuid()
    end = f"1 process of user {accounts.find_local_user_name(uid)} had more than 256 each (ps -fu {uid} shows them)"
    # The process was still running when the message was made.
    assert over.value.message == f"the open files of all processes cannot be read in time; {end}"


@pytest.mark.parametrize("checks", [1, 2, 5, 20])
def test_an_interruption_ends_a_look_in_every_part_of_it(family: Family, checks: int) -> None:
    """As another thread, another process or another descriptor is being read."""
    left = iter(range(checks))
    limit = LookLimit(10, lambda: next(left, None) is None)
    with pytest.raises(LookLimitExceeded):
        scan_holders(family.sockets(), [family.parent.pid], limit)


def test_an_open_file_is_found_by_its_link(tmp_path: Path) -> None:
    path = tmp_path / "dev" / "kvm"
    path.parent.mkdir()
    wanted = re.compile(rb".*/dev/kvm")
    assert not descriptors.has_open(os.getpid(), wanted)
    with path.open("w"):
        assert descriptors.has_open(os.getpid(), wanted)
    assert not descriptors.has_open(2**22 + 1, wanted)


def test_all_sockets_of_a_process() -> None:
    with socket.socket() as one, socket.socket() as other:
        mine = {os.fstat(each.fileno()).st_ino for each in (one, other)}
        assert descriptors.list_sockets(os.getpid(), LookLimit()) >= mine
    assert not descriptors.list_sockets(os.getpid(), LookLimit()) & mine
    assert not descriptors.list_sockets(2**22 + 1, LookLimit())
    with pytest.raises(LookLimitExceeded):
        descriptors.list_sockets(os.getpid(), LookLimit(-1.0))
