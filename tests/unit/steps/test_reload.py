"""The situations of tests/cases/reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.host.facts import ActiveState
from tests.unit.cases import cases, run_case
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import remediate, run, step


@pytest.mark.parametrize("path", cases("reload"))
def test_case(path: Path) -> None:
    run_case(path)


def test_a_fix_that_cannot_reload_stops_nothing() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=(step("restart"), step("reload"))))
    assert machine.written == []
    assert "reload would fail: gw.service cannot reload" in end.reason


def test_a_fix_may_start_first_what_it_reloads() -> None:
    down = unit(can_reload=True, active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, control_group="")
    machine = FakeMachine(units={"gw.service": down})
    run(machine, remediate(step("verify-port-owner"), fix=(step("start"), step("reload"))))
    assert machine.written == ["start gw.service", "reload gw.service"]


def test_a_fix_does_not_reload_what_it_stopped() -> None:
    machine = FakeMachine(units={"gw.service": unit(can_reload=True)}, processes={100: process(100)})
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=(step("stop"), step("reload"))))
    assert machine.written == []
    assert "only an active unit can reload" in end.reason
