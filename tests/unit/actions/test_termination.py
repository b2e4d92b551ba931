"""The state machine: the phases in their order, and what a later reading forbids."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from runbook.actions.kill_advice import MAX_CHANGES
from runbook.actions.kill_state import KillOptions, KillOrphanState, Phase
from runbook.actions.respawn import MAX_RESPAWNS
from runbook.actions.termination import Termination
from runbook.checks.unread import UNREAD_WAIT
from runbook.host.facts import ActiveState
from runbook.host.ownership.verdict import owner_changing
from runbook.model import Finding, FindingState, Port
from runbook.spec.state import RunState
from tests.unit.fake_machine import UNSEEN, FakeMachine, close_in_accept, listen, process, unit
from tests.unit.runs import ORPHAN

DOWN = unit(active_state=ActiveState.INACTIVE, main_pid=0, control_group="")


class Story:
    """A machine with an orphan on the port, and a state machine that frees it."""

    def __init__(
        self, dies_on: signal.Signals | None = signal.SIGTERM, *, mismatch: str = "", kill: bool = True
    ) -> None:
        self.machine = FakeMachine(units={"gw.service": DOWN}, processes={74: process(74, **ORPHAN)})
        self.machine.dies_on[74] = dies_on
        listen(self.machine, 74, "127.0.0.1:80")
        self.state = KillOrphanState(RunState("run-1", Path("/srv")))
        term = signal.SIGTERM
        self.options = KillOptions("gw.service", (Port(80),), term, 5.0, kill, False, False, False, lambda _: mismatch)

    def check(self, seconds: float = 0.0) -> Phase:
        """Return the phase after some seconds."""
        self.machine.clock.time += seconds
        self.finding: Finding = Termination(self.machine, self.options, self.state).check()
        return self.state.phase

    def act(self) -> None:
        """Make the move of the phase."""
        Termination(self.machine, self.options, self.state).act(self.machine)


def test_from_the_first_signal_to_a_free_port() -> None:
    story = Story(signal.SIGKILL)
    assert story.check() is Phase.SIGNAL
    story.act()
    assert story.check() is Phase.AWAIT_EXIT
    assert story.check(5.0) is Phase.ESCALATE
    story.act()
    assert story.check() is Phase.AWAIT_RESPAWN
    assert story.check(0.5) is Phase.DONE
    assert story.machine.written == ["end 74 SIGTERM", "end 74 SIGKILL"]


def test_a_holder_that_must_not_be_killed_forbids_a_signal_that_was_planned() -> None:
    story = Story()
    assert story.check() is Phase.SIGNAL
    story.machine.spared[74] = "it is an ancestor of this program"
    story.act()
    assert story.machine.written == []
    assert story.check() is Phase.REFUSED


def test_a_process_that_is_not_expected_is_refused() -> None:
    assert Story(mismatch="it runs as bob").check() is Phase.REFUSED


def test_without_kill_a_process_is_awaited_to_the_end() -> None:
    story = Story(None, kill=False)
    story.check()
    story.act()
    assert story.check(60.0) is Phase.AWAIT_EXIT


def test_a_unit_that_is_untracked_by_now_is_reloaded_before_the_next_signal() -> None:
    story = Story(None)
    story.check()
    story.act()
    story.machine.units["gw.service"] = unit(active_state=ActiveState.INACTIVE)
    story.machine.processes[100] = process(100)
    assert story.check(5.0) is Phase.RELOAD
    story.act()
    assert story.machine.written == ["end 74 SIGTERM", "daemon-reload"]


def test_a_free_port_is_not_called_held_at_the_time_out() -> None:
    story = Story(None)
    story.check()
    story.act()
    story.machine.sockets.clear()
    story.check()
    late = Termination(story.machine, story.options, story.state).judge_timeout(story.finding)
    assert (late.state, late.verdict) == (FindingState.FAILS, "timed-out")
    assert "the port is free, but not all processes exited: PID 74" in late.reason


class Accepting(Story):
    """The orphan has port 81 too. On TERM it closes its socket of port 80, while one of its threads is in accept(2)."""

    def __init__(self, *, kill: bool = True) -> None:
        super().__init__(None, kill=kill)
        self.options = replace(self.options, ports=(Port(80), Port(81)))
        listen(self.machine, 74, "127.0.0.1:81", first_inode=7481)
        assert self.check() is Phase.SIGNAL
        self.act()
        close_in_accept(self.machine, 74, 80)


def test_the_socket_of_a_thread_that_accepts_is_awaited_as_long_as_the_process_runs() -> None:
    story = Accepting()
    assert [story.check(), story.check(2.1), story.check(2.1)] == [Phase.AWAIT_EXIT] * 3
    story.machine.kill(74)
    assert [story.check(1.9), story.check(0.05)] == [Phase.AWAIT_CLOSE] * 2
    story.machine.kill(UNSEEN)
    assert story.check() is Phase.AWAIT_RESPAWN
    assert story.machine.written == ["end 74 SIGTERM"]


def test_a_process_whose_thread_accepts_gets_kill_after_its_grace() -> None:
    story = Accepting()
    assert story.check(5.0) is Phase.ESCALATE
    story.act()
    assert story.machine.written == ["end 74 SIGTERM", "end 74 SIGKILL"]


def test_a_process_whose_thread_accepts_may_be_spared() -> None:
    assert Accepting(kill=False).check(60.0) is Phase.AWAIT_EXIT


def test_a_socket_that_stays_open_after_its_process_is_of_an_unknown_holder() -> None:
    story = Accepting()
    story.check()
    story.machine.kill(74)
    assert [story.check(8.0), story.check(1.9), story.check(0.2)] == [
        Phase.AWAIT_CLOSE,
        Phase.AWAIT_CLOSE,
        Phase.REFUSED,
    ]


def test_a_socket_that_was_not_the_target_s_is_of_an_unknown_holder() -> None:
    story = Accepting()
    listen(story.machine, UNSEEN, "127.0.0.2:80")
    assert story.check() is Phase.REFUSED


def test_beside_a_closing_socket_no_other_process_is_signalled() -> None:
    """Neither a new holder, nor a leftover without a port, nor a target that must not be killed any more."""
    story = Accepting()
    story.options = replace(story.options, leftovers=True)
    story.machine.units["gw.service"] = replace(DOWN, control_group="/system.slice/gw.service")
    story.machine.processes[90] = process(90)
    assert story.check() is Phase.AWAIT_EXIT
    story.state.phase = Phase.SIGNAL  # as an earlier reading may have planned
    story.act()
    assert story.state.rounds == 1
    assert story.check(5.0) is Phase.ESCALATE
    story.machine.spared[74] = "it is an ancestor of this program"
    story.act()
    assert story.check() is Phase.REFUSED
    story.machine.spared.clear()
    story.machine.processes[75] = process(75, **ORPHAN)
    listen(story.machine, 75, "127.0.0.1:81")
    assert story.check() is Phase.REFUSED
    assert story.machine.written == ["end 74 SIGTERM"]


def test_a_process_that_changed_right_before_its_signal_is_judged_and_signalled_again() -> None:
    """Nothing was sent, so it is not one that took the place of a killed one."""
    story = Story()
    story.machine.changing[74] = MAX_CHANGES - 1
    for _ in range(MAX_CHANGES):
        assert story.check() is Phase.SIGNAL
        story.act()
    assert story.check() is Phase.AWAIT_RESPAWN


def test_a_process_that_changes_before_each_signal_is_given_up() -> None:
    story = Story()
    story.machine.changing[74] = 1000
    for _ in range(MAX_CHANGES):
        assert story.check() is Phase.SIGNAL
        story.act()
    assert story.check() is Phase.STILL_HELD
    assert (story.finding.verdict, story.finding.reason) == (
        "port-still-held",
        "PID 74 (openclaw) changes its cgroup, program, user or sockets faster than it can be judged and signalled; "
        "kill it by hand if it is not needed: kill 74",
    )


def test_kill_is_sent_again_to_a_process_that_moves_to_another_cgroup_and_back() -> None:
    story = Story(signal.SIGKILL)
    story.check()
    story.act()
    story.machine.changing[74] = 3
    story.machine.processes[74] = replace(story.machine.processes[74], cgroup="/user.slice/other.scope")
    assert story.check(5.0) is Phase.ESCALATE
    for _ in range(4):
        assert story.check() is Phase.ESCALATE
        story.act()
    assert story.machine.written == ["end 74 SIGTERM", *["end 74 SIGKILL"] * 4]
    assert story.check() is Phase.AWAIT_RESPAWN


def test_another_program_gets_the_first_signal_before_kill() -> None:
    story = Story(signal.SIGKILL)
    story.check()
    story.act()
    story.machine.changing[74] = 1
    story.machine.processes[74] = replace(story.machine.processes[74], exe="/usr/bin/other")
    assert story.check(5.0) is Phase.ESCALATE
    story.act()
    assert story.check() is Phase.SIGNAL


def test_a_cgroup_with_a_process_that_cannot_be_read_is_killed_once_it_can() -> None:
    story = Story()
    story.machine.units["gw.service"] = unit(active_state=ActiveState.INACTIVE, main_pid=0)
    story.machine.processes = {90: process(90)}
    story.machine.sockets.clear()
    story.options = replace(story.options, leftovers=True)
    story.state.phase = Phase.KILL_CGROUP  # as readings before have led to
    story.state.rounds = MAX_RESPAWNS + 1
    story.machine.processes[90] = process(90, stalled=True)
    story.act()
    assert [story.check(), story.check(1.0)] == [Phase.READ_AGAIN] * 2
    story.machine.processes[90] = process(90)
    assert story.check() is Phase.KILL_CGROUP
    story.act()
    assert not story.machine.processes
    assert story.check() is Phase.AWAIT_RESPAWN


def test_sockets_that_change_during_a_reading_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a unit in a crash loop opens and closes a socket beside the orphan's."""
    story = Story()
    with monkeypatch.context() as changing:
        changing.setattr(story.machine, "judge_port", lambda _unit, port, **_: owner_changing(port))
        assert [story.check(), story.check(1.0)] == [Phase.READ_AGAIN] * 2
    assert story.check(1.0) is Phase.SIGNAL
    monkeypatch.setattr(story.machine, "judge_port", lambda _unit, port, **_: owner_changing(port))
    assert [story.check(), story.check(UNREAD_WAIT)] == [Phase.READ_AGAIN, Phase.REFUSED]
    assert story.finding.reason == "the processes that hold port 80 change faster than they can be read"
