"""Which other manager has a unit, and how to look there."""

from __future__ import annotations

import pytest

from runbook.checks.other_manager import explain_other_manager
from runbook.host.queries import OtherManagers
from tests.unit.fake_machine import FakeMachine


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (OtherManagers(), ""),
        (
            OtherManagers(system=True, own=True),
            "gw.service is a unit of the system: leave out --user, and run it as root",
        ),
        (OtherManagers(own=True), "gw.service is a unit of your user manager: add --user"),
        (
            OtherManagers(users=("alice",)),
            "gw.service is a unit of the user manager of alice: add --user, and run it as that user: "
            "su - alice -c 'runbook doctor --user gw'",
        ),
    ],
)
def test_which_manager(found: OtherManagers, advice: str) -> None:
    assert explain_other_manager(FakeMachine(other_managers=found), "gw.service", command="doctor --user gw") == advice
