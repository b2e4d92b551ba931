"""The ancestors of a process, and where their line ends."""

from __future__ import annotations

from dataclasses import replace

from runbook.host.holders import Process
from runbook.host.kernel.ancestry import MAX_ANCESTORS, find_ancestors, is_typed_into
from runbook.model import ProcessId
from tests.unit.fake_machine import process


def ancestors(*line: Process) -> list[int]:
    """Find the ancestors of the first process among the others."""
    return [found.pid for found in find_ancestors({one.pid: one for one in line}.get, line[0])]


def test_parents_nearest_first_without_the_first_process() -> None:
    assert ancestors(process(30, ppid=20), process(20, ppid=10), process(10, ppid=1), process(1, ppid=0)) == [20, 10]


def test_a_parent_that_is_younger_has_a_reused_pid() -> None:
    young = replace(process(20, ppid=10), id=ProcessId(20, 301))
    assert ancestors(process(30, ppid=20), young, process(10)) == []


def test_it_ends_at_a_manager_and_at_a_login_server() -> None:
    manager = process(20, cgroup="/user.slice/user-1000.slice/user@1000.service/init.scope", ppid=1)
    assert ancestors(process(30, ppid=20), manager) == []
    sshd = process(20, name="sshd", exe="/usr/sbin/sshd", ppid=1)
    assert ancestors(process(40, ppid=30), process(30, ppid=20), sshd) == [30]


def test_a_long_line_is_cut() -> None:
    line = [process(pid, ppid=pid - 1) for pid in range(500, 400, -1)]
    assert len(ancestors(*line)) == MAX_ANCESTORS


def test_a_shell_is_typed_into_only_in_a_terminal() -> None:
    shell = process(30, name="bash", command=("-bash",), has_terminal=True)
    assert is_typed_into(shell)
    assert not is_typed_into(replace(shell, has_terminal=False)), "a service may feed it a script"
    assert not is_typed_into(replace(shell, command=("bash", "-c", "gw")))
    assert not is_typed_into(replace(shell, name="python3"))
