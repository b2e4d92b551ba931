"""Which required unit keeps a unit from starting, and which process holds its port."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.down_cause import find_down_cause
from runbook.checks.requirements import (
    describe_failed_binding,
    describe_failed_requirements,
    find_failed_requirements,
)
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.model import Port
from tests.unit.fake_machine import FakeMachine, listen, process, unit

DOWN: dict[str, Any] = {
    "active_state": ActiveState.INACTIVE,
    "sub_state": "dead",
    "main_pid": 0,
    "invocation_id": "",
    "control_group": "",
}
FAILED: dict[str, Any] = {**DOWN, "active_state": ActiveState.FAILED, "sub_state": "failed", "result": "exit-code"}
EXITED = {**FAILED, "exec_main_code": 1, "exec_main_status": 3}
SOCKET = {**FAILED, "result": "resources", "listen": (("Stream", "127.0.0.1:4369"), ("Stream", "/run/epmd"))}
EPMD = "it could not listen on 127.0.0.1:4369 and /run/epmd"
HELD = "port 127.0.0.1:4369 is held by PID 500 (gateway), in run-r1.scope of user root: not this unit"


def machine(*units: Unit, holder: int = 0) -> FakeMachine:
    made = FakeMachine(units={one.name: one for one in units})
    if holder:
        made.processes[holder] = process(holder, cgroup="/system.slice/run-r1.scope")
        listen(made, holder, "127.0.0.1:4369")
    return made


def needs(*names: str, setting: str = "requires") -> Unit:
    return unit(**{**DOWN, setting: names})


def test_a_required_unit_that_failed() -> None:
    host = machine(unit("db.service", **EXITED), unit("net.service"))
    reason = "gw.service needs db.service, which failed: its main process exited with status 3"
    assert describe_failed_requirements(host, needs("net.service", "db.service")) == reason
    assert describe_failed_requirements(host, needs("net.service")) == ""


@pytest.mark.parametrize("setting", ["requires", "binds_to", "requisite"])
def test_a_socket_two_levels_down_whose_port_is_held(setting: str) -> None:
    middle = unit("mid.service", **DOWN, **{setting: ("epmd.socket",)})
    host = machine(middle, unit("epmd.socket", **SOCKET), holder=500)
    reason = f"gw.service needs mid.service, which needs epmd.socket, which failed: {EPMD}; {HELD}"
    assert describe_failed_requirements(host, needs("mid.service")) == reason
    [found] = find_failed_requirements(host, needs("mid.service"), of_job=True)
    assert found.evidence()["chain"] == ["gw.service", "mid.service", "epmd.socket"]
    assert found.evidence()["ports"][0]["holders"][0]["pid"] == 500


def test_a_socket_whose_port_is_free_again() -> None:
    host = machine(unit("epmd.socket", **SOCKET))
    assert describe_failed_requirements(host, needs("epmd.socket")).endswith(f"which failed: {EPMD}")


def test_a_service_whose_log_names_its_port() -> None:
    host = machine(unit("epmd.service", **EXITED), holder=500)
    host.refused_ports["epmd.service"] = (Port(4369),)
    reason = "which failed: its main process exited with status 3; port 4369 is held by PID 500 (gateway)"
    assert reason in describe_failed_requirements(host, needs("epmd.service"))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({**DOWN, "load_state": LoadState.MASKED}, "which is masked (systemctl unmask db.service lifts that)"),
        ({**DOWN, "load_state": LoadState.ERROR, "load_error": "no ExecStart"}, "which systemd cannot load: no Exec"),
        ({**DOWN, "assert_result": False}, "which was not started: an Assert of db.service does not hold"),
        (
            {"active_state": ActiveState.ACTIVATING, "sub_state": "auto-restart", "exec_main_code": 1, "main_pid": 0},
            r"which is activating (auto-restart): its main process exited with status 0",
        ),
    ],
)
def test_other_ways_to_fail(facts: dict[str, Any], reason: str) -> None:
    assert reason in describe_failed_requirements(machine(unit("db.service", **facts)), needs("db.service"))


def test_a_unit_that_is_only_down_counts_if_systemd_reports_that_one_did_not_start() -> None:
    mount = unit("data.mount", **DOWN, requires=("dev-sdz.device", "done.service"))
    done = unit("done.service", **DOWN, type="oneshot")
    host = machine(mount, unit("dev-sdz.device", **DOWN), done)
    assert describe_failed_requirements(host, needs("data.mount")) == ""
    [found] = find_failed_requirements(host, needs("data.mount"), of_job=True)
    assert str(found) == "gw.service needs data.mount, which needs dev-sdz.device, which is inactive (dead)"


def test_units_that_need_each_other() -> None:
    host = machine(
        unit("a.service", **DOWN, requires=("b.service",)), unit("b.service", **DOWN, requires=("a.service",))
    )
    assert describe_failed_requirements(host, needs("a.service")) == ""


@pytest.mark.parametrize(("changed", "is_cause"), [(600, False), (750, True), (801, False)])
def test_a_unit_that_is_stopped_with_the_one_that_it_is_bound_to(changed: int, is_cause: bool) -> None:
    host = machine(unit("db.service", **EXITED, state_change_monotonic=changed))
    stopped: dict[str, Any] = {**DOWN, "invocation_id": "a" * 32, "exec_main_code": 2, "exec_main_status": 15}
    times: dict[str, Any] = {"inactive_exit_monotonic": 700, "inactive_enter_monotonic": 800}
    bound = unit(**stopped, **times, binds_to=("db.service",))
    reason = "gw.service needs db.service, which failed: its main process exited with status 3 (BindsTo=)"
    assert describe_failed_binding(host, bound) == (reason if is_cause else "")
    verdict, why = find_down_cause(host, bound, "THE EXIT", was_running=True, was_stopped=True)
    assert (verdict, why) == (("job-dependency", f"gw.service is down: {reason}") if is_cause else (verdict, why))
    assert describe_failed_binding(host, unit(**stopped, **times, requires=("db.service",))) == ""


@pytest.mark.parametrize(("changed", "is_cause"), [(700, False), (800, True)])
def test_a_failure_from_before_the_unit_went_down_is_not_its_cause(changed: int, is_cause: bool) -> None:
    host = machine(unit("db.service", **EXITED, state_change_monotonic=changed))
    down = unit(**{**DOWN, "invocation_id": "a" * 32, "inactive_enter_monotonic": 800}, requires=("db.service",))
    assert bool(describe_failed_requirements(host, down)) is is_cause
