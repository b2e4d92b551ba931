"""What a process inherited from root, and what it may have been handed by another process."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.facts import ActiveState
from runbook.host.holders import Role

from .scene import SESSION, listener, process, unit
from .test_judge import judge, machine


@pytest.mark.parametrize(
    ("made_in", "facts", "role"),
    [
        (SESSION, {}, Role.ORPHAN),
        ("/user.slice", {}, Role.ORPHAN),  # above its own: it moved to a cgroup below
        ("/init.scope", {}, Role.UNKNOWN),
        ("/init.scope", {"cgroup": "/system.slice/other.service"}, Role.UNKNOWN),  # not of gw.socket
        ("/init.scope", {"cgroup": "/system.slice/gw.service"}, Role.LEFTOVER),  # of gw.socket
        ("/init.scope", {"ppid": 75}, Role.ORPHAN),  # of the worker that has it too
        ("/system.slice/drops.service", {}, Role.UNKNOWN),
        ("/system.slice/roots.service", {}, Role.ORPHAN),  # no process of another user is there
        ("", {}, Role.UNKNOWN),
        ("", {"session": 99}, Role.ORPHAN),  # that of the last main process
        ("", {"cgroup": "/by-hand", "invocation_id": "e" * 32}, Role.ORPHAN),  # of a service that has ended
        ("", {"invocation_id": "e" * 32}, Role.UNKNOWN),  # in a login: perhaps of a user's manager
        ("", {"cgroup": "/system.slice/gw.service"}, Role.LEFTOVER),
    ],
)
def test_a_socket_of_roots_that_was_passed_on(made_in: str, facts: dict[str, Any], role: Role) -> None:
    """By the cgroup in which it was created, which is empty here if it was removed."""
    socket = listener(cgroup_id=5)
    holder = process(74, **{"cgroup": SESSION, **facts})
    on = machine(
        units={
            "gw.service": unit(active_state=ActiveState.FAILED, main_pid=0, exec_main_pid=99),
            "gw.socket": unit("gw.socket", listen=(("Stream", "0.0.0.0:80"),), triggers=("gw.service",), main_pid=0),
            "other.service": unit("other.service"),
        },
        processes={
            74: holder,
            75: process(75, cgroup="/system.slice/gw.service"),
            76: process(76, cgroup="/system.slice/drops.service", uid=33),
            77: process(77, cgroup="/system.slice/roots.service"),
        },
        sockets={74: [socket], 75: [socket]},
        cgroups={5: made_in},
    )
    found = judge(on).judge_process(holder, (socket,))
    assert found.role is role, found
    assert (not found.protection) is (role in (Role.ORPHAN, Role.LEFTOVER))


def test_a_live_service_keeps_the_socket_of_a_socket_unit_that_is_down() -> None:
    holder = process(74, cgroup="/system.slice/other.service")
    on = machine(units={"gw.service": unit(), "other.service": unit("other.service")}, cgroups={5: "/init.scope"})
    assert judge(on).judge_process(holder, (listener(cgroup_id=5),)).role is Role.OTHER_UNIT


def test_of_several_sockets_one_that_was_inherited_decides() -> None:
    passed, own = listener(cgroup_id=5), listener(inode=8, cgroup_id=6)
    holder = process(74, cgroup=SESSION)
    on = machine(processes={74: holder}, cgroups={5: "/init.scope"})
    assert judge(on).judge_process(holder, (passed, own)).role is Role.ORPHAN
    assert judge(on).judge_process(holder, (passed, passed)).role is Role.UNKNOWN
