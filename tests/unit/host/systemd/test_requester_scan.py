"""The processes that are found as requesters at the moment in which a job is announced."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from runbook.host.holders import Process
from runbook.host.kernel import processes
from runbook.host.requesters import JobRequest
from runbook.host.systemd import requester_scan as scan_module
from runbook.host.systemd.requester_scan import BATCH_SECONDS, MAX_REQUESTER_AGE, RequesterScan, UnitNames
from tests.unit.fake_machine import process

GW = UnitNames(frozenset({"gw.service"}))
NOW = 1000.0


class FakeProc:
    """A /proc of data. `slow` is how many seconds it takes to read a name."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self.logins: dict[int, str] = {}
        self.looked_at = 0
        self.judged: list[int] = []
        self.slow = 0.0
        self.time = NOW

    def add(self, pid: int, line: str, **changes: Any) -> None:
        command = tuple(shlex.split(line))
        name = changes.pop("name", command[0].rpartition("/")[2])
        facts = {"cgroup": "/user.slice/user-0.slice/session-3.scope", "exe": f"/usr/bin/{name}", "started": NOW - 0.1}
        self.processes[pid] = replace(process(pid, name=name, command=command), **{**facts, **changes})

    def list_pids(self) -> Iterable[int]:
        return list(self.processes)

    def read_name(self, pid: int) -> str:
        self.looked_at += 1
        self.time += self.slow
        return self.processes[pid].name

    def read_process_of_user(self, pid: int, uid: int, may: Callable[[Process], bool]) -> Process | None:
        process = self.processes[pid]
        if process.uid != uid or not may(replace(process, command=())):
            return None
        self.judged.append(pid)
        return process

    def read_brief(self, pid: int) -> Process | None:
        return self.processes.get(pid)

    def read_login_user(self, pid: int) -> str:
        return self.logins.get(pid, "")

    def uptime(self) -> float:
        return self.time


@pytest.fixture
def proc() -> FakeProc:
    return FakeProc()


def look(proc: FakeProc, *, began: bool = True, of_user: bool = False, spelled: UnitNames = GW) -> JobRequest:
    callers = RequesterScan(proc, of_user=of_user)
    callers.scan("gw", 7, spelled, began=began)
    [asked] = callers.requests("gw")
    return asked


def test_an_administrator(proc: FakeProc) -> None:
    proc.add(50, "-bash", name="bash")
    proc.add(70, "systemctl restart gw", ppid=50)
    assert str(look(proc)) == "PID 70 `systemctl restart gw` as root in session-3.scope"


def test_a_service(proc: FakeProc) -> None:
    proc.add(60, "/usr/bin/monit -c /etc/monitrc", cgroup="/system.slice/monit.service")
    proc.add(65, "sh -c 'systemctl restart gw'", ppid=60, cgroup="/system.slice/monit.service")
    proc.add(70, "/bin/systemctl restart gw", ppid=65, cgroup="/system.slice/monit.service")
    assert str(look(proc)).endswith("run by PID 60 (monit) as root in monit.service")


def test_behind_sudo(proc: FakeProc) -> None:
    """The user of the shell above sudo is named: no process can forge its parent's user."""
    proc.add(40, "sshd: anna@pts/0", name="sshd")
    proc.add(50, "-bash", name="bash", user="anna", uid=1000, ppid=40)
    proc.add(60, "sudo systemctl restart gw", ppid=50)
    proc.add(70, "systemctl restart gw", ppid=60)
    assert str(look(proc)) == "PID 70 `systemctl restart gw` as root for anna in session-3.scope"


def test_the_login_comes_before_the_shell(proc: FakeProc) -> None:
    proc.add(50, "-bash", name="bash", user="deploy", uid=1001)
    proc.add(70, "systemctl restart gw", ppid=50)
    proc.logins[70] = "anna"
    assert "as root for anna in" in str(look(proc))
    proc.logins[70] = "root"
    assert "as root for deploy in" in str(look(proc))


def test_a_line_of_parents_ends_at_a_manager_and_at_a_pid_that_was_used_again(proc: FakeProc) -> None:
    proc.add(30, "/lib/systemd/systemd --user", name="systemd", cgroup="/user.slice/user@0.service/init.scope")
    proc.add(70, "systemctl restart gw", ppid=30)
    assert "run by" not in str(look(proc))
    proc.add(90, "/usr/bin/young", name="young")
    proc.add(70, "systemctl restart gw", ppid=90)
    assert "run by" not in str(look(proc))


