"""Runs that are cut short after one of their events: killed, interrupted, without their bus, without power.

This is a sample of the events at which `make cuts` cuts. It is always the same, so only a change of the code fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.systemd.transient import STOP_GRACE
from tests.machine.cuts.cuts import (
    DISTURBANCES,
    ENDS,
    Lane,
    Order,
    at_once,
    judge,
    lanes,
    power_cut,
    prepare,
    several,
)
from tests.machine.machine import Machine
from tests.machine.runs import write_runbook

SEED = 1


@pytest.fixture(scope="module")
def open_lanes(machine: Machine) -> Iterator[list[Lane]]:
    """Install the services in the machine of this module, and start their lanes."""
    prepare(machine)
    with lanes(machine) as made:
        yield made


def sample(of: str, sizes: dict[str, int], *, how: str = "", later: bool = False) -> list[Order]:
    """Return random events of each runbook, and with `later` random moments after them."""
    chance = random.Random(f"{SEED} {of}")
    return [
        {"book": book, "how": how, "at": at, "later": chance.uniform(0.01, 0.4) if later else 0.0}
        for book, size in sizes.items()
        for at in sorted(chance.sample(range(1, ENDS[book]["events"]), size))
    ]


def test_a_killed_run_has_the_same_outcome_after_a_resume(open_lanes: list[Lane], suite: str) -> None:
    # Two are always cut: right after the update is announced, and while its command runs.
    orders: list[Order] = [{"book": book, "how": "kill", "at": at} for book in ENDS for at in (5, 6)]
    orders += sample(f"kill {suite}", {"fixes": 3, "rolls-back": 3}, how="kill")
    orders += sample(f"later {suite}", {"fixes": 2, "rolls-back": 2}, how="kill", later=True)
    for facts in several(open_lanes, orders):
        assert judge(facts) == [], facts


@pytest.mark.parametrize("how", ["term", "int"])
def test_an_interrupted_run_ends_within_a_second_and_has_the_same_outcome(
    open_lanes: list[Lane], suite: str, how: str
) -> None:
    took = []
    for facts in several(open_lanes, sample(f"{how} {suite}", {"fixes": 2, "rolls-back": 2}, how=how)):
        assert judge(facts) == [], facts
        last, status = facts["last"], {"term": 143, "int": 130}[how]
        if last["status"] != "interrupted":
            continue  # The signal came after the last step.
        assert (last["exit"], facts["exits"][0]) == (status, status)
        assert last["hint"].startswith(f"runbook resume {facts['run']} goes on from there"), last
        assert facts["lane"] in last["now"], last
        took.append(facts["ended-in"])
    # One second is promised. The computer is shared, also by these runs, so only the fastest must come near that. None
    # may wait for a command that ignores the signal, which would take STOP_GRACE.
    assert not took or (min(took) < 2.0 and max(took) < STOP_GRACE), took


@pytest.mark.parametrize("what", DISTURBANCES)
def test_a_run_continues_when_its_bus_is_interrupted(
    open_lanes: list[Lane], machine: Machine, suite: str, what: str
) -> None:
    orders = sample(f"{what} {suite}", {"fixes": 2, "rolls-back": 2})
    for facts in at_once(open_lanes, orders, lambda: machine.popen(DISTURBANCES[what])):
        assert judge(facts) == [], facts
        assert len(facts["exits"]) == 1


@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "not-enabled"])
def test_a_run_can_be_resumed_after_a_power_cut(suite: str, tmp_path: Path, enabled: bool) -> None:
    # One is always cut near the end, when all steps that start the service are done.
    orders: list[Order] = [{"book": book, "how": "", "at": ENDS[book]["events"] - 6} for book in ENDS]
    orders += sample(f"power {suite} {enabled}", {"fixes": 3, "rolls-back": 3})
    for facts in power_cut(suite, tmp_path, orders, enabled=enabled):
        assert judge(facts) == [], facts


LOSES_ITS_TERMINAL = """
import os, pathlib, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("runbook", ["runbook", "apply", sys.argv[1]])
printed = b""
while not pathlib.Path("/run/lost-begun").exists():
    printed += os.read(terminal, 4096)
os.close(terminal)
pathlib.Path("/run/lost-go").touch()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_run_continues_when_its_terminal_is_lost(machine: Machine) -> None:
    waits = "touch /run/lost-begun; until test -e /run/lost-go; do sleep 0.05; done"
    path = write_runbook(machine, f"steps:\n  - run: {{run: '{waits}'}}\n  - run: {{run: touch /run/lost-done}}\n")
    try:
        done = machine.run(["python3", "-c", LOSES_ITS_TERMINAL, path], timeout=40)
        assert done.stdout.strip() == "0"
        machine.run(["test", "-e", "/run/lost-done"])
    finally:
        machine.run(["sh", "-c", "rm -f /run/lost-*"])


PRESSES_CTRL_C_TWICE = """
import pathlib, signal, subprocess, sys, time
run = subprocess.Popen(["runbook", "apply", sys.argv[1]])
while not pathlib.Path("/run/twice-begun").exists():
    time.sleep(0.01)
run.send_signal(signal.SIGINT)
run.send_signal(signal.SIGINT)
sys.exit(run.wait())
"""


def test_a_second_ctrl_c_changes_nothing(machine: Machine) -> None:
    path = write_runbook(machine, "steps: [run: {run: touch /run/twice-begun; sleep 4321}]\n")
    try:
        done = machine.run(["python3", "-c", PRESSES_CTRL_C_TWICE, path], check=False, timeout=40)
        assert done.returncode == 130, done
        assert "interrupted by SIGINT at run, which was stopped half way" in done.stdout
        assert "next  runbook resume" in done.stdout
        assert machine.run(["pgrep", "-f", "sleep 4321"], check=False).returncode == 1
    finally:
        machine.run(["rm", "-f", "/run/twice-begun"])
