"""PID churn: when it is proven, and when a whole cgroup may be killed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runbook.actions.cgroup_kill import CHURN_SECONDS, UNSEEN_SECONDS, CgroupKill, CgroupKillState, PidChurn
from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Holder, Listener, PortOwnership, Role
from runbook.model import Port, Verdict
from tests.unit.fake_machine import FakeMachine, process, unit

DOWN = unit(active_state=ActiveState.INACTIVE, main_pid=0)
FREE = PortOwnership(Port(80), Verdict.NOT_LISTENING, "no process listens on port 80")
SOCKET = Listener("tcp", "127.0.0.1", 80, 7, cgroup_id=77)
UNSEEN = PortOwnership(Port(80), Verdict.OWNER_UNKNOWN, "", (SOCKET,), (), (SOCKET,))


class Readings:
    """Readings of a cgroup, one after the other."""

    def __init__(self, **machine: object) -> None:
        self.machine = FakeMachine(units={"gw.service": DOWN}, **machine)  # type: ignore[arg-type]
        self.state = CgroupKillState()

    def cgroup(self, seen: Sequence[PortOwnership] = (FREE,), *, of: Unit = DOWN) -> CgroupKill:
        """Return the cgroup at this moment."""
        return CgroupKill(self.machine, of, seen, self.state, True, lambda _: True)

    def read(self, seconds: float = 0.0, seen: Sequence[PortOwnership] = (FREE,), *, is_idle: bool = True) -> PidChurn:
        """Read the cgroup after some seconds."""
        self.machine.clock.time += seconds
        return self.cgroup(seen).update_churn(is_idle=lambda: is_idle)


def test_pids_that_change_for_long_enough_are_churn() -> None:
    readings = Readings(pid_churn=True)
    assert [readings.read(), readings.read(CHURN_SECONDS / 2)] == [PidChurn.SUSPECTED] * 2
    assert readings.read(CHURN_SECONDS / 2) is PidChurn.PROVEN


def test_a_cgroup_without_hidden_processes_begins_the_series_anew() -> None:
    readings = Readings(pid_churn=True)
    readings.read()
    readings.machine.pid_churn = False
    assert readings.read(60.0) is PidChurn.NONE
    readings.machine.pid_churn = True
    assert readings.read() is PidChurn.SUSPECTED


def test_a_leftover_that_can_be_read_hides_nothing() -> None:
    readings = Readings(pid_churn=True, processes={90: process(90)})
    assert readings.read(is_idle=False) is PidChurn.NONE
    # The reading for the processes to kill found none, and this one found one.
    assert readings.read() is PidChurn.SUSPECTED


def test_beside_a_visible_holder_all_else_is_killed_first() -> None:
    holder = Holder(process(1), Role.SOCKET_UNIT, "gw.socket", "", (SOCKET,))
    owned, readings = PortOwnership(Port(80), Verdict.OWNED, "", (SOCKET,), (holder,)), Readings(pid_churn=True)
    assert readings.read(seen=(owned,), is_idle=False) is PidChurn.NONE
    assert readings.read(seen=(owned,)) is PidChurn.SUSPECTED


def test_a_pid_that_stays_is_no_churn() -> None:
    readings = Readings(pid_churn=True, unreadable=(0,))
    readings.read()
    assert readings.read(CHURN_SECONDS) is PidChurn.NONE
    assert readings.read() is PidChurn.SUSPECTED


def test_the_holder_of_a_socket_gets_more_time_to_be_read() -> None:
    readings = Readings(unreadable=(90,))
    readings.read(seen=(UNSEEN,))
    assert readings.read(CHURN_SECONDS, (UNSEEN,)) is PidChurn.SUSPECTED
    assert readings.read(UNSEEN_SECONDS, (UNSEEN,)) is PidChurn.NONE


def test_a_socket_at_any_reading_of_the_series_counts() -> None:
    readings = Readings(pid_churn=True)
    readings.read(seen=(UNSEEN,))
    readings.read(CHURN_SECONDS)
    assert readings.state.had_port


@pytest.mark.parametrize(
    ("of", "may"),
    [
        (DOWN, True),
        (unit(), False),
        (unit(active_state=ActiveState.INACTIVE), False),
        (unit(active_state=ActiveState.INACTIVE, main_pid=0, job=7), False),
        (unit(active_state=ActiveState.INACTIVE, main_pid=0, control_group=""), False),
        (unit("system.slice", active_state=ActiveState.INACTIVE, main_pid=0), False),
    ],
    ids=["down", "up", "untracked", "with a job", "without a cgroup", "a slice"],
)
def test_which_cgroup_may_be_killed(of: Unit, may: bool) -> None:
    assert Readings().cgroup(of=of).is_down is may


def test_a_kill_that_is_refused_is_remembered() -> None:
    readings = Readings()
    readings.machine.units["gw.service"] = unit()
    readings.cgroup(of=unit()).apply(readings.machine)
    assert (readings.state.is_done, readings.state.is_refused) == (False, True)


def test_a_process_that_could_not_be_read_is_a_refusal_at_the_last_attempt() -> None:
    readings = Readings(processes={90: process(90, stalled=True)})
    readings.cgroup().apply(readings.machine)
    assert (readings.state.is_done, readings.state.is_refused) == (False, False)
    readings.cgroup().apply(readings.machine, is_last=True)
    assert (readings.state.is_done, readings.state.is_refused) == (False, True)
