"""The locks: those of the kernel, the lines in the files, and what must not be mistaken for either."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from runbook.errors import Interrupted, Locked, NotBegun
from runbook.events import Notice, Payload, Waiting
from runbook.records import lock
from runbook.records.lock import Locker, LockHolder
from tests.unit.fake_machine import FakeMachine, process

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the locks of a user's own units."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "runbook"


@contextmanager
def other(path: Path) -> Iterator[int]:
    """Another process that holds a lock."""
    argv = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.communicate("\n")


def locker(machine: FakeMachine | None = None, patience: float = 0.0, told: list[Payload] | None = None) -> Locker:
    machine = machine or FakeMachine()
    return Locker("user", machine, machine, patience, ([] if told is None else told).append)


def free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_lock_names_its_run_and_ends_with_it(home: Path) -> None:
    with locker().take(["b.service", "a.service", "b.service"]) as locks:
        locks.write_holder("20261124-1200-abc", "alice")
        assert [path.name for path in sorted(home.iterdir())] == ["a.service", "b.service"]
        said = json.loads((home / "a.service").read_text())
        assert (said["pid"], said["run"], said["user"]) == (os.getpid(), "20261124-1200-abc", "alice")
        assert not free(home / "a.service")
        [holder] = lock.find_lock_holders(["a.service"], "user")
        assert holder.data() == {"unit": "a.service", **said}
        assert str(holder).startswith(f"run 20261124-1200-abc (PID {os.getpid()}, user alice), since 20")
    assert free(home / "a.service")
    assert lock.find_lock_holders(["a.service", "none.service"], "user") == ()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_lock_is_for_its_owner_alone(home: Path, umask: int) -> None:
    """A user who can open a file, even only for reading, can lock it."""
    before = os.umask(umask)
    try:
        locker().take(["a.service"]).close()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (home, home / "a.service")]
    assert modes == [0o755, 0o600]


def test_the_lock_of_an_earlier_version_is_closed_to_others(home: Path) -> None:
    locker().take(["a.service"]).close()
    (home / "a.service").chmod(0o644)
    locker().take(["a.service"]).close()
    assert stat.S_IMODE((home / "a.service").stat().st_mode) == 0o600


def test_only_root_locks_what_is_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lock, "SYSTEM", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotBegun, match="only root may lock the units of the system's manager") as refused:
        replace(locker(), scope="system").take(["a.service"])
    assert "sudo" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_for_a_lock_that_may_not_be_read_the_kernel_names_the_holder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with locker().take(["a.service"]) as locks:
        locks.write_holder("20261124-1200-abc", "alice")
        monkeypatch.setattr(lock, "open_file", closed)
        [holder] = lock.find_lock_holders(["a.service", "none.service"], "user")
    assert (holder.pid, holder.run) == (os.getpid(), "")


def test_a_file_of_the_same_number_on_another_disk_is_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user can make a tmpfs with a file of any inode number, and lock it."""
    locker().take(["a.service"]).close()
    there = (home / "a.service").stat()
    elsewhere = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev) + 1:02x}:{there.st_ino}"
    line = f"1: FLOCK  ADVISORY  WRITE {os.getpid()} {elsewhere} 0 EOF\n"
    monkeypatch.setattr(Path, "read_text", lambda *_: line)
    assert lock.find_lock_holders(["a.service"], "user") == ()
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda *_: line.replace(f"{os.minor(there.st_dev) + 1:02x}:", f"{os.minor(there.st_dev):02x}:"),
    )
    assert [holder.pid for holder in lock.find_lock_holders(["a.service"], "user")] == [os.getpid()]


