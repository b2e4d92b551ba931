"""Runs `runbook doctor` in a machine, and carries out what it prints, as an operator would."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.machine.machine import Machine


def doctor(machine: Machine, *argv: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
    return machine.run(["runbook", "doctor", *argv], check=False, user=user)


def diagnosed(machine: Machine, unit: str, *argv: str, user: str | None = None) -> dict[str, Any]:
    """Return the diagnosis of a unit, with the exit status."""
    done = doctor(machine, unit, "--output", "json", *argv, user=user)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "exit": done.returncode}


def look(machine: Machine, user: str | None = None) -> dict[str, Any]:
    """Return the diagnosis of the whole machine, with the exit status."""
    done = doctor(machine, "--output", "json", user=user)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["seconds"] < 5
    return {**found, "exit": done.returncode}


def causes(found: dict[str, Any]) -> str:
    return "; ".join(cause["sentence"] for cause in found["causes"])


def carry_out(machine: Machine, commands: list[str], user: str | None = None) -> None:
    """Run the commands at once, as an operator does who pastes them."""
    machine.run(["sh", "-ec", "\n".join(commands)], user=user)


def paste(machine: Machine, found: dict[str, Any]) -> None:
    """Write the drop-in files as the commands do that are printed, and make systemd read them; start nothing."""
    for drop_in in found["drop-ins"]:
        write = [command for command in drop_in["commands"] if command.startswith(("mkdir", "printf"))]
        carry_out(machine, write)
        assert machine.read(drop_in["path"]) == drop_in["text"]
    machine.run(["systemctl", "daemon-reload"])
