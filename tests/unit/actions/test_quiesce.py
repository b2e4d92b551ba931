"""A unit and its triggers are kept stopped, and released in an order that systemd accepts."""

from __future__ import annotations

from pathlib import Path

from runbook.actions.quiesce import Quiesce, find_up
from runbook.errors import HostError
from runbook.host.facts import ActiveState
from runbook.model import Verdict, holds
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, unit

DONE = holds(Verdict.UPDATED, "1.0.0 -> 1.1.0")


def _machine() -> FakeMachine:
    socket, timer = unit("gw.socket", main_pid=0), unit("gw.timer", main_pid=0)
    triggered = unit(triggered_by=("gw.timer", "gw.socket"))
    return FakeMachine(units={"gw.service": triggered, "gw.socket": socket, "gw.timer": timer})


def _run() -> RunState:
    return RunState("run-1", Path("/srv"))


def test_the_units_that_would_start_it_are_stopped_first() -> None:
    machine, quiesce = _machine(), Quiesce()
    assert find_up(machine, "gw.service") == ["gw.timer", "gw.socket", "gw.service"]
    quiesce.request_stops(machine, "gw.service")
    assert machine.written == ["stop gw.timer", "stop gw.socket", "stop gw.service"]
    assert (quiesce.was_up, quiesce.triggers) == (True, ["gw.timer", "gw.socket"])


def test_after_a_success_the_unit_stays_down_and_sockets_come_first() -> None:
    machine, quiesce = _machine(), Quiesce()
    quiesce.request_stops(machine, "gw.service")
    assert quiesce.check_release(machine, DONE).reason == "start gw.socket, gw.timer again"
    assert quiesce.units_to_start(is_failure=True) == ["gw.socket", "gw.timer", "gw.service"]


def test_a_unit_that_cannot_be_started_does_not_keep_the_others_down() -> None:
    machine, quiesce = _machine(), Quiesce()
    quiesce.request_stops(machine, "gw.service")
    machine.refuse["start"] = HostError("no")
    quiesce.release(machine, _run(), is_failure=True)
    assert quiesce.start_errors == ["no", "no", "no"]
    assert quiesce.check_release(machine, DONE).verdict == "job-failed"


def test_a_release_during_the_stop_is_a_restart() -> None:
    machine, quiesce = _machine(), Quiesce()
    machine.on_job["stop"] = lambda m, name: None
    quiesce.request_stops(machine, "gw.service")
    machine.units["gw.service"] = unit(active_state=ActiveState.DEACTIVATING)
    quiesce.release(machine, _run(), is_failure=True)
    assert machine.written.index("restart gw.service") < machine.written.index("start gw.socket")


def test_without_a_stop_there_is_nothing_to_release() -> None:
    assert Quiesce().check_release(_machine(), DONE) is DONE
