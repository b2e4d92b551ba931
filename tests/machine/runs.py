"""Runs the installed command in a machine, and reads its JSON lines."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.events import validated
from tests.machine.machine import Machine, until

RUNBOOK = "/root/test.yaml"


@dataclass(frozen=True)
class Run:
    """The events that `runbook … --output json` printed, and its exit status."""

    events: list[dict[str, Any]]
    exit: int
    stderr: str

    @property
    def last(self) -> dict[str, Any]:
        """Return the last event, which has the outcome."""
        assert self.events, self.stderr
        return self.events[-1]

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the events of one name."""
        return [line for line in self.events if line["event"] == event]

    @property
    def verdicts(self) -> list[tuple[str, str, str]]:
        """Return id, status and verdict of each step that has finished."""
        return [(e["id"], e["status"], e["verdict"]) for e in self.of("step-finished")]

    def step(self, name: str) -> dict[str, Any]:
        """Return the last `step-finished` event of a step."""
        return [e for e in self.of("step-finished") if e["id"] == name][-1]


def write_runbook(machine: Machine, text: str, path: str = RUNBOOK) -> str:
    """Write a runbook to the machine, and return its path."""
    machine.write(path, textwrap.dedent(text).lstrip())
    return path


def runbook(machine: Machine, command: str, text: str, *options: str, user: str | None = None) -> Run:
    """Write a runbook, and run `runbook COMMAND FILE` on it."""
    path = RUNBOOK if user is None else f"/home/{user}/test.yaml"
    write_runbook(machine, text, path)
    if user is not None:
        machine.run(["chown", user, path])
    argv = ["runbook", command, path, "--output", "json", *options]
    done = machine.run(argv, check=False, user=user, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def parsed(stdout: str, status: int, stderr: str = "") -> Run:
    """Return a run from its JSON lines, exit status and standard error."""
    return Run([validated(json.loads(line)) for line in stdout.splitlines()], status, stderr)


def interrupted(machine: Machine, signum: signal.Signals, command: str) -> tuple[Run, float]:
    """Apply the written runbook, and signal the program while its command runs. Return the run and its last seconds."""
    running = ["pgrep", "-f", command]
    with machine.popen(["runbook", "apply", RUNBOOK, "--output", "json"]) as process:
        until(lambda: machine.run(running, check=False).returncode == 0, "the command to run")
        machine.run(["pkill", f"-{signum.name.removeprefix('SIG')}", "-f", "runbook apply"])
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        took = time.monotonic() - began
    return parsed(out, process.returncode, err), took


def unit_file(exec_start: str, **settings: str) -> str:
    """Return the text of a service's unit file. Settings of [Unit] are given as `Unit_NAME`."""
    unit = {name.removeprefix("Unit_"): value for name, value in settings.items() if name.startswith("Unit_")}
    service: Mapping[str, str] = {n: v for n, v in settings.items() if not n.startswith("Unit_")}
    lines = ["[Unit]", *(f"{n}={v}" for n, v in unit.items()), "[Service]", f"ExecStart={exec_start}"]
    return "\n".join([*lines, *(f"{n}={v}" for n, v in service.items())]) + "\n"