def test_one_that_has_exited_was_found_for_another_unit_just_before(proc: FakeProc) -> None:
    """`systemctl stop gw web` exits when both have stopped, which may be before the second job is looked into."""
    callers = RequesterScan(proc, of_user=False)
    web, other = (UnitNames(frozenset({f"{name}.service"})) for name in ("web", "other"))
    proc.add(70, "systemctl stop gw web")
    callers.scan("gw", 7, GW, began=True)
    del proc.processes[70]
    callers.scan("other", 8, other, began=True)
    callers.scan("web", 9, web, began=True)
    callers.scan("web", 10, web, began=True)  # The same process requests no second job of a unit.
    assert [one.requesters for one in callers.requests("other")] == [()]
    first, second = callers.requests("web")
    assert (str(first), second.requesters) == (str(callers.requests("gw")[0]), ())
    proc.time += BATCH_SECONDS + 0.1
    callers.scan("late", 11, web, began=True)
    assert callers.requests("late")[0].requesters == ()


def test_two_are_both_named_and_three_are_not(proc: FakeProc) -> None:
    proc.add(70, "systemctl restart gw")
    proc.add(71, "systemctl stop gw")
    assert [requester.pid for requester in look(proc).requesters] == [71, 70]
    proc.add(72, "systemctl start gw")
    assert look(proc).requesters == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": 1000, "user": "anna"},  # it may wait for polkit's password
        {"exe": "/home/anna/systemctl-of-mine"},
        {"dead": True},
        {"started": NOW - MAX_REQUESTER_AGE - 1},  # it waits for a job that it requested long ago
        {"pid_namespace": 4026532000},
        {"cgroup": "/machine.slice/systemd-nspawn@box.service/payload/system.slice/x.service"},
        {"name": "python3"},
    ],
)
def test_processes_that_did_not_request_the_job_or_perhaps_did_not(proc: FakeProc, changes: dict[str, Any]) -> None:
    proc.add(os.getpid(), "runbook apply x", pid_namespace=4026531836)
    proc.add(70, "systemctl restart gw", **changes)
    assert look(proc).requesters == ()
    assert proc.judged == []  # Its command line was not read: it may be made to take long.


