"""Why processes of an earlier invocation are left in the cgroup of the unit."""

from __future__ import annotations

from typing import Any

from runbook.doctor.findings import Cause, Severity
from tests.unit.doctor.diagnosed import causes, diagnose, healthy, only
from tests.unit.fake_machine import EARLIER, FakeMachine, listen, process


def leftover(**changes: Any) -> FakeMachine:
    machine = healthy(**changes)
    machine.processes[90] = process(90, invocation_id=EARLIER, started=100.0)
    machine.processes[100] = process(100, invocation_id="a" * 32)
    return machine


def test_a_leftover_that_kill_mode_spared() -> None:
    (cause,) = diagnose(leftover(kill_mode="process")).causes
    assert cause.severity is Severity.WARNING
    assert cause.sentence == (
        "PID 90 (gateway) of an earlier invocation is still in its cgroup: with KillMode=process a stop spares every "
        "other process of the unit"
    )
    # It may be there on purpose.
    assert diagnose(leftover(kill_mode="process")).commands == ()
    assert cause.drop_in is None
    assert cause.prevention == "if a stop is to kill it, too: KillMode=control-group instead of KillMode=process"


def test_a_leftover_that_has_the_port() -> None:
    def held(**changes: Any) -> Cause:
        machine = leftover(kill_mode="process", **changes)
        listen(machine, 90, "0.0.0.0:18789")
        return only(machine, "with KillMode=process a stop spares every other process of the unit")

    drop_in = held().drop_in
    assert drop_in is not None
    assert drop_in.path == "/etc/systemd/system/gw.service.d/zz-runbook-kill-mode.conf"
    assert drop_in.text == "[Service]\nKillMode=control-group\n"
    # A delegated cgroup may hold what the unit itself manages, such as containers.
    assert held(delegate=True).drop_in is None


def test_a_leftover_that_got_no_sigkill_and_one_of_which_the_reason_is_unknown() -> None:
    (cause,) = diagnose(leftover(kill_mode="control-group", send_sigkill=False)).causes
    assert (cause.drop_in, cause.prevention) == (
        None,
        "if a stop is to kill it, too: SendSIGKILL=yes instead of SendSIGKILL=no",
    )
    machine = leftover(kill_mode="control-group", send_sigkill=False)
    listen(machine, 90, "127.0.0.1:18789", first_inode=900)
    (cause,) = [one for one in diagnose(machine).causes if one.source == "SendSIGKILL="]
    assert cause.drop_in is not None
    assert cause.drop_in.effect.endswith(", as PID 90 (gateway)")
    assert "SendSIGKILL=yes" in cause.drop_in.text
    (cause,) = diagnose(leftover(kill_mode="control-group")).causes
    assert cause.drop_in is None
    assert "KillMode" not in cause.sentence


def test_without_a_leftover_kill_mode_is_no_cause() -> None:
    assert causes(healthy(kill_mode="process")) == []
