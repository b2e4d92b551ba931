"""What needs a decision before a command, because a command could do harm."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.doctor.findings import Severity
from runbook.host.facts import ActiveState
from runbook.host.requesters import JobRequest, Requester
from runbook.model import Verdict
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
    assert (found.commands, found.proved_restart) == ((), "")
    assert [line.split()[0] for line in found.decision.commands] == ["kill", "timeout", "systemctl"]
    # An activator may wait for the same port.
    machine = incident(**STOPPED, triggered_by=("gw.timer",))
    machine.units["gw.timer"] = unit("gw.timer", main_pid=0)
    assert diagnose(machine).commands == ()
    assert diagnose(machine).decision.text.startswith("it did not fail: start it only if")


def test_who_stopped_a_unit_and_whether_a_boot_starts_it() -> None:
    request = JobRequest(7, (Requester(412, ("systemctl", "stop", "gw"), "root"),))
    for state, line in (("enabled", "enabled: a boot starts it"), ("disabled", "disabled: no boot starts it")):
        found = diagnose(FakeMachine({"gw.service": unit(**STOPPED, unit_file_state=state, job_requests=(request,))}))
        assert "something else (PID 412 `systemctl stop gw` as root) stopped it" in found.systemd
        assert line in found.systemd


def test_a_timer_that_may_only_restart_what_is_enabled() -> None:
    for kind, is_healthy in (("timer", False), ("socket", True)):
        facts = unit(**STOPPED, restart="no", unit_file_state="enabled", triggered_by=(f"gw.{kind}",))
        machine = FakeMachine({"gw.service": facts, f"gw.{kind}": unit(f"gw.{kind}", main_pid=0)})
        assert diagnose(machine).is_healthy == is_healthy


def test_a_start_in_a_loop_is_not_interrupted() -> None:
    looping = unit(**STARTING, n_restarts=4, exec_main_start_monotonic=990_000_000, inactive_exit_monotonic=990_000_000)
    found = diagnose(FakeMachine({"gw.service": looping}, {100: process(100)}))
    assert (found.verdict, found.commands) == (Verdict.CRASH_LOOP, ())


def test_a_start_that_may_reboot_the_machine() -> None:
    found = diagnose(FakeMachine({"gw.service": unit(**FAILED, failure_action="reboot", success_action="none")}))
    assert (found.commands, found.decision.commands[-1]) == ((), "systemctl start gw.service")
    assert found.decision.text.startswith("FailureAction=reboot acts on the whole machine if it fails or ends again: ")
    assert diagnose(FakeMachine({"gw.service": unit(**FAILED, failure_action="none")})).commands


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
