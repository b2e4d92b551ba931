"""The installed command, run in a machine with JSON lines, and what it told."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.machine.machine import Machine, until

RUNBOOK = "/root/test.yaml"


@dataclass(frozen=True)
class Run:
    """What a `runbook … --output json` printed, line by line, and its exit status."""

    events: list[dict[str, Any]]
    exit: int
    stderr: str

    @property
    def last(self) -> dict[str, Any]:
        """The line that says how it ended."""
        assert self.events, self.stderr
        return self.events[-1]

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.events if line["event"] == event]

    @property
    def verdicts(self) -> list[tuple[str, str, str]]:
        """Id, status and verdict of every step that ended."""
        return [(e["id"], e["status"], e["verdict"]) for e in self.of("step-finished")]

    def step(self, name: str) -> dict[str, Any]:
        """How a step ended the last time."""
        return [e for e in self.of("step-finished") if e["id"] == name][-1]


def write_runbook(machine: Machine, text: str, path: str = RUNBOOK) -> str:
    """Put a runbook into the machine."""
    machine.write(path, textwrap.dedent(text).lstrip())
    return path


def runbook(machine: Machine, command: str, text: str, *options: str, user: str | None = None) -> Run:
    """Run `runbook COMMAND FILE` on a runbook of this text."""
    path = RUNBOOK if user is None else f"/home/{user}/test.yaml"
    write_runbook(machine, text, path)
    if user is not None:
        machine.run(["chown", user, path])
    argv = ["runbook", command, path, "--output", "json", *options]
    done = machine.run(argv, check=False, user=user, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def parsed(stdout: str, status: int, stderr: str = "") -> Run:
    """Read JSON lines."""
    return Run([json.loads(line) for line in stdout.splitlines()], status, stderr)


def interrupted(machine: Machine, signum: signal.Signals, command: str) -> tuple[Run, float]:
    """Apply the written runbook, send the program a signal while its command runs; give the seconds until its end."""
    running = ["pgrep", "-f", command]
    with machine.popen(["runbook", "apply", RUNBOOK, "--output", "json"]) as process:
        until(lambda: machine.run(running, check=False).returncode == 0, "the command to run")
        machine.run(["pkill", f"-{signum.name.removeprefix('SIG')}", "-f", "runbook apply"])
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        took = time.monotonic() - began
    return parsed(out, process.returncode, err), took


def unit_file(exec_start: str, **settings: str) -> str:
    """Write a service's file; settings of [Unit] are given as `Unit_NAME`."""
    unit = {name.removeprefix("Unit_"): value for name, value in settings.items() if name.startswith("Unit_")}
    service: Mapping[str, str] = {n: v for n, v in settings.items() if not n.startswith("Unit_")}
    lines = ["[Unit]", *(f"{n}={v}" for n, v in unit.items()), "[Service]", f"ExecStart={exec_start}"]
    return "\n".join([*lines, *(f"{n}={v}" for n, v in service.items())]) + "\n"
