"""What the modules here have in common: short runbooks on one unit, and somebody who acts in the middle of a run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from tests.machine.machine import Machine
from tests.machine.runs import RUNBOOK, Run, parsed, write_runbook

LONG = 60.0
"""Seconds that a wait may take. A verdict that was known before came long before that."""


SOMEBODY = r"something else( \(PID \d+ .*\))?"
"""Who acts so fast may be gone before anybody has looked, and is named then or is not."""


def book(unit: str, *steps: str, **top: object) -> str:
    """Write a runbook on one unit, its steps as YAML in one line each."""
    named = "".join(f"{key}: {value}\n" for key, value in {"unit": unit, **top}.items())
    return named + "steps:\n" + "".join(f"  - {step}\n" for step in steps)


def wait(fields: str = "", seconds: float = LONG) -> str:
    """Write a wait that may take long."""
    return f"wait-ready: {{timeout: {seconds:g}s{', ' if fields else ''}{fields}}}"


def script(text: str) -> str:
    """Write an ExecStart= of the shell's."""
    return f"/bin/sh -c '{text}'"


def meanwhile(machine: Machine, text: str, act: Callable[[dict[str, Any]], object], *, event: str, id: str) -> Run:  # noqa: A002
    """Apply a runbook; act once when it tells an event of a step, and give what it told in all."""
    write_runbook(machine, text)
    command = ["runbook", "apply", RUNBOOK, "--output", "json"]
    with machine.popen(command, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            told = json.loads(line)
            if act is not None and told["event"] == event and told.get("id") == id:
                act(told)
                act = lambda _told: None  # noqa: E731
        process.wait(30)
        assert process.stderr is not None
        return parsed("".join(lines), process.returncode, process.stderr.read())
