"""Tests each fact that makes a process current or a leftover by itself. The invocation of `unit()` began at 900 s."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.host.facts import ActiveState
from runbook.host.holders import Process, Role
from runbook.host.ownership.own_unit import MISTAKEN_MAIN, rule_process_in_unit, rule_process_moved_out
from tests.unit.fake_machine import EARLIER, INVOCATION

from .scene import SESSION, process, scene

BEFORE, SINCE = 700.0, 1e9
"""Start times before and after every begin of an invocation, however long this machine was suspended."""


RECORDED: dict[str, Any] = {"exec_main_start_monotonic": int(SINCE * 1e6)}
"""systemd has recorded the main process after that was started."""


def rule(one: Process, *others: Process, **of_unit: Any) -> tuple[Role, str]:
    ruling = rule_process_in_unit(scene(one, *others, **{**RECORDED, **of_unit}), one)
    return ruling.role, ruling.why


MAIN = process(100, started=SINCE)


def test_the_main_process_and_its_descendants() -> None:
    assert rule(MAIN) == (Role.CURRENT, "it is the main process, PID 100")
    # INVOCATION_ID does not matter: a manager inside the unit sets others.
    worker = process(101, ppid=100, invocation_id=EARLIER)
    assert rule(worker, MAIN) == (Role.CURRENT, "it descends from the main process, PID 100")


def test_a_leftover_that_systemd_took_for_the_main_process() -> None:
    assert rule(process(100, started=BEFORE)) == (Role.LEFTOVER, f"it is PID 100, {MISTAKEN_MAIN}")
    # Its own INVOCATION_ID proves that a busy systemd took the timestamp late.
    assert rule(process(100, started=BEFORE, invocation_id=INVOCATION))[0] is Role.CURRENT


@pytest.mark.parametrize(
    ("invocation", "cgroup", "role"),
    [
        (INVOCATION, "/system.slice/gw.service", Role.CURRENT),
        (EARLIER, "/system.slice/gw.service", Role.UNKNOWN),
        (EARLIER, "/system.slice/gw.service/payload", Role.UNKNOWN),
    ],
)
def test_the_invocation_id(invocation: str, cgroup: str, role: Role) -> None:
    assert rule(process(101, invocation_id=invocation, started=SINCE, cgroup=cgroup), MAIN)[0] is role


def test_an_earlier_invocation_id_is_believed_if_an_older_process_could_have_forked_it() -> None:
    """A service may set any value for a child of its own."""
    child, older = process(101, invocation_id=EARLIER, started=SINCE), process(102, started=BEFORE)
    assert rule(child, MAIN)[1].startswith(f"its INVOCATION_ID is {EARLIER}, an earlier one, but it started after")
    assert rule(child, MAIN, older)[0] is Role.LEFTOVER


def test_the_invocation_id_of_an_ancestor() -> None:
    parent = process(90, invocation_id=EARLIER, started=BEFORE)
    role, why = rule(process(101, ppid=90, started=SINCE), parent, MAIN)
    assert (role, why) == (Role.LEFTOVER, f"its ancestor PID 90's INVOCATION_ID is {EARLIER}, an earlier one")


def test_the_start_time() -> None:
    assert rule(process(101, started=BEFORE), MAIN)[0] is Role.LEFTOVER
    assert rule(process(101, started=SINCE), MAIN)[0] is Role.CURRENT
    # A leftover beside it may have forked it.
    assert rule(process(101, started=SINCE), process(90, started=BEFORE), MAIN)[0] is Role.UNKNOWN


def test_an_unread_environment_does_not_make_a_leftover() -> None:
    """It may have the current INVOCATION_ID: systemd takes the time of a start after it has forked the process."""
    role, why = rule(process(101, started=BEFORE, stalled=True), MAIN)
    assert role is Role.UNKNOWN
    assert "the kernel does not return the command line and environment of PID 101 (gateway)" in why
    parent = process(101, started=BEFORE, stalled=True)
    assert rule(process(102, ppid=101, started=SINCE), parent, MAIN)[0] is Role.UNKNOWN
    assert rule(process(101, started=SINCE, stalled=True), MAIN)[0] is Role.CURRENT
    down = {"active_state": ActiveState.FAILED, "main_pid": 0}
    assert rule(process(101, stalled=True), **down)[0] is Role.LEFTOVER


def test_a_unit_that_is_down_has_only_leftovers() -> None:
    down = {"active_state": ActiveState.FAILED, "main_pid": 0}
    assert rule(process(101, invocation_id=INVOCATION), **down) == (
        Role.LEFTOVER,
        "it is still running, while gw.service is failed",
    )
    lost = rule_process_in_unit(scene(MAIN, active_state=ActiveState.INACTIVE), MAIN)
    assert (lost.role, lost.stop_verb, bool(lost.protection)) == (Role.LEFTOVER, "", True)


def test_a_process_that_pam_moved() -> None:
    child = process(102, ppid=100, cgroup=SESSION)
    ruling = rule_process_moved_out(scene(MAIN, child, **RECORDED), child)
    assert ruling is not None
    assert (ruling.role, ruling.why) == (
        Role.CURRENT,
        "it descends from the main process, PID 100, though in another scope",
    )
    assert rule_process_moved_out(scene(child), child) is None
    assert rule_process_moved_out(scene(MAIN, child, active_state=ActiveState.FAILED), child) is None


def test_an_environment_alone_never_makes_a_process_current() -> None:
    forged = process(102, invocation_id=INVOCATION, cgroup=SESSION)
    ruling = rule_process_moved_out(scene(forged), forged)
    assert ruling is not None
    assert ruling.role is Role.UNKNOWN


@pytest.mark.parametrize(
    ("cgroup", "role"),
    [(SESSION, Role.UNKNOWN), ("/system.slice/web.service", None), (f"/docker/{'0' * 64}", None)],
)
def test_a_pid_file_that_names_a_foreign_process(cgroup: str, role: Role | None) -> None:
    named = process(100, started=BEFORE, cgroup=cgroup)
    ruling = rule_process_moved_out(scene(named), named)
    assert (ruling.role if ruling else None) is role


REUSED = "PID 100, which started after systemd recorded that PID as the main process of gw.service: the PID was reused"


def test_a_reused_pid_is_no_main_process() -> None:
    """systemd does not notice the exit of a main process that is not its child, as that of PIDFile= may be."""
    recorded: dict[str, Any] = {"exec_main_start_monotonic": 900_000_000}
    for one, how in ((MAIN, "is"), (process(101, ppid=100, started=SINCE), "descends from")):
        assert rule(one, MAIN, **recorded) == (Role.UNKNOWN, f"it {how} {REUSED}")
        moved = replace(one, cgroup=SESSION)
        ruling = rule_process_moved_out(scene(moved, MAIN, **recorded), moved)
        assert ruling is not None
        assert (ruling.role, ruling.unit, ruling.why) == (Role.UNKNOWN, "session-9.scope", f"it {how} {REUSED}")
        # A stop of the unit may kill the process, so that is no advice.
        assert (ruling.protection, ruling.stop_verb) == (
            f"it {how} {REUSED}; kill it by hand if it is not needed: kill {one.pid}",
            "",
        )


def test_a_reused_pid_in_another_service_belongs_to_that_service() -> None:
    other = replace(MAIN, cgroup="/system.slice/web.service")
    assert rule_process_moved_out(scene(other), other) is None


def test_the_main_process_itself_has_no_reused_pid() -> None:
    recorded: dict[str, Any] = {"exec_main_start_monotonic": 900_000_000}
    # Its INVOCATION_ID proves it; without a timestamp nothing is known; systemd may take the timestamp first.
    assert rule(replace(MAIN, invocation_id=INVOCATION), **recorded)[0] is Role.CURRENT
    assert rule(MAIN, exec_main_start_monotonic=0)[0] is Role.CURRENT
    assert rule(process(100, started=909.0), **recorded)[0] is Role.CURRENT
