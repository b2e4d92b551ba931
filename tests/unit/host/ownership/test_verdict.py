"""The verdict on a port by the roles of its holders. The first row that applies decides."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.facts import ActiveState
from runbook.host.holders import Holder, Role
from runbook.host.ownership.verdict import PortFacts, owner_changing
from runbook.model import Port, Verdict

from .scene import listener, process, unit

ONE = listener()


def holder(role: Role, pid: int = 100, **facts: Any) -> Holder:
    return Holder(process(pid, **facts), role, "gw.service", "it is a test", (ONE,))


def decide(
    *roles: Role, of_unit: dict[str, Any] | None = None, port: Port | None = None, **facts: Any
) -> tuple[Verdict, str]:
    holders = tuple(holder(role, 100 + at) for at, role in enumerate(roles))
    known = {"unseen": (), "hidden": 0, "listeners": (ONE,), **facts}
    found = PortFacts(port or Port(80), unit(**(of_unit or {})), None, holders=holders, **known).decide()
    return found.verdict, found.reason


@pytest.mark.parametrize(
    ("roles", "verdict"),
    [
        ([Role.CURRENT, Role.ORPHAN, Role.UNKNOWN], Verdict.PORT_SHARED),
        ([Role.SOCKET_UNIT, Role.OTHER_UNIT], Verdict.OTHER_UNIT_HOLDS_PORT),
        ([Role.OTHER_UNIT, Role.UNKNOWN, Role.ORPHAN], Verdict.OTHER_UNIT_HOLDS_PORT),
        ([Role.CURRENT, Role.UNKNOWN], Verdict.OWNER_UNKNOWN),
        ([Role.UNKNOWN, Role.ORPHAN], Verdict.OWNER_UNKNOWN),
        ([Role.ORPHAN, Role.LEFTOVER], Verdict.ORPHAN_HOLDS_PORT),
        ([Role.LEFTOVER], Verdict.LEFTOVER_HOLDS_PORT),
        ([Role.CURRENT, Role.SOCKET_UNIT], Verdict.OWNED),
        ([Role.SOCKET_UNIT], Verdict.OWNED),
    ],
)
def test_the_rows_in_order(roles: list[Role], verdict: Verdict) -> None:
    assert decide(*roles)[0] is verdict


def test_the_sentences() -> None:
    assert decide(Role.CURRENT)[1] == "port 80 is held only by PID 100"
    assert decide(Role.CURRENT, Role.CURRENT)[1] == "port 80 is held only by gw.service (2 processes)"
    assert decide(Role.SOCKET_UNIT)[1] == "systemd listens on port 80 for gw.service"
    assert decide(Role.UNKNOWN)[1] == (
        "port 80 is held by PID 100 (gateway), in gw.service; whether gw.service owns it is unknown: it is a test"
    )
    mistaken = decide(Role.LEFTOVER)[1]
    assert "left over from an earlier invocation; systemd took it for the main process of gw.service" in mistaken
    lost = decide(Role.LEFTOVER, of_unit={"active_state": ActiveState.INACTIVE})[1]
    assert "systemd has lost track of gw.service" in lost
    both = decide(Role.ORPHAN, Role.LEFTOVER, of_unit={"active_state": ActiveState.FAILED, "main_pid": 0})[1]
    assert both == (
        "port 80 is held by PID 100 (gateway), in gw.service: not this unit; "
        "and by PID 101 (gateway), in gw.service, left over from an earlier invocation"
    )
    assert owner_changing(Port(80)).verdict is Verdict.OWNER_UNKNOWN


def test_a_socket_without_a_holder_is_unknown() -> None:
    assert decide(Role.CURRENT, unseen=(ONE,))[0] is Verdict.OWNER_UNKNOWN


@pytest.mark.parametrize(
    ("made_in", "verdict"), [(77, Verdict.OWNED), (78, Verdict.OWNER_UNKNOWN), (0, Verdict.OWNER_UNKNOWN)]
)
def test_hidden_processes_do_not_matter_if_the_unit_created_the_socket(made_in: int, verdict: Verdict) -> None:
    assert decide(Role.CURRENT, hidden=3, listeners=(listener(cgroup_id=made_in),))[0] is verdict


def test_hidden_processes_do_not_matter_if_the_manager_created_the_socket() -> None:
    assert decide(Role.SOCKET_UNIT, hidden=3)[0] is Verdict.OWNER_UNKNOWN
    assert decide(Role.SOCKET_UNIT, hidden=3, manager_sockets=(ONE,))[0] is Verdict.OWNED


def test_a_wildcard_is_more_than_one_address() -> None:
    one = listener("127.0.0.1")
    every = Port(80, address="0.0.0.0")
    assert decide(Role.CURRENT, port=every, listeners=(one,)) == (
        Verdict.NOT_LISTENING,
        "gw.service listens on 127.0.0.1:80 only, not on 0.0.0.0:80",
    )
    assert decide(Role.CURRENT, port=every)[0] is Verdict.OWNED
