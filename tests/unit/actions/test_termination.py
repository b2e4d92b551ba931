"""The state machine: the phases in their order, and what a later reading forbids."""

from __future__ import annotations

import signal
from pathlib import Path

from runbook.actions.kill_state import KillOptions, KillOrphanState, Phase
from runbook.actions.termination import Termination
from runbook.host.facts import ActiveState
from runbook.model import Finding, FindingState, Port
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, listen, process, unit
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
