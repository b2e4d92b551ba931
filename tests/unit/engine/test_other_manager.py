"""Advice on a unit that only another manager has."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.other_manager import describe_other_manager, find_other_manager
from runbook.host.facts import LoadState, Unit
from runbook.host.queries import OtherManagers
from runbook.spec.runbook import Runbook
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import step


def book(**top: Any) -> Runbook:
    return Runbook.model_validate({"unit": "gw.service", "steps": [step("restart")], "path": "x.yaml", **top})


AS_ALICE = "and run it as that user: su - alice -c 'runbook …'"


@pytest.mark.parametrize(
    ("found", "top", "advice"),
    [
        (OtherManagers(), {}, ""),
        (OtherManagers(own=True), {}, "a unit of your user manager: add --user"),
        (OtherManagers(own=True, users=("bob",)), {}, "a unit of your user manager: add --user"),
        (OtherManagers(own=True), {"scope": "system"}, "a unit of your user manager: write `scope: user` in the file"),
        (OtherManagers(users=("alice",)), {}, f"a unit of the user manager of alice: add --user, {AS_ALICE}"),
        (
            OtherManagers(users=("alice", "bob", "carol", "dan")),
            {"scope": "system"},
            f"a unit of the user managers of alice and bob and carol: write `scope: user` in the file, {AS_ALICE}",
        ),
        (OtherManagers(system=True), {}, "a unit of the system: leave out --user, and run it as root"),
        (
            OtherManagers(system=True),
            {"scope": "user"},
            "a unit of the system: write `scope: system` in the file, and run it as root",
        ),
    ],
)
def test_what_to_do(found: OtherManagers, top: dict[str, str], advice: str) -> None:
    missing = Unit("gw.service", load_state=LoadState.NOT_FOUND)
    said = describe_other_manager(FakeMachine(other_managers=found), missing, book(**top))
    assert said == (f"gw.service is {advice}" if advice else "")


def test_only_a_unit_that_is_missing_counts() -> None:
    machine = FakeMachine(other_managers=OtherManagers(own=True))
    assert find_other_manager(machine, book()) == "gw.service is a unit of your user manager: add --user"
    machine.units["gw.service"] = unit()
    assert find_other_manager(machine, book()) == ""
