"""Reloads on a real systemd: what the unit and the unit files are afterwards."""

from __future__ import annotations

from tests.machine.conftest import StartService
from tests.machine.machine import Machine
from tests.machine.runs import runbook, unit_file

COUNT = "/bin/sh -c 'echo again >>/run/reloads'"
BOOK = "unit: web\nsteps: [reload]\n"


def test_the_same_invocation_goes_on(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    before = machine.show("web.service", "InvocationID", "MainPID")
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.verdicts) == (0, [("reload", "changed", "reloaded")]), run.last
    assert machine.read("/run/reloads") == "again\n"
    machine.run(["rm", "/run/reloads"])
    assert machine.show("web.service", "InvocationID", "MainPID") == before


def test_a_unit_that_cannot_reload(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["verdict"]) == (1, "job-failed")
    assert run.step("reload")["reason"] == "web.service cannot reload: its unit file has no ExecReload="
    assert not run.of("step-acting")


def test_a_unit_that_is_down(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    machine.run(["systemctl", "stop", "web.service"])
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["verdict"]) == (1, "job-failed")
    assert "only an active unit can reload" in run.step("reload")["reason"]
    assert not run.of("step-acting")


def test_a_reload_command_that_fails(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload="/bin/false"))
    pid = machine.show("web.service", "MainPID")["MainPID"]
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["verdict"]) == (1, "job-failed")
    reason = run.step("reload")["reason"]
    assert f"did not succeed (exit-code); it is still active (running), PID {pid}" in reason


def test_a_program_that_dies_of_its_reload(machine: Machine, service: StartService) -> None:
    """sleep does not know HUP. systemd calls the job done: its command ended with 0."""
    hup = "/bin/sh -c 'kill -HUP $MAINPID; while kill -0 $MAINPID; do sleep 0.01; done; sleep 0.3'"
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=hup, Restart="always"))
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.step("reload")["status"]) == (1, "failed"), run.last
    assert "web.service" in run.step("reload")["reason"]
    machine.run(["systemctl", "reset-failed", "web.service"], check=False)


def test_systemd_reads_a_changed_unit_file(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    machine.write("/etc/systemd/system/web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    refused = runbook(machine, "apply", BOOK)
    assert "that file changed on disk, and daemon-reload reads it" in refused.step("reload")["reason"]
    run = runbook(machine, "apply", "unit: web\nsteps: [daemon-reload, reload]\n")
    machine.run(["rm", "-f", "/run/reloads"])
    assert (run.exit, run.verdicts) == (
        0,
        [("daemon-reload", "changed", "reloaded"), ("reload", "changed", "reloaded")],
    ), run.last


def test_a_user_may_not(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", ExecReload=COUNT))
    for kind in ("reload", "daemon-reload"):
        run = runbook(machine, "apply", f"unit: web\nsteps: [{kind}]\n", user="agentops")
        assert (run.exit, run.last["status"]) == (5, "not-begun"), run.last
    assert machine.run(["test", "-e", "/run/reloads"], check=False).returncode == 1
