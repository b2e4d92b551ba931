"""What needs a decision before a command, because a command could do harm."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.doctor.findings import Severity
from runbook.host.facts import ActiveState
from tests.unit.doctor.diagnosed import COMMAND, FAILED, diagnose, incident
from tests.unit.fake_machine import FakeMachine, listen, process, unit

STOPPED: dict[str, Any] = {
    "active_state": ActiveState.INACTIVE,
    "sub_state": "dead",
    "main_pid": 0,
    "exec_main_code": 2,
    "exec_main_status": 15,
}
STARTING: dict[str, Any] = {"type": "notify", "active_state": ActiveState.ACTIVATING, "sub_state": "start"}


def test_a_unit_that_did_not_fail_is_started_only_if_it_is_to_run() -> None:
    found = diagnose(FakeMachine({"gw.service": unit(**STOPPED)}))
    assert (found.severity, found.commands) == (Severity.PROBLEM, ())
    assert found.decision == ("it did not fail: start it if it is to run", ("systemctl start gw.service",))
    # Beside a process on its port, the commands follow.
    found = diagnose(incident(**STOPPED))
    assert found.decision.text.startswith("it did not fail: start it only if it is to run, and if the process")
    assert found.commands[0] == "kill 74"


@pytest.mark.parametrize("kind", ["timer", "path", "socket"])
def test_what_starts_a_unit_on_demand(kind: str) -> None:
    ended = {**STOPPED, "exec_main_code": 1, "exec_main_status": 0, "triggered_by": (f"gw.{kind}",)}
    waits = unit(f"gw.{kind}", sub_state="waiting", main_pid=0)
    found = diagnose(FakeMachine({"gw.service": unit(**ended), f"gw.{kind}": waits}))
    assert (found.severity, found.commands, found.decision, found.causes) == (Severity.OK, (), ("", ()), ())
    assert f"gw.{kind} starts it on demand" in found.systemd


def test_a_start_that_would_stop_another_unit() -> None:
    facts = unit(**FAILED, conflicts=("old.service",))
    found = diagnose(FakeMachine({"gw.service": facts, "old.service": unit("old.service", main_pid=300)}))
    assert (found.commands, found.proved_restart) == ((), "")
    which = "decide which is to run: a start stops old.service (Conflicts=)"
    assert found.decision == (which, ("systemctl start gw.service",))
    stopped = unit("old.service", **STOPPED)
    assert diagnose(FakeMachine({"gw.service": facts, "old.service": stopped})).commands


@pytest.mark.parametrize(
    ("limit", "until"),
    [
        (90_000_000, "systemd ends its start in 1min 20s (TimeoutStartSec=)"),
        (2**64 - 1, "it has no time limit (TimeoutStartSec=)"),
    ],
)
def test_a_start_that_takes_long_is_waited_for(limit: int, until: str) -> None:
    slow = unit(**STARTING, start_arguments=COMMAND, timeout_start_usec=limit, inactive_exit_monotonic=990_000_000)
    machine = FakeMachine({"gw.service": slow}, {100: process(100)})
    listen(machine, 100, "127.0.0.1:18789")
    found = diagnose(machine)
    assert (found.commands, found.drop_ins) == ((), ())
    assert found.decision == (f"wait, and look again: {until}", ())
