"""SIGINT and SIGTERM end a run within a second, whatever it waits for, and close its record."""

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
SAYS_NOTHING = (
    "use IO::Socket::INET; "
    f"my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1:{PORT}', Listen => 8, ReuseAddr => 1) or exit 4; sleep"
)
UNIT = f"""\
[Service]
ExecStart=/usr/bin/perl -e "{SAYS_NOTHING}"
"""

STATUS = {"SIGTERM": 143, "SIGINT": 130}
PROMISE = 2.0
"""Seconds until a run is gone. One is what is promised; the machine that tests run on is shared."""


@pytest.fixture
def hurry(machine: Machine, unit: InstallUnit) -> Iterator[str]:
    """Give a service that takes connections and never says a word."""
    name = unit("hurry.service", UNIT)
    machine.run(["systemctl", "start", name])
    yield name
    machine.run(["rm", "-f", BOOK, "/run/hurry-begun"])


def carried_out(machine: Machine, steps: str, *words: str) -> dict[str, Any]:
    """Carry steps out, with these words for hurry.py, and give what it tells."""
    write_runbook(machine, f"unit: hurry\nport: 127.0.0.1:{PORT}\nsteps:\n{steps}", BOOK)
    argv = ["python3", "-m", "tests.machine.cuts.hurry", "hurry", *words]
    told: dict[str, Any] = json.loads(machine.run(argv, timeout=100, env={"PYTHONPATH": str(PROJECT)}).stdout)
    return told


def ended(machine: Machine, steps: str, number: str, event: str, step: str, *options: str) -> dict[str, Any]:
    """Carry steps out, send the signal at an event, see that the run ends in time, and give its last words."""
    end: dict[str, Any] = {}

    def interrupt() -> float:
        machine.run(["rm", "-f", "/run/hurry-begun"])
        told = carried_out(machine, steps, number, event, step, *options)
        assert told["status"] == STATUS[number], told
        end.update(told["end"])
        assert (end["event"], end["status"], end["exit"]) == ("run-finished", "interrupted", STATUS[number]), end
        assert end["hint"].startswith(f"runbook resume {told['run']} goes on from there"), end
        assert end["reason"].startswith(f"interrupted by {number} at {step}"), end
        seconds: float = told["seconds"]
        return seconds

    assert least(interrupt, within=PROMISE) < PROMISE
    return end


@pytest.mark.parametrize("number", STATUS)
def test_at_a_probe_that_is_never_answered(machine: Machine, hurry: str, number: str) -> None:
    probe = f"{{http: {{url: 'http://127.0.0.1:{PORT}/', timeout: 50s}}}}"
    steps = f"  - wait-ready: {{timeout: 80s, probes: [{probe}]}}\n"
    end = ended(machine, steps, number, "step-waiting", "wait-ready")
    assert "hurry.service is active (running)" in end["now"]


@pytest.mark.parametrize("number", STATUS)
def test_at_a_probe_that_is_a_command_which_ignores_it(machine: Machine, hurry: str, number: str) -> None:
    probe = "{run: {run: \"trap '' TERM INT; touch /run/hurry-begun; sleep 4322\", timeout: 50s}}"
    steps = f"  - wait-ready: {{timeout: 80s, probes: [{probe}]}}\n"
    ended(machine, steps, number, "step-started", "wait-ready", "--begun", "/run/hurry-begun")
    assert machine.run(["pgrep", "-f", "sleep 4322"], check=False).returncode == 1


@pytest.mark.parametrize("number", STATUS)
def test_in_an_update_that_ignores_it(machine: Machine, hurry: str, number: str) -> None:
    command = "trap '' TERM INT; touch /run/hurry-begun; sleep 4323"
    steps = f"  - update: {{run: \"{command}\", version: echo 1.0, to: '2.0'}}\n"
    end = ended(machine, steps, number, "step-acting", "update", "--begun", "/run/hurry-begun")
    assert "which was stopped half way" in end["reason"]
    assert machine.run(["pgrep", "-f", "sleep 4323"], check=False).returncode == 1


@pytest.mark.parametrize("number", STATUS)
def test_before_a_job_is_asked_for_and_the_bus_does_not_answer(machine: Machine, hurry: str, number: str) -> None:
    end = ended(machine, "  - restart\n", number, "step-acting", "restart", "--freeze")
    assert end["now"].startswith("what runs now is not known: cannot read hurry.service"), end
    resumed(machine)


@pytest.mark.parametrize("number", STATUS)
def test_while_a_unit_is_looked_at_and_the_bus_does_not_answer(machine: Machine, hurry: str, number: str) -> None:
    steps = "  - wait-ready: {healthy-for: 2s, timeout: 80s}\n"
    end = ended(machine, steps, number, "step-waiting", "wait-ready", "--freeze")
    assert end["now"].startswith("what runs now is not known: cannot read hurry.service"), end
    resumed(machine)


GENERATOR = """\
#!/bin/sh
touch /run/hurry-begun
sleep 11
"""


def test_a_job_that_systemd_was_too_busy_to_hear_of_is_asked_for(machine: Machine, hurry: str) -> None:
    # It answers nobody while the generators run; a call is given up after ten seconds.
    generator = "/etc/systemd/system-generators/hurry"
    before = machine.show(hurry, "InvocationID")
    machine.write(generator, GENERATOR, 0o755)
    try:
        told = carried_out(machine, "  - restart\n", "none", "step-acting", "restart", "--busy", "/run/hurry-begun")
    finally:
        machine.run(["rm", "-f", generator])
    assert (told["end"]["status"], told["status"]) == ("changed", 0), told
    assert machine.show(hurry, "InvocationID") != before


def resumed(machine: Machine) -> None:
    """See that the run is gone on with, once the bus speaks again, and ends well."""
    done = machine.run(["runbook", "resume", "--output", "json"], check=False)
    assert done.returncode == 0, done.stdout
