"""A hostile user, and a command whose time and memory are measured: for the tests of the bounds and for the bench."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.machine.machine import Machine, until
from tests.machine.runs import RUNBOOK, Run, parsed
from tests.machine.tree import PROJECT, USER

HERE = f"{PROJECT}/tests/machine/bounds"


@dataclass(frozen=True)
class Measured:
    """What a command took."""

    seconds: float
    since: float
    mib: float
    run: Run


@contextlib.contextmanager
def hostile(machine: Machine, *words: str) -> Iterator[None]:
    """A user does what hostile.py describes."""
    argv = ["sh", "-c", 'ulimit -n "$(ulimit -Hn)"; exec "$@"', "sh", "/usr/bin/python3", f"{HERE}/hostile.py", *words]
    with machine.popen(argv, user=USER) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n", process.stderr and process.stderr.read()
            yield
        finally:
            machine.run(["pkill", "-KILL", "-u", USER, "python3"], check=False)
            process.communicate(timeout=60)
            until(lambda: not machine.run(["pgrep", "-u", USER, "python3"], check=False).stdout, "the end of all of it")


def measure(machine: Machine, command: str = "check", path: str = RUNBOOK, *, term: float = 0) -> Measured:
    """Run a command on a runbook; send it SIGTERM after so many seconds."""
    argv = ["/usr/bin/python3", f"{HERE}/measure.py", str(term), "runbook", command, path]
    took = json.loads(machine.run([*argv, "--output", "json"], timeout=120).stdout)
    run = parsed(took["out"], took["status"], took["err"])
    assert "Traceback" not in run.stderr
    return Measured(took["seconds"], took["since"], took["mib"], run)
