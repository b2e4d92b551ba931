"""Another process on a port: how long it may take to exit, by what it is."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.foreign_owner import EXIT_GRACE, find_certain_owner, find_foreign_owner
from runbook.host.facts import ActiveState
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.model import Port, Verdict
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import ORPHAN

STOPPING = {"active_state": ActiveState.DEACTIVATING, "timeout_stop_usec": 7_000_000}


@pytest.mark.parametrize(
    ("role", "name", "facts", "grace"),
    [
        (Role.ORPHAN, "session-9.scope", {}, EXIT_GRACE),
        (Role.OTHER_UNIT, "web.socket", {}, 0.0),
        (Role.OTHER_UNIT, "web.service", {}, 0.0),
        (Role.OTHER_UNIT, "web.service", STOPPING, 7.0),
    ],
    ids=["an orphan", "a socket", "a service that is up", "a service that is being stopped"],
)
def test_how_long_it_may_take_to_exit(role: Role, name: str, facts: dict[str, Any], grace: float) -> None:
    machine = FakeMachine(units={"web.service": unit("web.service", **facts)})
    held = PortOwnership(
        Port(80), Verdict.OTHER_UNIT_HOLDS_PORT, "", holders=(Holder(process(74), role, name, "", ()),)
    )
    found = find_foreign_owner(machine, [held])
    assert found is not None
    assert found.grace == grace


def test_an_unknown_holder_is_no_certain_one() -> None:
    unknown = PortOwnership(Port(80), Verdict.OWNER_UNKNOWN, "")
    assert find_foreign_owner(FakeMachine(), [unknown]) is not None
    machine = FakeMachine(units={"gw.service": unit()}, processes={74: process(74, **ORPHAN)})
    listen(machine, 74, "127.0.0.1:80")
    assert find_certain_owner(machine, unit(), [Port(80)]) is not None
    machine.processes[74] = process(74, cgroup="")
    assert find_certain_owner(machine, unit(), [Port(80)]) is None
