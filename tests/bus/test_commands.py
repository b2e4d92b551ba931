"""Commands whose start was requested when systemd left the bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.errors import BusLost
from runbook.host.facts import JobRef, JobResult
from runbook.host.loop import Loop
from runbook.host.queries import Command, CommandResult
from runbook.host.systemd.manager import SystemdManager
from runbook.host.systemd.transient import TransientCommands

from .private_bus import PrivateBus

STARTED = "StartTransientUnit runbook-vanish.service fail"


class Lost:
    """A command whose start makes systemd leave the bus."""

    def __init__(self, systemd: SystemdManager, bus: PrivateBus, loop: Loop, output: Path) -> None:
        self.commands = TransientCommands(systemd, loop)
        self._bus = bus
        self._loop = loop
        self._command = Command(("true",), output=str(output))

    def begin(self) -> JobRef:
        return self.commands.start("vanish", self._command)

    def begin_and_lose(self) -> None:
        """Start the command without getting an answer; systemd comes back soon afterwards."""
        self._loop.call_later(0.2, self._return)
        with pytest.raises(BusLost):
            self.begin()

    def leave(self, result: str) -> None:
        """Write the result file that the command's unit leaves on disk."""
        Path(f"{self._command.output}.result").write_text(result)

    def _return(self) -> None:
        self._bus.kill_systemd()
        self._bus.start_systemd()


@pytest.fixture
def lost(bus: PrivateBus, systemd: SystemdManager, loop: Loop, tmp_path: Path) -> Lost:
    """Request a command and get no answer. systemd is back, and has no such unit."""
    made = Lost(systemd, bus, loop, tmp_path / "out")
    made.leave("exit-code exited 7\n")  # From an earlier attempt, which wrote the same files.
    made.begin_and_lose()
    assert bus.calls.count(STARTED) == 1
    return made


def test_a_command_that_exited_without_an_answer_is_not_run_again(
    lost: Lost, bus: PrivateBus, systemd: SystemdManager
) -> None:
    lost.leave("success exited 0\n")
    ref = lost.begin()
    assert bus.calls.count(STARTED) == 1
    assert systemd.job(ref) is JobResult.GONE
    assert lost.commands.result(ref) == CommandResult("success", 0)


def test_the_next_attempt_is_run(lost: Lost, bus: PrivateBus) -> None:
    lost.leave("success exited 0\n")
    lost.begin()
    lost.begin_and_lose()
    assert bus.calls.count(STARTED) == 2


def test_a_command_that_was_not_started_is_started(lost: Lost, bus: PrivateBus) -> None:
    """The result of an earlier attempt is not taken for that of this one."""
    lost.begin_and_lose()
    assert bus.calls.count(STARTED) == 2