def test_a_disk_that_the_kernel_calls_by_another_number(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on btrfs and overlayfs. There, only the process that the file itself names counts."""
    with locker().take(["a.service"]) as locks:
        locks.write_holder("20261124-1200-abc", "alice")
        there = (home / "a.service").stat()
        for pid, run in ((os.getpid(), ["20261124-1200-abc"]), (1, [])):
            elsewhere = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev) + 1:02x}:{there.st_ino}"
            line = f"1: FLOCK  ADVISORY  WRITE {pid} {elsewhere} 0 EOF\n"
            with monkeypatch.context() as patched:
                patched.setattr(Path, "read_text", lambda *_, line=line: line)
                assert [holder.run for holder in lock.find_lock_holders(["a.service"], "user")] == run


def test_the_kernel_is_believed_and_not_the_file(home: Path) -> None:
    """The process in the line has exited, or never existed, so the line is ignored."""
    locker().take(["a.service"]).close()
    stale = {"pid": 1, "run": "20200101-0000-abc", "user": "bob", "since": 1.0}
    (home / "a.service").write_text(json.dumps(stale))
    assert lock.find_lock_holders(["a.service"], "user") == ()
    with other(home / "a.service") as pid, pytest.raises(Locked) as refused:
        locker().take(["a.service"])
    assert refused.value.exit_status == 75
    assert refused.value.message.startswith(f"cannot begin: a.service is locked by another run (PID {pid}, user ")
    assert "bob" not in refused.value.message
    assert "20200101" not in refused.value.hint
    locker().take(["a.service"]).close()
    assert (home / "a.service").read_text() == "", "whoever has it now is not who had it"


def test_a_refusal_lets_go_of_what_was_taken_before_it(home: Path) -> None:
    locker().take(["a.service", "b.service"]).close()
    with other(home / "b.service"), pytest.raises(Locked):
        locker().take(["b.service", "a.service"])
    assert free(home / "a.service")


def test_a_wait_names_the_holder_and_ends_with_it(home: Path) -> None:
    machine, told = FakeMachine(), list[Payload]()
    locker().take(["a.service"]).close()
    with other(home / "a.service") as pid:
        machine.processes[pid] = process(pid)
        with pytest.raises(Locked, match="waited 1min for it"):
            locker(machine, 60.0, told).take(["a.service"])
        assert machine.waits[0].processes == {machine.processes[pid].id}
    notice, *waits = told
    assert isinstance(notice, Notice)
    assert notice.text.startswith(f"a.service is locked by another run (PID {pid}, ")
    assert notice.text.endswith("waiting for it, at most 1min")
    reason = f"a.service is locked by another run (PID {pid})"
    every = ((0.0, 60.0), (15.0, 45.0), (30.0, 30.0), (45.0, 15.0))
    assert waits == [Waiting(name="lock", reason=reason, seconds=waited, left=left) for waited, left in every]


def test_the_lock_is_there_as_soon_as_it_is_let_go(home: Path) -> None:
    machine = FakeMachine()
    held = locker().take(["a.service"])
    machine.later = [(1005.0, lambda _: held.close())]
    locker(machine, 60.0).take(["a.service"]).close()
    assert machine.clock.time == 1005.0


def test_a_wait_can_be_interrupted(home: Path) -> None:
    def interrupted(machine: FakeMachine) -> None:
        raise Interrupted(15)

    machine = FakeMachine(later=[(1001.0, interrupted)])
    with locker().take(["a.service"]), pytest.raises(Interrupted):
        locker(machine, 60.0).take(["a.service"])


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused_and_left(home: Path, tmp_path: Path, kind: str) -> None:
    home.mkdir()
    path, victim = home / "a.service", tmp_path / "victim"
    victim.write_text("precious")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(NotBegun, match=r"cannot lock a\.service"):
        locker().take(["a.service"])
    assert os.path.lexists(path)
    assert victim.read_text() == "precious"


def test_a_folder_that_others_may_write_is_refused(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(NotBegun, match="may be written by others") as refused:
        locker().take(["a.service"])
    assert str(home) in refused.value.hint


def test_a_folder_that_is_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotBegun):
        locker().take(["a.service"])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_more_is_said_of_a_holder_than_is_known() -> None:
    assert str(LockHolder("a.service")) == "another run"
    assert str(LockHolder("a.service", 7)) == "another run (PID 7)"
    assert LockHolder("a.service", 7).data() == {"unit": "a.service", "pid": 7}
