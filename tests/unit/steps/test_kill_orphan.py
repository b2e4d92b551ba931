"""The situations of tests/cases/kill-orphan."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runbook.host.facts import ActiveState
from tests.unit.cases import cases, run_case
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import ORPHAN, finished, run, step

CROWD = 300


@pytest.mark.parametrize("path", cases("kill-orphan"))
def test_case(path: Path) -> None:
    run_case(path)


class Dying(FakeMachine):
    """A machine on which a process disappears from /proc before its sockets are closed."""

    closes_after = 0.3

    def kill(self, pid: int) -> None:
        del self.processes[pid]
        self.later.append((self.clock.time + self.closes_after, lambda machine: machine.sockets.clear()))


@pytest.mark.parametrize(
    ("closes_after", "verdict", "after"), [(0.3, "killed", 0.8), (60.0, "refused-to-kill", 2.0)], ids=["soon", "never"]
)
def test_a_socket_that_stays_open_after_its_holder_disappeared(closes_after: float, verdict: str, after: float) -> None:
    """The step waits briefly for the socket to close: its inode is known from the killed process."""
    machine = Dying(units={"gw.service": unit(active_state=ActiveState.INACTIVE, main_pid=0, control_group="")})
    machine.closes_after = closes_after
    machine.processes = {74: process(74, **ORPHAN)}
    listen(machine, 74, "127.0.0.1:80", "[::1]:80")
    _, events = run(machine, step("kill-orphan"))
    assert [found for _, _, found in finished(events)] == [verdict]
    assert machine.clock.time - 1000.0 == pytest.approx(after, abs=0.06)
    assert machine.written == ["end 74 SIGTERM"]


def test_another_socket_without_a_visible_holder_is_not_waited_for() -> None:
    machine = Dying(units={"gw.service": unit(active_state=ActiveState.INACTIVE, main_pid=0, control_group="")})
    machine.processes = {74: process(74, **ORPHAN)}
    listen(machine, 74, "127.0.0.1:80")
    ended = machine.kill

    def replaced(pid: int) -> None:
        ended(pid)
        machine.sockets.clear()
        listen(machine, 500, "127.0.0.1:80", first_inode=4711)  # Of a process that may not be seen.

    machine.kill = replaced  # type: ignore[method-assign]
    _, events = run(machine, step("kill-orphan"))
    assert [found for _, _, found in finished(events)] == ["refused-to-kill"]
    assert machine.clock.time == 1000.0


class Stubborn(FakeMachine):
    """A machine whose systemd has lost track of a unit, and does not forget its main process in a daemon-reload."""

    def daemon_reload(self) -> None:
        self.written.append("daemon-reload")


def test_a_main_process_that_systemd_does_not_forget_is_not_killed() -> None:
    """systemd would crash if the process exited: the step reloads once, and then kills nothing."""
    machine = Stubborn(units={"gw.service": unit(active_state=ActiveState.INACTIVE)}, processes={100: process(100)})
    listen(machine, 100, "127.0.0.1:80")
    _, events = run(machine, step("kill-orphan"))
    assert [found for _, _, found in finished(events)] == ["refused-to-kill"]
    assert machine.written == ["daemon-reload"]


@pytest.mark.parametrize("dies", [True, False], ids=["all end", "none ends"])
@pytest.mark.parametrize("names", [1, 50])
def test_a_crowd_is_named_by_a_few_and_a_count(dies: bool, names: int) -> None:
    """A sentence names a few PIDs and counts the others; the evidence has them all."""
    machine = FakeMachine(units={"gw.service": unit(active_state=ActiveState.INACTIVE, main_pid=0, control_group="")})
    for pid in range(1000, 1000 + CROWD):
        machine.processes[pid] = process(pid, **{**ORPHAN, "name": f"old-{pid % names}"})
        machine.dies_on[pid] = signal.SIGTERM if dies else None
        listen(machine, pid, "127.0.0.1:80", first_inode=7)
    _, events = run(machine, step("kill-orphan"))
    assert [found for _, _, found in finished(events)] == ["killed" if dies else "port-still-held"]
    reasons = [str(event.data["reason"]) for event in events if "reason" in event.data]
    assert all(len(reason) < 600 for reason in reasons), max(reasons, key=len)
    assert any(f" and {CROWD - 3 if names == 1 else CROWD - 3 * CROWD // names} more" in reason for reason in reasons)
