"""SIGINT and SIGTERM end a run within a second in each kind of wait, and its record is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, least
from tests.machine.runs import write_runbook
from tests.machine.tree import PROJECT

BOOK = "/opt/cuts/hurry/book.yaml"
PORT = 18087
ACCEPTS_ONLY = (
    "use IO::Socket::INET; "
    f"my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1:{PORT}', Listen => 8, ReuseAddr => 1) or exit 4; sleep"
)
UNIT = f"""\
[Service]
ExecStart=/usr/bin/perl -e "{ACCEPTS_ONLY}"
"""

STATUS = {"SIGTERM": 143, "SIGINT": 130}
PROMISE = 2.0
"""Seconds within which a run must exit. One is promised, but the computer is shared."""


@pytest.fixture
def hurry(machine: Machine, unit: InstallUnit) -> Iterator[str]:
    """Start a service that accepts connections and never answers."""
    name = unit("hurry.service", UNIT)
    machine.run(["systemctl", "start", name])
    yield name
    machine.run(["rm", "-f", BOOK, "/run/hurry-begun"])


def run_steps(machine: Machine, steps: str, *words: str) -> dict[str, Any]:
    """Run steps under hurry.py with the given arguments, and return its result."""
    write_runbook(machine, f"unit: hurry\nport: 127.0.0.1:{PORT}\nsteps:\n{steps}", BOOK)
    argv = ["python3", "-m", "tests.machine.cuts.hurry", "hurry", *words]
    result: dict[str, Any] = json.loads(machine.run(argv, timeout=100, env={"PYTHONPATH": str(PROJECT)}).stdout)
    return result


def ended(machine: Machine, steps: str, number: str, event: str, step: str, *options: str) -> dict[str, Any]:
    """Run steps, send the signal at an event, assert that the run ends in time, and return its last event."""
    end: dict[str, Any] = {}

    def interrupt() -> float:
        machine.run(["rm", "-f", "/run/hurry-begun"])
        result = run_steps(machine, steps, number, event, step, *options)
        assert result["status"] == STATUS[number], result
        end.update(result["end"])
        assert (end["event"], end["status"], end["exit"]) == ("run-finished", "interrupted", STATUS[number]), end
        assert end["hint"].startswith(f"runbook resume {result['run']} goes on from there"), end
        assert end["reason"].startswith(f"interrupted by {number} at {step}"), end
        seconds: float = result["seconds"]
        return seconds

    assert least(interrupt, within=PROMISE) < PROMISE
    return end


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_probe_that_is_never_answered(machine: Machine, hurry: str, number: str) -> None:
    probe = f"{{http: {{url: 'http://127.0.0.1:{PORT}/', timeout: 50s}}}}"
    steps = f"  - wait-ready: {{timeout: 80s, probes: [{probe}]}}\n"
    end = ended(machine, steps, number, "step-waiting", "wait-ready")
    assert "hurry.service is active (running)" in end["now"]


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_probe_command_that_ignores_it(machine: Machine, hurry: str, number: str) -> None:
    probe = "{run: {run: \"trap '' TERM INT; touch /run/hurry-begun; sleep 4322\", timeout: 50s}}"
    steps = f"  - wait-ready: {{timeout: 80s, probes: [{probe}]}}\n"
    ended(machine, steps, number, "step-started", "wait-ready", "--begun", "/run/hurry-begun")
    assert machine.run(["pgrep", "-f", "sleep 4322"], check=False).returncode == 1


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_an_update_that_ignores_it(machine: Machine, hurry: str, number: str) -> None:
    command = "trap '' TERM INT; touch /run/hurry-begun; sleep 4323"
    steps = f"  - update: {{run: \"{command}\", version: echo 1.0, to: '2.0'}}\n"
    end = ended(machine, steps, number, "step-acting", "update", "--begun", "/run/hurry-begun")
    assert "which was stopped half way" in end["reason"]
    assert machine.run(["pgrep", "-f", "sleep 4323"], check=False).returncode == 1


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_job_request_on_a_bus_that_does_not_answer(machine: Machine, hurry: str, number: str) -> None:
    end = ended(machine, "  - restart\n", number, "step-acting", "restart", "--freeze")
    assert end["now"].startswith("what runs now is not known: cannot read hurry.service"), end
    resumed(machine)


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_wait_on_a_bus_that_does_not_answer(machine: Machine, hurry: str, number: str) -> None:
    steps = "  - wait-ready: {healthy-for: 2s, timeout: 80s}\n"
    end = ended(machine, steps, number, "step-waiting", "wait-ready", "--freeze")
    assert end["now"].startswith("what runs now is not known: cannot read hurry.service"), end
    resumed(machine)


GENERATOR = """\
#!/bin/sh
touch /run/hurry-begun
sleep 11
"""


def test_a_job_is_requested_again_if_systemd_was_too_busy(machine: Machine, hurry: str) -> None:
    # systemd does not answer while the generators run, and a call times out after ten seconds.
    generator = "/etc/systemd/system-generators/hurry"
    before = machine.show(hurry, "InvocationID")
    machine.write(generator, GENERATOR, 0o755)
    try:
        result = run_steps(machine, "  - restart\n", "none", "step-acting", "restart", "--busy", "/run/hurry-begun")
    finally:
        machine.run(["rm", "-f", generator])
    assert (result["end"]["status"], result["status"]) == ("changed", 0), result
    assert machine.show(hurry, "InvocationID") != before


def resumed(machine: Machine) -> None:
    """Resume the run when the bus answers again, and assert its success."""
    done = machine.run(["runbook", "resume", "--output", "json"], check=False)
    assert done.returncode == 0, done.stdout
