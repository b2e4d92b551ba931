"""The order of the rules: one process for each role, and processes to which two rules apply."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.holders import Process, Role
from runbook.host.ownership.roles import rule_on_process
from tests.unit.fake_machine import INVOCATION

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
