"""A run with an error of the program itself, at whatever point: it is rolled back, and leaves nothing behind."""

from __future__ import annotations

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine
from tests.machine.runs import Run, parsed, runbook, unit_file, write_runbook
from tests.machine.tree import PROJECT, VENV

BOOK = """
    unit: web
    steps:
      - update: {run: "echo ${{ to }} >/run/version", version: cat /run/version, to: "2.0", stop-first: STOP}
      - start
      - run: {id: later, run: 'true'}
      - wait-ready: {healthy-for: 0.2s}
    always:
      - run: {id: last, run: touch /run/last}
    rollback: auto
"""


def broken(machine: Machine, *words: str) -> Run:
    """Apply the runbook with a program in which the given call fails."""
    argv = [f"{VENV}/bin/python", "-m", "tests.machine.bounds.broken", *words, "apply", "/root/test.yaml"]
    done = machine.run([*argv, "--output", "json"], check=False, env={"PYTHONPATH": str(PROJECT)}, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


POINTS = [
    ("start", "check", "1"),
    ("start", "apply", "1"),
    ("start", "check", "2"),
    ("run", "apply", "1"),
    ("run", "check", "2"),
    ("wait-ready", "check", "1"),
    ("update", "check", "3"),
]


@pytest.mark.parametrize("stop_first", ["true", "false"])
@pytest.mark.parametrize("point", POINTS, ids=" ".join)
def test_it_is_rolled_back(machine: Machine, service: StartService, point: tuple[str, ...], stop_first: str) -> None:
    machine.write("/run/version", "1.0\n")
    service("web.service", unit_file("/usr/bin/sleep infinity", Unit_StartLimitIntervalSec="0"))
    if stop_first == "false":
        machine.run(["systemctl", "stop", "web"])
    write_runbook(machine, BOOK.replace("STOP", stop_first))
    run = broken(machine, *point)
    assert (run.last["event"], run.last["status"], run.exit) == ("run-finished", "rolled-back", 4), run.last
    assert "internal error (MemoryError" in run.last["reason"]
    assert "Traceback" not in run.stderr
    assert machine.read("/run/version") == "1.0\n"
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "active"
    assert not machine.run(["systemctl", "list-units", "--plain", "--no-legend", "runbook-*"]).stdout
    shown = machine.run(["runbook", "show", run.last["run"]]).stdout
    assert "internal error (MemoryError" in " ".join(shown.split())
    assert machine.run(["rm", "/run/last", "/run/version"], check=False).returncode == 0
    # Nothing is held any more, and nothing is to be resumed.
    again = runbook(machine, "apply", "unit: web\nsteps: [restart]\n")
    assert (again.exit, again.last["status"]) == (0, "changed")
    assert machine.run(["runbook", "resume"], check=False).returncode == 5


def test_without_a_rollback_it_fails(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    write_runbook(machine, "unit: web\nsteps: [restart, wait-ready: {healthy-for: 0}]\n")
    run = broken(machine, "wait-ready", "check", "1")
    assert (run.exit, run.last["status"], run.last["step"]) == (1, "failed", "wait-ready")
    assert run.last["hint"].startswith("this is an error of runbook itself: report it with")
    assert run.step("wait-ready")["evidence"]["traceback"][0] == "Traceback (most recent call last):"
