"""Units that read `active` and do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.standstill import describe_frozen, describe_no_process, describe_standstill
from runbook.host.facts import Unit
from runbook.model import Port
from tests.unit.fake_machine import EARLIER, FakeMachine, listen, process, unit

NO_MAIN: dict[str, Any] = {"main_pid": 0, "type": "forking"}


def machine(*units: Unit) -> FakeMachine:
    return FakeMachine({one.name: one for one in units})


@pytest.mark.parametrize("state", ["", "running"])
def test_a_unit_that_runs(state: str) -> None:
    assert describe_frozen(machine(), unit(freezer_state=state)) == ""


@pytest.mark.parametrize("state", ["frozen", "freezing", "thawing"])
def test_a_frozen_unit_has_its_remedy(state: str) -> None:
    found = describe_frozen(machine(), unit(freezer_state=state))
    assert found == "gw.service is frozen, so none of its processes runs (systemctl thaw gw.service lets them run)"


@pytest.mark.parametrize("state", ["frozen-by-parent", "running"])
def test_a_unit_in_a_frozen_slice(state: str) -> None:
    """systemd 257 reports the parent; of 252 only the kernel knows."""
    cold = Unit("cold.slice", freezer_state="frozen")
    view = machine(cold)
    view.frozen_cgroups = ("gw.service",)
    found = describe_frozen(view, unit(freezer_state=state, control_group="/cold.slice/gw.service"))
    assert found.endswith(": its slice is frozen (systemctl thaw cold.slice lets them run)")


def test_a_cgroup_that_was_frozen_without_systemd() -> None:
    view = machine()
    view.frozen_cgroups = ("gw.service",)
    found = describe_frozen(view, unit(freezer_state="running"))
    assert found.endswith(": the cgroup /system.slice/gw.service, or one above it, is frozen (cgroup.freeze)")


def test_a_stopped_main_process() -> None:
    view = machine()
    view.processes = {100: process(100, state="T"), 101: process(101)}
    found = describe_standstill(view, unit(), ())
    assert (
        found == "PID 100 (gateway), the main process of gw.service, is stopped (SIGSTOP; kill -CONT 100 lets it run)"
    )


def test_a_traced_main_process_is_not_continued_by_a_signal() -> None:
    view = machine()
    view.processes = {100: process(100, state="t")}
    assert "kill" not in describe_standstill(view, unit(), ())
    assert "is stopped, state " in describe_standstill(view, unit(), ())


@pytest.mark.parametrize(("states", "stopped"), [("TT", True), ("TS", False), ("SS", False), ("", False)])
def test_without_a_main_process_all_must_be_stopped(states: str, stopped: bool) -> None:
    view = machine()
    view.processes = {pid: process(pid, state=state) for pid, state in enumerate(states, 101)}
    assert bool(describe_standstill(view, unit(**NO_MAIN), ())) == stopped


@pytest.mark.parametrize(("state", "stopped"), [("T", True), ("S", False)])
def test_all_that_listen_on_a_port(state: str, stopped: bool) -> None:
    """The main process is a wrapper, and its child serves."""
    view = machine()
    view.processes = {100: process(100), 101: process(101, ppid=100, state=state)}
    listen(view, 101, "0.0.0.0:80")
    owner = view.judge_port(unit(), Port(80))
    assert bool(describe_standstill(view, unit(), (owner,))) == stopped


@pytest.mark.parametrize(
    ("facts", "pids", "found"),
    [
        ({**NO_MAIN, "sub_state": "exited"}, [], "gw.service is active (exited), and no process of it runs"),
        ({"main_pid": 0, "type": "oneshot", "sub_state": "exited"}, [], "gw.service is active (exited), and no "),
        ({**NO_MAIN, "sub_state": "exited"}, [101], ""),
        (NO_MAIN, [101], ""),
        ({}, [100], ""),
    ],
)
def test_an_active_unit_without_a_process(facts: dict[str, Any], pids: list[int], found: str) -> None:
    view = machine()
    view.processes = {pid: process(pid) for pid in pids}
    assert describe_no_process(view, unit(**facts)).startswith(found)
    assert bool(describe_no_process(view, unit(**facts))) == bool(found)


@pytest.mark.parametrize(("pids", "only"), [([90], True), ([90, 101], False)])
def test_a_unit_in_which_only_leftovers_run(pids: list[int], only: bool) -> None:
    view = machine()
    view.processes = {pid: process(pid) for pid in pids}
    view.processes[90] = process(90, started=10.0, invocation_id=EARLIER)
    found = describe_no_process(view, unit(**NO_MAIN))
    assert found == (
        "gw.service is active (running), and in it is only PID 90 (gateway), left over from an earlier invocation"
        if only
        else ""
    )
