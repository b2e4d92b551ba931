from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.execution.replay import ResumeState
from runbook.engine.resume import find_undone_by_boot
from runbook.events import Event
from runbook.host.facts import ActiveState
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.recorded import acting, finished
from tests.unit.runs import step

DOWN: dict[str, Any] = {
    "main_pid": 0,
    "active_state": ActiveState.INACTIVE,
    "sub_state": "dead",
    "inactive_enter_monotonic": 0,
}
UP: dict[str, Any] = {}
STOPPED_BY_HAND = {**DOWN, "inactive_enter_monotonic": 5}
FAILED = {**STOPPED_BY_HAND, "active_state": ActiveState.FAILED, "sub_state": "failed"}


def lost(ended: tuple[str, ...], now: dict[str, Any], *, status: str = "changed", boot: str = "second") -> list[str]:
    """Return the steps to be repeated, of these that ended on an earlier boot; `now` is the state of the unit."""
    steps = {kind: step(kind) for kind in ended}
    events = [Event(1.0, "x", event, data) for event, data in (finished(kind, status) for kind in ended)]
    machine = FakeMachine(units={"gw.service": unit(**now)})
    return list(find_undone_by_boot(machine, steps, ResumeState.from_events(events, "first"), boot))


@pytest.mark.parametrize("kind", ["start", "restart"])
def test_a_unit_that_the_boot_left_down_is_started_again(kind: str) -> None:
    assert lost((kind,), DOWN) == [kind]
    assert lost((kind, "reset-failed", "verify-port-owner"), DOWN) == [kind]


@pytest.mark.parametrize("kind", ["start", "restart"])
def test_a_unit_that_runs_again_is_let_be(kind: str) -> None:
    assert lost((kind,), UP) == []


def test_a_unit_that_was_stopped_since_the_boot_stays_down() -> None:
    assert lost(("start",), STOPPED_BY_HAND) == []


def test_what_failed_since_the_boot_is_for_the_checks_to_judge() -> None:
    assert lost(("start",), FAILED) == []


def test_on_the_same_boot_nothing_is_lost() -> None:
    assert lost(("start",), DOWN, boot="first") == []


def test_a_start_that_was_skipped_promised_nothing() -> None:
    assert lost(("start",), DOWN, status="skipped") == []


def test_what_a_later_step_stopped_is_to_be_down() -> None:
    assert lost(("restart", "stop"), DOWN) == []
    assert lost(("restart", "stop", "start"), DOWN) == ["restart", "start"]


def test_a_unit_that_was_stopped_and_that_the_boot_started_is_stopped_again() -> None:
    assert lost(("stop",), UP) == ["stop"]
    assert lost(("stop", "start"), UP) == []


def test_what_a_later_step_had_begun_to_start_is_not_stopped_again() -> None:
    steps = {kind: step(kind) for kind in ("stop", "start")}
    events = [Event(1.0, "x", *finished("stop")), Event(2.0, "x", *acting("start"))]
    machine = FakeMachine(units={"gw.service": unit()})
    assert find_undone_by_boot(machine, steps, ResumeState.from_events(events, "first"), "second") == {}


def test_what_does_not_make_a_unit_run_is_not_lost() -> None:
    assert lost(("kill-orphan", "reset-failed", "daemon-reload", "reload"), DOWN) == []


def test_a_resumed_step_counts_on_the_boot_of_that_part() -> None:
    events = [
        Event(1.0, "x", *finished("stop")),
        Event(2.0, "x", "run-resumed", {"boot": "second"}),
        Event(3.0, "x", *finished("start")),
    ]
    machine = FakeMachine(units={"gw.service": unit(**DOWN)})
    steps = {kind: step(kind) for kind in ("stop", "start")}
    assert list(find_undone_by_boot(machine, steps, ResumeState.from_events(events, "first"), "second")) == []
    assert find_undone_by_boot(machine, steps, ResumeState.from_events(events, "first"), "third") == {
        "start": "gw.service is inactive (dead) since the boot"
    }


@pytest.mark.parametrize(
    ("status", "evidence"), [("failed", {}), ("skipped", {"by-operator": True})], ids=["failed", "skipped by hand"]
)
def test_what_was_stopped_for_a_start_that_is_not_made_again_is_let_be(status: str, evidence: dict[str, Any]) -> None:
    """If the stop were repeated, no later step would start the unit again."""
    steps = {kind: step(kind) for kind in ("stop", "start")}
    events = [Event(1.0, "x", *finished("stop")), Event(2.0, "x", *finished("start", status, evidence=evidence))]
    machine = FakeMachine(units={"gw.service": unit()})
    assert find_undone_by_boot(machine, steps, ResumeState.from_events(events, "first"), "second") == {}
