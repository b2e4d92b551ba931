"""The questions of a health check, in their order, and the time that each answer is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runbook.checks.foreign_owner import EXIT_GRACE
from runbook.checks.health import DOWN_SETTLE, HealthChecker, HealthReport, HealthState
from runbook.host.facts import ActiveState, LoadState
from runbook.model import Port
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import ORPHAN


def healthy() -> FakeMachine:
    """Make a machine whose unit is active and owns its port."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "127.0.0.1:80")
    return machine


def check(machine: FakeMachine, state: HealthState | None = None, *, allowed: int = 0) -> HealthReport:
    """Check the unit once."""
    unit, once = machine.units["gw.service"], state is None
    return HealthChecker(machine, unit, (Port(80),), None, allowed, state or HealthState(), once=once).check()


def change(machine: FakeMachine, **facts: object) -> None:
    machine.units["gw.service"] = replace(machine.units["gw.service"], **facts)  # type: ignore[arg-type]


def test_a_unit_that_is_active_and_owns_its_port_is_ready() -> None:
    assert check(healthy()).healthy


def test_the_cause_comes_before_the_symptom() -> None:
    """Each problem that is added comes earlier in the order of the questions."""
    machine, verdicts = healthy(), []
    machine.sockets.clear()
    verdicts.append(check(machine).verdict)
    change(machine, active_state=ActiveState.ACTIVATING, sub_state="start")
    verdicts.append(check(machine).verdict)
    change(machine, active_state=ActiveState.DEACTIVATING, job_type="stop")
    verdicts.append(check(machine).verdict)
    change(machine, active_state=ActiveState.FAILED, restart="no", result="exit-code")
    verdicts.append(check(machine).verdict)
    change(machine, sub_state="auto-restart")
    verdicts.append(check(machine).verdict)
    machine.processes[74] = process(74, **ORPHAN)
    listen(machine, 74, "127.0.0.1:80")
    verdicts.append(check(machine).verdict)
    change(machine, load_state=LoadState.MASKED)
    verdicts.append(check(machine).verdict)
    assert verdicts == [
        "not-listening",
        "still-starting",
        "unit-changed",
        "unit-failed",
        "crash-loop",
        "orphan-holds-port",
        "unit-masked",
    ]


def test_another_process_on_the_port_has_time_to_exit() -> None:
    machine, state = healthy(), HealthState()
    machine.processes[74] = process(74, **ORPHAN)
    listen(machine, 74, "127.0.0.1:80")
    assert not check(machine, state).final
    machine.clock.time += EXIT_GRACE
    assert check(machine, state).final
    assert check(machine).final, "a single check gives no time"


def test_a_unit_passes_through_failed_before_an_automatic_restart() -> None:
    machine, state = healthy(), HealthState()
    machine.sockets.clear()
    change(machine, active_state=ActiveState.FAILED, main_pid=0)
    assert not check(machine, state).final
    machine.clock.time += DOWN_SETTLE
    assert check(machine, state).final
    change(machine, active_state=ActiveState.ACTIVE)
    check(machine, state)
    assert state.down_since is None


@pytest.mark.parametrize(("allowed", "verdict"), [(0, "crash-loop"), (1, "ready")])
def test_restarts_are_counted_from_the_first_check(allowed: int, verdict: str) -> None:
    machine, state = healthy(), HealthState()
    change(machine, n_restarts=7)
    assert check(machine, state, allowed=allowed).healthy
    change(machine, n_restarts=8)
    assert check(machine, state, allowed=allowed).verdict == verdict


def test_another_invocation_without_a_restart_by_systemd_was_started_by_another() -> None:
    machine, state = healthy(), HealthState()
    check(machine, state)
    change(machine, invocation_id="b" * 32)
    check(machine, state)
    assert "started gw.service again once" in state.describe_other_starts(machine.units["gw.service"])
