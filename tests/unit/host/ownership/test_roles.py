"""The order of the rules: one process for each role, and processes to which two rules apply."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.holders import Process, Role
from runbook.host.ownership.roles import rule_on_process
from tests.unit.fake_machine import EARLIER, INVOCATION

from .scene import SESSION, listener, process, scene, unit


def judge(one: Process, *others: Process, **of_unit: Any) -> tuple[Role, str]:
    context = scene(one, *others, units=(unit("web.service"),), **of_unit)
    ruling = rule_on_process(context, one, (listener(),))
    return ruling.role, ruling.unit


MAIN = process(100)


@pytest.mark.parametrize(
    ("one", "role", "where"),
    [
        (MAIN, Role.CURRENT, "gw.service"),
        (process(101, started=700.0), Role.LEFTOVER, "gw.service"),
        (process(1, ppid=0, name="systemd", cgroup="/init.scope"), Role.OTHER_UNIT, "init.scope"),
        (process(70, cgroup=SESSION, pid_namespace=5), Role.OTHER_UNIT, "session-9.scope"),
        (process(70, cgroup="/system.slice/web.service"), Role.OTHER_UNIT, "web.service"),
        (process(70, cgroup=SESSION), Role.ORPHAN, "session-9.scope"),
        (process(70, cgroup="/system.slice"), Role.ORPHAN, "system.slice"),
        (process(70, cgroup="/"), Role.ORPHAN, "no unit"),
        (process(70, cgroup=""), Role.UNKNOWN, ""),
    ],
)
def test_one_of_each(one: Process, role: Role, where: str) -> None:
    assert judge(one, MAIN) == (role, where)


def test_a_moved_process_of_the_unit_comes_before_the_scope_that_it_is_in() -> None:
    assert judge(process(101, ppid=100, cgroup=SESSION), MAIN) == (Role.CURRENT, "gw.service")
    assert judge(process(101, invocation_id=INVOCATION, cgroup=SESSION), MAIN) == (Role.UNKNOWN, "gw.service")


def test_a_container_comes_before_the_service_that_it_runs_in() -> None:
    one = process(70, cgroup="/machine.slice/systemd-nspawn@web.service/payload")
    assert judge(one, MAIN) == (Role.OTHER_UNIT, "systemd-nspawn@web.service")


def test_the_main_processes_of_all_services_are_read_only_before_an_orphan() -> None:
    web, read = unit("web.service", main_pid=71, invocation_id=EARLIER), []
    others = (process(70, cgroup="/system.slice/web.service"), process(73, cgroup=SESSION, pid_namespace=5))
    lost, orphan = process(75, cgroup=SESSION, invocation_id=EARLIER), process(74, cgroup=SESSION)
    context = scene(MAIN, *others, lost, orphan, units=(web,))
    context.manager.list_main_pids = lambda: read.append(1) or {}  # type: ignore[method-assign, func-returns-value]
    roles = [rule_on_process(context, one, (listener(),)).role for one in (MAIN, *others, lost)]
    assert roles == [Role.CURRENT, Role.OTHER_UNIT, Role.OTHER_UNIT, Role.UNKNOWN]
    assert read == []
    assert rule_on_process(context, orphan, (listener(),)).role is Role.ORPHAN
    assert read == [1]


def test_the_main_process_of_another_service_is_no_orphan() -> None:
    web, main = unit("web.service", main_pid=71), process(71, cgroup=SESSION)
    ruling = rule_on_process(scene(main, units=(web,)), main, (listener(),))
    assert (ruling.role, ruling.unit) == (Role.OTHER_UNIT, "web.service")
