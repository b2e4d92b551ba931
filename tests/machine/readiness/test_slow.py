"""A slow start is not a failure: it is not interrupted, no fix begins, and the exit status is 3."""

from __future__ import annotations

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine
from tests.machine.readiness.shapes import book, script
from tests.machine.runs import runbook, unit_file

EXTENDS = script("while :; do systemd-notify EXTEND_TIMEOUT_USEC=10000000; sleep 0.3; done")

SLOW = {
    "extends its time": (
        unit_file(EXTENDS, Type="notify", NotifyAccess="all", TimeoutStartSec="2s"),
        "it has not reported that it is ready yet (Type=notify)",
    ),
    "a command before it": (
        unit_file("/usr/bin/sleep infinity", ExecStartPre="/usr/bin/sleep 3600", TimeoutStartSec="infinity"),
        "web.service is activating (start-pre)",
    ),
    "a PID file to come": (
        unit_file(script("sleep infinity & exit 0"), Type="forking", PIDFile="/run/late.pid"),
        "web.service is activating (start): systemd waits for PIDFile=/run/late.pid (Type=forking)",
    ),
    "listens late": (unit_file("/usr/bin/sleep infinity"), "web.service does not listen on 9402 yet"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_start_is_not_interrupted(machine: Machine, unit: InstallUnit, name: str) -> None:
    """Neither the step that starts the unit nor the wait stops it. The fix does not begin."""
    text, reason = SLOW[name]
    unit("web.service", text)
    fixes = "remediate: {check: [wait-ready: {timeout: 1s, healthy-for: 0}], fix: [stop, reset-failed, start]}"
    run = runbook(machine, "apply", book("web", "restart: {timeout: 2s}", fixes, port=9402))
    assert (run.exit, run.last["status"], run.last["verdict"]) == (3, "still-starting", "still-starting"), run.last
    assert reason in run.last["reason"]
    assert not [e for e in run.of("step-finished") if ".fix." in e["id"]]
    state = machine.show("web.service", "ActiveState", "InvocationID")
    assert state["ActiveState"] in ("activating", "active")
    # With `on-timeout: fail` the run fails. Even then the service is not stopped.
    short = "timeout: 300ms, healthy-for: 0"
    strict = runbook(machine, "apply", book("web", f"wait-ready: {{{short}, on-timeout: fail}}", port=9402))
    assert strict.exit == 1
    assert machine.show("web.service", "ActiveState", "InvocationID") == state
