"""Reloads of a unit and of the unit files, on a real systemd."""

from __future__ import annotations

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine
from tests.machine.runs import runbook, unit_file

COUNT = "/bin/sh -c 'echo again >>/run/reloads'"
BOOK = "unit: web\nsteps: [reload]\n"


def test_a_reload_keeps_the_invocation(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    before = machine.show("web.service", "InvocationID", "MainPID")
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.verdicts) == (0, [("reload", "changed", "reloaded")]), run.last
    assert machine.read("/run/reloads") == "again\n"
    machine.run(["rm", "/run/reloads"])
    assert machine.show("web.service", "InvocationID", "MainPID") == before


def test_a_unit_without_a_reload_command_is_a_failure(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["verdict"]) == (1, "job-failed")
    assert run.step("reload")["reason"] == "web.service cannot reload: its unit file has no ExecReload="
    assert not run.of("step-acting")


def test_a_unit_that_is_down_is_a_failure(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    machine.run(["systemctl", "stop", "web.service"])
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["verdict"]) == (1, "job-failed")
    assert "only an active unit can reload" in run.step("reload")["reason"]
    assert not run.of("step-acting")


def test_a_failed_reload_command_leaves_the_unit_running(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload="/bin/false"))
    pid = machine.show("web.service", "MainPID")["MainPID"]
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["verdict"]) == (1, "job-failed")
    reason = run.step("reload")["reason"]
    assert f"did not succeed (exit-code); it is still active (running), PID {pid}" in reason


def test_a_reload_that_kills_the_main_process_is_a_failure(machine: Machine, service: StartService) -> None:
    """sleep has no handler for HUP. systemd reports the job as done, as the command exited with 0."""
    hup = "/bin/sh -c 'kill -HUP $MAINPID; while kill -0 $MAINPID; do sleep 0.01; done; sleep 0.3'"
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=hup, Restart="always"))
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["status"]) == (1, "failed"), run.last
    assert "web.service" in run.step("reload")["reason"]
    machine.run(["systemctl", "reset-failed", "web.service"], check=False)


NOTIFIES = """
import os, signal, socket, sys, time

def tell(text):
    if "NOTIFY_SOCKET" not in os.environ:
        return
    door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    door.sendto(text.encode(), os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))

def reload(_signum, _frame):
    if "silent" not in sys.argv:
        tell(f"RELOADING=1\\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    if len(sys.argv) == 1:
        tell("READY=1")

signal.signal(signal.SIGHUP, reload)
tell("READY=1")
while True:
    signal.pause()
"""


@pytest.mark.parametrize("mode", ["", "silent", "halfway"])
def test_a_reload_waits_for_the_report_of_its_end(
    machine: Machine, service: StartService, suite: str, mode: str
) -> None:
    """Type=notify-reload came with systemd 253. systemd 252 does not have it, and takes the unit for Type=simple.

    If a service reports the beginning of its reload but never the end, it stays `reloading`: systemd 257 sets no limit.
    """
    machine.write("/opt/notifies.py", NOTIFIES)
    # A service that reports has enough time. For one that does not, this must still suffice for its start.
    settings = {"Type": "notify-reload", "TimeoutStartSec": "3" if mode else "30", "TimeoutStopSec": "1"}
    service("web.service", unit_file(f"/usr/bin/python3 /opt/notifies.py {mode}", **settings))
    before = machine.show("web.service", "InvocationID", "MainPID")
    run = runbook(machine, "apply", BOOK)
    step = run.step("reload")
    assert machine.show("web.service", "InvocationID", "MainPID") == before
    if suite == "bookworm":
        assert (run.exit, step["verdict"]) == (1, "job-failed"), step
        assert step["reason"] == "web.service cannot reload: its unit file has no ExecReload="
    elif not mode:
        assert (run.exit, step["verdict"]) == (0, "reloaded"), step
    elif mode == "silent":
        assert (run.exit, step["verdict"]) == (1, "job-failed"), step
        missing = "it did not report the end of its reload within the 3s of TimeoutStartSec= (Type=notify-reload)"
        assert step["reason"].startswith(f"the reload of web.service failed: {missing}; it is still active (running)")
    else:
        assert (run.exit, step["verdict"]) == (1, "job-timeout"), step
        assert step["reason"].endswith(": it has not reported the end of its reload yet (Type=notify-reload)")


def test_a_daemon_reload_reads_a_changed_unit_file(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    machine.write("/etc/systemd/system/web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    refused = runbook(machine, "apply", BOOK)
    assert "that file has changed on disk, and daemon-reload reads it" in refused.step("reload")["reason"]
    run = runbook(machine, "apply", "unit: web\nsteps: [daemon-reload, reload]\n")
    machine.run(["rm", "-f", "/run/reloads"])
    assert (run.exit, run.verdicts) == (
        0,
        [("daemon-reload", "changed", "reloaded"), ("reload", "changed", "reloaded")],
    ), run.last


def test_a_user_without_the_rights_cannot_reload(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    for kind in ("reload", "daemon-reload"):
        run = runbook(machine, "apply", f"unit: web\nsteps: [{kind}]\n", user="agentops")
        assert (run.exit, run.last["status"]) == (5, "not-begun"), run.last
    assert machine.run(["test", "-e", "/run/reloads"], check=False).returncode == 1