@pytest.mark.parametrize(("uid", "named"), [(0, False), (1000, True)])
def test_a_program_whose_path_cannot_be_read(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch, uid: int, named: bool
) -> None:
    """Root can read every program's path unless it is too long, and systemctl's own path is not."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    proc.add(70, "systemctl restart gw", exe="")
    assert bool(look(proc).requesters) == named


def test_the_requester_of_a_job_that_was_not_announced_may_be_old(proc: FakeProc) -> None:
    proc.add(70, "systemctl stop gw", started=NOW - 300)
    assert [requester.pid for requester in look(proc, began=False).requesters] == [70]


def test_a_program_that_an_upgrade_has_replaced(proc: FakeProc) -> None:
    proc.add(70, "systemctl restart gw", exe="/usr/bin/systemctl (deleted)")
    assert look(proc).requesters


def test_a_child_between_its_fork_and_its_exec_does_not_count(proc: FakeProc) -> None:
    proc.add(70, "systemctl restart gw")
    proc.add(71, "systemctl restart gw", ppid=70)
    assert [requester.pid for requester in look(proc).requesters] == [70]


def test_the_requester_of_one_job_is_not_that_of_the_next(proc: FakeProc) -> None:
    """The first systemctl is still there, because it is only now notified that its job was canceled."""
    callers = RequesterScan(proc, of_user=False)
    proc.add(70, "systemctl restart gw")
    callers.scan("gw", 7, GW, began=True)
    proc.add(71, "systemctl stop gw")
    callers.scan("gw", 8, GW, began=True)
    assert [[requester.pid for requester in one.requesters] for one in callers.requests("gw")] == [[70], [71]]


def test_a_command_of_the_run_and_a_child_of_the_program(proc: FakeProc) -> None:
    callers = RequesterScan(proc, of_user=False)
    callers.own_units.add("runbook-r1-run.service")
    proc.add(70, "systemctl restart gw", cgroup="/system.slice/runbook-r1-run.service")
    callers.scan("gw", 7, GW, began=True)
    assert callers.requests("gw")[-1].is_own
    del proc.processes[70]
    proc.add(os.getpid(), "runbook apply x")
    proc.add(os.getpid() + 1, "systemctl restart gw", ppid=os.getpid())
    callers.scan("gw", 8, GW, began=True)
    assert callers.requests("gw")[-1].is_own
    proc.add(70, "systemctl restart gw", cgroup="/system.slice/runbook-r2-run.service")
    callers.scan("gw", 9, GW, began=True)
    assert not callers.requests("gw")[-1].is_own


def test_a_scan_ends_in_time_and_then_names_no_process(proc: FakeProc) -> None:
    for pid in range(10, 1010):
        proc.add(pid, "/usr/bin/worker")
    proc.add(2000, "systemctl restart gw")
    proc.slow = 0.001
    assert look(proc).requesters == ()
    assert proc.looked_at < 300
    proc.slow = 0.0
    assert look(proc).requesters


def jobs_every(seconds: float, proc: FakeProc, callers: RequesterScan, *, count: int) -> float:
    """Announce jobs at a steady pace; return the share of the time that the scans took."""
    began, spent = proc.time, 0.0
    for job in range(count):
        at = proc.time
        callers.scan("gw", job, GW, began=True)
        spent += proc.time - at
        proc.time = max(proc.time, at + seconds)
    return spent / (proc.time - began)


def test_scans_take_a_tenth_of_the_time_at_most(proc: FakeProc) -> None:
    """A unit in a restart loop on a machine of 15,000 processes: ten jobs a second, and 0.15 s for each scan."""
    for pid in range(10, 160):
        proc.add(pid, "/usr/bin/worker")
    proc.slow = 0.001
    callers = RequesterScan(proc, of_user=False)
    assert jobs_every(0.1, proc, callers, count=1000) < 0.11
    assert proc.looked_at > 150 * 30
    assert all(one.requesters == () for one in callers.requests("gw"))
    assert callers.has_scanned("gw", 999)


def test_after_a_quiet_time_a_burst_of_jobs_is_scanned(proc: FakeProc) -> None:
    for pid in range(10, 60):
        proc.add(pid, "/usr/bin/worker")
    proc.slow = 0.001
    callers = RequesterScan(proc, of_user=False)
    for unit in ("web", "db", "gw"):
        proc.add(70, "systemctl restart gw", started=proc.time)
        callers.scan(unit, 1, GW, began=True)
        assert callers.requests(unit)[0].requesters


def test_a_process_that_may_have_requested_a_job_without_a_scan_does_not_count_for_the_next(proc: FakeProc) -> None:
    for pid in range(100, 400):
        proc.add(pid, "/usr/bin/worker")
    callers = RequesterScan(proc, of_user=False)
    proc.slow = 0.001
    callers.scan("gw", 1, GW, began=True)
    proc.slow = 0.0
    proc.add(70, "systemctl restart gw", started=proc.time - 0.01)
    callers.scan("gw", 2, GW, began=True)  # No scan: too soon.
    proc.time += 5
    callers.scan("gw", 3, GW, began=True)
    assert [one.requesters for one in callers.requests("gw")] == [(), (), ()]
    proc.add(71, "systemctl stop gw", started=proc.time)
    callers.scan("gw", 4, GW, began=True)
    assert [requester.pid for requester in callers.requests("gw")[-1].requesters] == [71]


def test_only_the_latest_jobs_are_kept(proc: FakeProc) -> None:
    callers = RequesterScan(proc, of_user=False)
    for job in range(100):
        callers.scan("gw", job, GW, began=True)
    assert [one.job for one in callers.requests("gw")] == [*range(100 - scan_module.MAX_JOBS_PER_UNIT, 100)]
    assert callers.has_scanned("gw", 99)
    callers.forget("gw")
    assert not callers.has_scanned("gw", 99)


def test_the_real_proc() -> None:
    """Read names and login users from the machine's own /proc."""
    me = processes.read_process(os.getpid())
    assert me is not None
    assert processes.read_name(os.getpid()) == me.name
    assert processes.read_name(2**22 + 1) == processes.read_login_user(2**22 + 1) == ""
    assert isinstance(processes.read_login_user(os.getpid()), str)
    RequesterScan(processes, of_user=False).scan("gw", 1, UnitNames(frozenset({"no-such-unit.service"})), began=True)


def test_a_real_process_is_read_with_bounded_work() -> None:
    """Another user's process is not read, and a command line is read only after `may` has returned True."""
    seen: list[Process] = []

    def no(one: Process) -> bool:
        seen.append(one)
        return False

    with subprocess.Popen(["sleep", "600", *["0.1"] * 20]) as short, subprocess.Popen(["sleep", "6" * 70000]) as long:
        try:
            assert processes.read_process_of_user(short.pid, os.geteuid() + 1, no) is None
            assert processes.read_process_of_user(short.pid, os.geteuid(), no) is None
            assert [one.command for one in seen] == [()]
            known = processes.read_process_of_user(short.pid, os.geteuid(), lambda _one: True)
            assert known is not None
            assert (known.command[:3], known.environment) == (("sleep", "600", "0.1"), ())
            too_long = processes.read_brief(long.pid)
            assert too_long is not None
            assert too_long.command == ()
        finally:
            short.kill()
            long.kill()
    assert processes.read_process_of_user(short.pid, os.geteuid(), lambda _one: True) is None


def test_a_users_manager(proc: FakeProc) -> None:
    """Only the user can make requests there, and polkit does not delay them."""
    mine, other = os.geteuid(), os.geteuid() + 1
    proc.add(70, "systemctl --user restart gw", uid=mine, user="anna")
    proc.add(71, "systemctl restart gw", uid=mine, user="anna")
    proc.add(72, "systemctl --user restart gw", uid=other, user="otto")
    assert [requester.pid for requester in look(proc, of_user=True).requesters] == [70]
