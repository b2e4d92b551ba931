"""The situations of tests/cases/daemon-reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.errors import HostError
from tests.unit.cases import cases, run_case
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import finished, run, step


@pytest.mark.parametrize("path", cases("daemon-reload"))
def test_case(path: Path) -> None:
    run_case(path)


def test_systemd_may_refuse() -> None:
    """systemd refuses after too many reloads (ReloadLimitBurst=, since systemd 253)."""
    machine = FakeMachine(refuse={"daemon-reload": HostError("cannot reload systemd's unit files: too many requests")})
    end, events = run(machine, step("daemon-reload"))
    assert (end.status, finished(events)) == ("failed", [("daemon-reload", "failed", "job-failed")])


def test_it_may_bring_a_unit() -> None:
    """A generator may make the unit: the run does not refuse to begin, and a plan leaves the answer open."""
    machine = FakeMachine(units={"gw.service": unit()})
    end, _ = run(machine, step("daemon-reload"), step("start", unit="made.service"))
    assert (end.status, machine.written) == ("failed", ["daemon-reload"])
    assert "systemd has no unit made.service" in end.reason
