"""Many services and strangers at once in one machine, each on a port of its own, and what the program says of each.

All of a street is judged by two commands: one `check` and one plan to kill, with a step for each house. So a shape
costs no more than the process that has it.
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
class House:
    """A unit asked for a port, and what must be said: the verdict and its sentence, then those of kill-orphan."""

    unit: str
    port: str
    verdict: str
    reason: str = ""
    kill: str = "nothing-to-kill"
    why: str = ""

    def __str__(self) -> str:
        return f"{self.unit}-{self.port}"


@dataclass
class Street:
    """The units and processes that were put there. It is left with the machine, which is thrown away then."""

    machine: Machine
    units: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    said: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.service("idle.service", "/usr/bin/sleep infinity")
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.run(["pkill", "-KILL", "-f", ACTOR.split()[1]], check=False)
        for process in self.started:
            process.communicate(timeout=20)

    # -- who lives there

    def service(self, name: str, does: str, **settings: str) -> None:
        """Write a service: a command line, or the verbs of an actor."""
        self.write(name, unit_file(does if does.startswith("/") else f"{ACTOR} {does}", **settings))

    def write(self, name: str, text: str) -> None:
        """Write a unit file."""
        self.machine.write(f"/etc/systemd/system/{name}", text)
        if name not in self.units:
            self.units.append(name)

    def start(self, *units: str) -> None:
        """Start units, as their files say now."""
        self.machine.run(["systemctl", "daemon-reload"])
        self.machine.run(["systemctl", "start", *units])

    def begin(self, argv: Sequence[str], user: str | None = None) -> None:
        """Start a command in no unit."""
        self.started.append(self.machine.popen(argv, user=user))

    def scope(self, verbs: str, *options: str, user: str | None = None) -> None:
        """Start an actor in a scope."""
        self.begin(["systemd-run", "--quiet", "--scope", *options, *ACTOR.split(), *verbs.split()], user)

    def as_user(self, *argv: str) -> None:
        """Ask the user's manager for something."""
        self.machine.run(["systemctl", "--user", *argv], user=USER)

    def users_manager(self) -> None:
        """Have the user's manager run, without a login."""
        self.machine.run(["loginctl", "enable-linger", USER])
        until(lambda: self.exists(f"/run/user/{UID}/bus"), "the user's manager")

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return not self.machine.run(["test", "-e", path], check=False).returncode

    def listening(self, *ports: int | str) -> None:
        """Wait until somebody listens on each of these ports."""
        for port in ports:
            kind, _, number = f"tcp:{port}".rpartition(":")
            look = ["ss", "-Hlun" if "udp" in kind else "-Hltn", f"sport = :{number}"]
            until(lambda look=look: self.machine.run(look).stdout, f"port {port} to be held", 20)  # type: ignore[misc]

    def holders(self, port: int) -> int:
        """Count the processes that hold a TCP port, asked of ss."""
        return len({holder.pid for holder in holders(self.machine, port)})

    # -- what is said of them

    def judge(self, houses: Sequence[House]) -> None:
        """Ask for all of them, once."""
        for command, step in (("check", "verify-port-owner"), ("plan", "kill-orphan")):
            self.said[command] = ask(self.machine, command, step, houses)

    def assert_said(self, house: House) -> None:
        """See that it was as it must be."""
        assert_said(self.said["check"][str(house)], house)
        plan = self.said["plan"][str(house)]
        assert plan["verdict"] == house.kill, plan
        assert re.search(house.why, plan["reason"]), plan["reason"]


def ask(
    machine: Machine, command: str, step: str, houses: Sequence[House], user: str | None = None, scope: str = "system"
) -> dict[str, dict[str, Any]]:
    """Give what one run says of each house."""
    steps = [f'- {step}: {{unit: "{h.unit}", port: "{h.port}", on-failure: continue}}' for h in houses]
    book = "\n".join([f"scope: {scope}", "steps:", *steps])
    words = ("apply", "step-planned", "--dry-run") if command == "plan" else (command, "step-finished")
    run = runbook(machine, words[0], book, *words[2:], user=user)
    said = run.of(words[1])
    assert len(said) == len(houses), (run.last, run.stderr)
    return {str(house): one for house, one in zip(houses, said, strict=True)}


def assert_said(said: dict[str, Any], house: House) -> None:
    """See that the verdict and its sentence are as they must be."""
    assert said["verdict"] == house.verdict, said
    assert re.search(house.reason, said["reason"]), said["reason"]


def shell(*commands: str) -> str:
    """Make a command line for a unit file that runs these in a shell; `ACTOR` stands for the actor."""
    return f"/bin/sh -c {shlex.quote('; '.join(commands).replace('ACTOR', ACTOR))}"
