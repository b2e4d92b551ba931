"""Journal entries count even if journald has not read them yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, meanwhile, script, wait
from tests.machine.runs import unit_file


@pytest.fixture
def busy(machine: Machine) -> Iterator[str]:
    """Stop journald with SIGSTOP, as if the machine were too busy for it, and return its PID."""
    pid = machine.show("systemd-journald.service", "MainPID")["MainPID"]
    machine.run(["kill", "-STOP", pid])
    yield pid
    machine.run(["kill", "-CONT", pid])


def let_continue(machine: Machine, pid: str) -> None:
    """Wait until the program waits for journald, and let journald continue."""
    waits = ["pgrep", "-f", "journalctl --sync"]
    until(lambda: not machine.run(waits, check=False).returncode, "the program to wait for journald")
    machine.run(["kill", "-CONT", pid])


def test_the_last_entries_of_a_unit_are_waited_for(machine: Machine, unit: InstallUnit, busy: str) -> None:
    unit("web.service", unit_file(script("echo no such word >&2; exit 1")))
    text = book("web", "restart", wait())
    run = meanwhile(machine, text, lambda _event: let_continue(machine, busy), event="step-started", id="wait-ready")
    assert run.step("wait-ready")["verdict"] == "unit-failed", run.last
    assert run.step("wait-ready")["evidence"]["journal"] == ["no such word"]


def test_a_start_in_the_unread_journal_is_counted(machine: Machine, unit: InstallUnit, busy: str) -> None:
    """If a start were missed, one start too many would follow, and the service would be down."""
    limit = {"Unit_StartLimitBurst": "2", "Unit_StartLimitIntervalSec": "600"}
    unit("limit.service", unit_file("/usr/bin/sleep infinity", **limit))
    text = book("limit", "restart", "restart", "restart")
    run = meanwhile(machine, text, lambda _event: let_continue(machine, busy), event="step-started", id="restart-3")
    assert [verdict for _, _, verdict in run.verdicts] == ["job-done", "job-done", "start-limit-hit"], run.last
    assert machine.show("limit.service", "ActiveState")["ActiveState"] == "active"
