"""Short runbooks on one unit, and acts of another requester during a run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from tests.machine.machine import Machine
from tests.machine.runs import RUNBOOK, Run, parsed, write_runbook

LONG = 60.0
"""Seconds that a wait may take. An early verdict comes long before that."""


REQUESTER = r"something else( \(PID \d+ .*\))?"
"""A requester that exits quickly is named only if the scan finds it in time."""


def book(unit: str, *steps: str, **top: object) -> str:
    """Return a runbook on one unit, with its steps as YAML of one line each."""
    named = "".join(f"{key}: {value}\n" for key, value in {"unit": unit, **top}.items())
    return named + "steps:\n" + "".join(f"  - {step}\n" for step in steps)


def wait(fields: str = "", seconds: float = LONG) -> str:
    """Return a wait that may take long."""
    return f"wait-ready: {{timeout: {seconds:g}s{', ' if fields else ''}{fields}}}"


def script(text: str) -> str:
    """Return an ExecStart= that runs a shell script."""
    return f"/bin/sh -c '{text}'"


def meanwhile(machine: Machine, text: str, act: Callable[[dict[str, Any]], object], *, event: str, id: str) -> Run:  # noqa: A002
    """Apply a runbook, call `act` once at an event of a step, and return the run."""
    write_runbook(machine, text)
    command = ["runbook", "apply", RUNBOOK, "--output", "json"]
    with machine.popen(command, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            printed = json.loads(line)
            if act is not None and printed["event"] == event and printed.get("id") == id:
                act(printed)
                act = lambda _event: None  # noqa: E731
        process.wait(30)
        assert process.stderr is not None
        return parsed("".join(lines), process.returncode, process.stderr.read())
