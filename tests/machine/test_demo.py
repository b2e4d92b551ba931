"""The demo shows the promised result, and fails without it."""

from __future__ import annotations

import subprocess
import sys

from tests.machine import demo
from tests.machine.incident import NEW, Incident, loop
from tests.machine.machine import Machine
from tests.machine.tree import CHECKOUT


def test_the_demo_proves_its_end_within_80_columns() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.machine.demo"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert "\x1b" not in done.stdout
    for words in ("active (running)", "remediated:", f'"version": "{NEW}"', "Proved:"):
        assert words in done.stdout


def test_an_incident_that_continues_is_not_proved_fixed(machine: Machine, incident: Incident) -> None:
    loop(machine)
    wrong = "\n".join(demo.disproved(machine, incident))
    assert f"PID {incident.orphan} still runs" in wrong
    assert "is held by" in wrong
    assert "the gateway answers" in wrong
