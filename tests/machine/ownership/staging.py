"""Many services and other processes in one machine, each on its own port, and the verdicts of the program on each.

Two commands judge all of them: one `check` and one plan of kill-orphan, with a step for each case. So a case costs no
more time than its process.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import PROJECT, UID, USER

ACTOR = f"/usr/bin/python3 {PROJECT}/tests/machine/ownership/actor.py"
USER_UNITS = f"/home/{USER}/.config/systemd/user"


@dataclass(frozen=True)
class PortCase:
    """A unit, a port, the expected verdict with its reason, and the expected verdict and reason of kill-orphan."""

    unit: str
    port: str
    verdict: str
    reason: str = ""
    kill: str = "nothing-to-kill"
    why: str = ""

    def __str__(self) -> str:
        return f"{self.unit}-{self.port}"


@dataclass
class Stage:
    """The units and processes in a machine. They stay there until the machine is deleted."""

    machine: Machine
    units: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    found: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.service("idle.service", "/usr/bin/sleep infinity")
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.run(["pkill", "-KILL", "-f", ACTOR.split()[1]], check=False)
        for process in self.started:
            process.communicate(timeout=20)

    # -- units and processes

    def service(self, name: str, does: str, **settings: str) -> None:
        """Write a service, with a command line or the verbs of an actor."""
        self.write(name, unit_file(does if does.startswith("/") else f"{ACTOR} {does}", **settings))

    def write(self, name: str, text: str) -> None:
        """Write a unit file."""
        self.machine.write(f"/etc/systemd/system/{name}", text)
        if name not in self.units:
            self.units.append(name)

    def start(self, *units: str) -> None:
        """Reload the unit files, and start units."""
        self.machine.run(["systemctl", "daemon-reload"])
        self.machine.run(["systemctl", "start", *units])

    def begin(self, argv: Sequence[str], user: str | None = None) -> None:
        """Start a command outside all units."""
        self.started.append(self.machine.popen(argv, user=user))

    def scope(self, verbs: str, *options: str, user: str | None = None) -> None:
        """Start an actor in a scope."""
        self.begin(["systemd-run", "--quiet", "--scope", *options, *ACTOR.split(), *verbs.split()], user)

    def as_user(self, *argv: str) -> None:
        """Run a systemctl command on the user's manager."""
        self.machine.run(["systemctl", "--user", *argv], user=USER)

    def users_manager(self) -> None:
        """Start the user's manager, without a login."""
        self.machine.run(["loginctl", "enable-linger", USER])
        until(lambda: self.exists(f"/run/user/{UID}/bus"), "the user's manager")

    def exists(self, path: str) -> bool:
        """Return True if a file exists."""
        return not self.machine.run(["test", "-e", path], check=False).returncode

    def listening(self, *ports: int | str) -> None:
        """Wait until each port is held."""
        for port in ports:
            kind, _, number = f"tcp:{port}".rpartition(":")
            look = ["ss", "-Hlun" if "udp" in kind else "-Hltn", f"sport = :{number}"]
            until(lambda look=look: self.machine.run(look).stdout, f"port {port} to be held", 20)  # type: ignore[misc]

    def held(self, port: int, processes: int) -> None:
        """Wait until so many processes hold a TCP port."""
        until(lambda: self.holders(port) == processes, f"{processes} holders of port {port}")

    def holders(self, port: int) -> int:
        """Return the number of processes that hold a TCP port, from ss."""
        return len({holder.pid for holder in holders(self.machine, port)})

    # -- verdicts

    def judge(self, cases: Sequence[PortCase]) -> None:
        """Judge all cases, with one run of each command."""
        for command, step in (("check", "verify-port-owner"), ("plan", "kill-orphan")):
            self.found[command] = ask(self.machine, command, step, cases)

    def assert_verdict(self, case: PortCase) -> None:
        """Assert the verdicts and reasons of a case."""
        assert_verdict(self.found["check"][str(case)], case)
        plan = self.found["plan"][str(case)]
        assert plan["verdict"] == case.kill, plan
        assert re.search(case.why, plan["reason"]), plan["reason"]


def ask(
    machine: Machine, command: str, step: str, cases: Sequence[PortCase], user: str | None = None, scope: str = "system"
) -> dict[str, dict[str, Any]]:
    """Return the event of each case, from one run."""
    steps = [f'- {step}: {{unit: "{h.unit}", port: "{h.port}", on-failure: continue}}' for h in cases]
    book = "\n".join([f"scope: {scope}", "steps:", *steps])
    words = ("apply", "step-planned", "--dry-run") if command == "plan" else (command, "step-finished")
    run = runbook(machine, words[0], book, *words[2:], user=user)
    found = run.of(words[1])
    assert len(found) == len(cases), (run.last, run.stderr)
    return {str(case): one for case, one in zip(cases, found, strict=True)}


def assert_verdict(found: dict[str, Any], case: PortCase) -> None:
    """Assert the verdict and the reason of an event."""
    assert found["verdict"] == case.verdict, found
    assert re.search(case.reason, found["reason"]), found["reason"]


def shell(*commands: str) -> str:
    """Return a command line for a unit file that runs commands in a shell. `ACTOR` stands for the actor."""
    return f"/bin/sh -c {shlex.quote('; '.join(commands).replace('ACTOR', ACTOR))}"
