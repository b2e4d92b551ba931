"""The situations of tests/cases/verify-port-owner, and a machine that was suspended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runbook.host.facts import Unit
from runbook.model import Port
from tests.unit.cases import cases, run_case
from tests.unit.fake_machine import FakeMachine, listen, process, unit


@pytest.mark.parametrize("path", cases("verify-port-owner"))
def test_case(path: Path) -> None:
    run_case(path)


@pytest.mark.parametrize(("started", "verdict"), [(800.0, "leftover-holds-port"), (950.0, "owner-unknown")])
def test_a_start_alone_does_not_tell_whose_it_is_once_the_machine_was_suspended(
    monkeypatch: pytest.MonkeyPatch, started: float, verdict: str
) -> None:
    """It may have slept before the unit began, or after that: systemd's timestamps (900 s) do not show it."""
    clocks = {time.CLOCK_BOOTTIME: 5000.0, time.CLOCK_MONOTONIC: 1000.0}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    gw: Unit = unit()
    machine = FakeMachine(units={gw.name: gw})
    machine.processes = {100: process(100, started=4950.0), 101: process(101, started=started)}
    listen(machine, 101, "0.0.0.0:80")
    assert machine.judge_port(gw, Port(80)).verdict == verdict
