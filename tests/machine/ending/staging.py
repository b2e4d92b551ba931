"""Starts processes that hold ports in a machine: in scopes, login sessions, services and namespaces."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tests.machine.conftest import StartService
from tests.machine.ending.actors import QUICK
from tests.machine.incident import holders, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file
from tests.machine.tree import PROJECT

ACTORS = f"{PROJECT}/tests/machine/ending/actors.py"


def actor(part: str, *words: object) -> list[str]:
    """Return the command that runs a part of actors.py."""
    return ["python3", ACTORS, part, *map(str, words)]


def quick(port: int) -> list[str]:
    """Return the command of a server that listens at once."""
    return [*QUICK, str(port)]


def scope(machine: Machine, name: str, argv: list[str], *options: str) -> None:
    """Start a command in a scope, and do not wait for it."""
    inside = ["systemd-run", "--quiet", "--scope", f"--unit={name}", *options, "--", *argv]
    machine.run(["sh", "-c", 'exec "$@" >/dev/null 2>&1 </dev/null &', "sh", *inside])


def listening(machine: Machine, ports: Collection[int]) -> None:
    """Wait until all ports are held."""

    def held() -> bool:
        shown = {line.split()[3].rpartition(":")[2] for line in machine.run(["ss", "-Hltn"]).stdout.splitlines()}
        return {str(port) for port in ports} <= shown

    until(held, f"ports {sorted(ports)} to be held", 20)


@dataclass(frozen=True)
class KnownProcess:
    """A process, identified by its PID and its start time."""

    pid: int
    start: str


def holding(machine: Machine, port: int) -> set[KnownProcess]:
    """Return the holders of a port, from ss and /proc, not from the program under test."""
    return {known for holder in holders(machine, port) if holder.pid and (known := process(machine, holder.pid))}


def process(machine: Machine, pid: int) -> KnownProcess | None:
    """Return the process that has a PID now, or None."""
    stat = machine.run(["cat", f"/proc/{pid}/stat"], check=False).stdout

    return KnownProcess(pid, stat.rpartition(")")[2].split()[19]) if stat else None


@contextlib.contextmanager
def cleared(machine: Machine, *units: str) -> Iterator[None]:
    """Kill and stop units at the end."""
    try:
        yield
    finally:
        for unit in units:
            machine.run(["systemctl", "kill", "--signal=KILL", unit], check=False)
            machine.run(["systemctl", "stop", unit], check=False)
        machine.run(["systemctl", "reset-failed", *units], check=False)


def down(service: StartService, machine: Machine, name: str = "gw.service", **settings: str) -> None:
    """Install a unit that is down."""
    service(name, unit_file("/usr/bin/sleep infinity", **settings))
    machine.run(["systemctl", "stop", name])


def left_over(machine: Machine, name: str, argv: list[str], port: int = 0) -> None:
    """Install a unit that is down and has left a process in its cgroup."""
    start = f"/bin/sh -c '{' '.join(argv)} & exec sleep infinity'"
    machine.write(f"/etc/systemd/system/{name}", unit_file(start, KillMode="process"))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", name])
    main = machine.show(name, "MainPID")["MainPID"]
    # A stop kills the shell if it has not started the process yet.
    until(lambda: machine.run(["cat", f"/proc/{main}/comm"]).stdout == "sleep\n", "the shell to start the process")
    if port:
        listening(machine, {port})
    machine.run(["systemctl", "stop", name])


def kill(machine: Machine, port: int, *, unit: str = "gw", then: str = "", **fields: object) -> Run:
    """Apply a runbook with one kill-orphan."""
    words = "".join(f", {name.replace('_', '-')}: {value}" for name, value in fields.items())
    text = f"unit: {unit}\nsteps:\n  - kill-orphan: {{port: {port}{words}}}\n{then}"
    return runbook(machine, "apply", text)


__all__ = [
    "ACTORS",
    "KnownProcess",
    "actor",
    "cleared",
    "down",
    "kill",
    "left_over",
    "listening",
    "process",
    "remove_unit",
]
