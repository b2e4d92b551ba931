"""A unit without a fault has no cause."""

from __future__ import annotations

from runbook.host.facts import ActiveState
from runbook.model import Verdict
from tests.unit.doctor.diagnosed import diagnose
from tests.unit.fake_machine import FakeMachine, unit


def test_a_stopped_unit_has_no_cause() -> None:
    stopped = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0)
    found = diagnose(FakeMachine({"gw.service": stopped}))
    assert (found.verdict, found.causes) == (Verdict.UNIT_EXITED, ())
    assert (found.commands, found.decision.commands) == ((), ("systemctl start gw.service",))
