"""A lookup whose commands, files and owners are data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runbook.document.init.lookup import COMMAND_TIMEOUT, Lookup
from tests.unit.fake_machine import FakeMachine, process, unit


def gateway(**changes: Any) -> FakeMachine:
    """Return a machine with the running unit gw.service."""
    return FakeMachine({"gw.service": unit(**changes)}, {100: process(100)})


@dataclass
class FakeLookup(Lookup):
    """Answers each command by the first of `outputs` whose key is a part of it; without one, the command fails."""

    outputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def run(self, *argv: str, timeout: float = COMMAND_TIMEOUT) -> str:
        command = " ".join(argv)
        self.ran.append(command)
        return next((output for part, output in self.outputs.items() if part in command), "")

    def read(self, path: str) -> str:
        return self.files.get(path, "")

    def find_other_owner(self, path: str) -> str:
        return self.owners.get(path, "")


def lookup(machine: FakeMachine | None = None, **facts: Any) -> FakeLookup:
    """Return a lookup on a machine."""
    host = machine or gateway()
    return FakeLookup(host, host, **facts)
