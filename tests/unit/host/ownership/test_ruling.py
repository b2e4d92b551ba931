"""What every rule reads of a unit: which processes are in it, their ancestors, its open sockets."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.facts import ActiveState
from runbook.host.holders import Role
from runbook.host.ownership.ruling import rule_other_unit

from .scene import place, process, scene, unit


@pytest.mark.parametrize(
    ("cgroup", "inside"),
    [
        ("/system.slice/gw.service", True),
        ("/system.slice/gw.service/payload", True),
        ("/system.slice/gw.service-old", False),
        ("/system.slice/web.service", False),
        ("/other.slice/gw.service", False),
    ],
)
def test_a_process_is_in_the_unit_by_its_cgroup(cgroup: str, inside: bool) -> None:
    one = process(5, cgroup=cgroup)
    assert scene(one).is_in_unit(one, place(one)) is inside


def test_without_a_cgroup_the_name_and_the_manager_decide() -> None:
    down: dict[str, Any] = {"control_group": "", "active_state": ActiveState.FAILED}
    one = process(5, cgroup="/other.slice/gw.service")
    assert scene(one, **down).is_in_unit(one, place(one))
    assert not scene(one, manager_uid=1000, **down).is_in_unit(one, place(one))


def test_ancestors_end_before_the_first_process_and_at_the_edge_of_the_unit() -> None:
    main, worker = process(100), process(101, ppid=100)
    context = scene(process(1, ppid=0), main, worker)
    assert [one.pid for one in context.list_ancestry(worker)] == [101, 100]
    outside = scene(process(50, cgroup="/system.slice/cron.service"), process(60, ppid=50))
    assert [one.pid for one in outside.list_ancestry_in_unit(process(60, ppid=50))] == [60]
    # A main process that PAM has moved is an ancestor all the same.
    moved = scene(process(100, cgroup="/user.slice/user-0.slice/session-9.scope"))
    assert [one.pid for one in moved.list_ancestry_in_unit(worker)] == [101, 100]


@pytest.mark.parametrize(("has_terminal", "starters"), [(True, []), (False, [60, 50])])
def test_nothing_above_a_shell_in_a_terminal_is_a_starter(has_terminal: bool, starters: list[int]) -> None:
    server, agent = process(74, ppid=60), process(50)
    shell = process(60, ppid=50, name="bash", command=("bash",), has_terminal=has_terminal)
    assert [one.pid for one in scene(server, shell, agent).list_starters(server)] == starters


def test_only_socket_units_that_are_up_are_open() -> None:
    up, down = unit("gw.socket"), unit("gv.socket", active_state=ActiveState.FAILED)
    context = scene(units=(up, down), triggered_by=("gw.socket", "gv.socket", "gw.timer"))
    assert context.list_open_sockets() == [up]


def test_another_unit_is_protected_for_the_reason_that_names_it() -> None:
    ruling = rule_other_unit("web.service", "because", stop_verb="kill")
    assert (ruling.role, ruling.why, ruling.protection, ruling.stop_verb) == (
        Role.OTHER_UNIT,
        "because",
        "because",
        "kill",
    )
