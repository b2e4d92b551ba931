"""An update with `stop-first`: it keeps its unit stopped while the files are replaced, and releases it in any case."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, least, until
from tests.machine.runs import RUNBOOK, interrupted, parsed, runbook, unit_file, write_runbook

SLEEP = "/usr/bin/sleep infinity"


def book(run: str, *, timeout: str = "30s", then: str = "start") -> str:
    return f"""
        unit: web
        steps:
          - update:
              stop-first: true
              run: |
                systemctl is-active web.service web.socket web.timer >/run/seen || true
                {run}
              version: cat /run/version
              to: 1.1.0
              timeout: {timeout}
          - {then}
    """


@pytest.fixture
def web(machine: Machine, service: StartService) -> Iterator[Machine]:
    """Start web.service, web.socket and web.timer, which would start it, and install version 1.0.0."""
    machine.write("/run/version", "1.0.0\n")
    machine.write("/etc/systemd/system/web.timer", "[Timer]\nOnCalendar=*:*:0/1\nAccuracySec=1ms\n")
    machine.write("/etc/systemd/system/web.socket", "[Socket]\nListenStream=/run/web.sock\n")
    service("web.service", unit_file(SLEEP, Restart="always", Unit_StartLimitIntervalSec="0"))
    # systemd refuses to open a socket while its service is running.
    machine.run(["systemctl", "stop", "web.service"])
    machine.run(["systemctl", "start", "web.socket", "web.timer"])
    machine.run(["systemctl", "start", "web.service"])
    yield machine
    machine.run(["systemctl", "stop", "web.timer", "web.socket", "web.service"])
    machine.run(
        ["sh", "-c", "rm -f /etc/systemd/system/web.timer /etc/systemd/system/web.socket /run/version /run/seen"]
    )
    machine.run(["systemctl", "daemon-reload"])


def states(machine: Machine) -> list[str]:
    names = ["web.service", "web.socket", "web.timer"]
    return machine.run(["systemctl", "is-active", *names], check=False).stdout.split()


def test_the_unit_is_kept_stopped_and_then_released(web: Machine) -> None:
    """The timer would start the unit each second. It stays down while the command runs."""
    run = runbook(
        web, "apply", book("sleep 2.5; systemctl is-active web.service >>/run/seen || true; echo 1.1.0 >/run/version")
    )
    assert (run.exit, run.step("update")["verdict"]) == (0, "updated"), run.last
    assert web.read("/run/seen").split() == ["inactive"] * 4
    assert "web.socket was started again and is active" in run.step("update")["reason"]
    assert states(web) == ["active"] * 3


def test_a_failed_update_starts_the_unit_again(web: Machine) -> None:
    run = runbook(web, "apply", book("exit 7"))
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed"), run.last
    assert "exited with status 7" in run.step("update")["reason"]
    assert "web.service was started again and is active (running), PID" in run.step("update")["reason"]
    assert states(web) == ["active"] * 3


def test_a_start_limit_does_not_keep_the_unit_down(web: Machine) -> None:
    """The update stopped the unit, so it must start it again even if earlier starts have used up the limit."""
    limit = {"Unit_StartLimitIntervalSec": "600", "Unit_StartLimitBurst": "1"}
    web.write("/etc/systemd/system/web.service", unit_file(SLEEP, **limit))
    web.run(["systemctl", "daemon-reload"])
    web.run(["systemctl", "stop", "web.timer"])
    web.run(["systemctl", "reset-failed", "web.service"])
    # This is the one start that the limit allows, as systemd counts a start when it begins.
    web.run(["systemctl", "stop", "web.service"])
    web.run(["systemctl", "start", "web.service"])
    run = runbook(web, "apply", book("exit 7"))
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed"), run.last
    assert "web.service was started again and is active (running), PID" in run.step("update")["reason"]
    assert states(web)[0] == "active"


def test_an_update_that_times_out_starts_the_unit_again(web: Machine) -> None:
    run = runbook(web, "apply", book("sleep 4322", timeout="2s"))
    assert (run.exit, run.step("update")["verdict"]) == (1, "timed-out"), run.last
    until(lambda: states(web) == ["active"] * 3, "all to be up again", 10)
    assert web.run(["pgrep", "-f", "sleep 4322"], check=False).returncode == 1


def test_a_start_by_another_requester_is_undone(web: Machine) -> None:
    # The command ends only when the unit is stopped again, and only the update can do that. Otherwise it times out.
    meddling = "systemctl start web.service; while systemctl --quiet is-active web.service; do sleep 0.05; done"
    run = runbook(web, "apply", book(f"{meddling}; echo 1.1.0 >/run/version"))
    assert (run.exit, run.step("update")["verdict"]) == (0, "updated"), run.last
    # The requester is in the command of the run. It may have exited before the scan finds it.
    expected = (
        r"which (something else|a command of this run \(PID \d+ `systemctl start web.service`.*\)) started meanwhile"
    )
    assert any(re.search(expected, e["reason"]) for e in run.of("step-acting")), run.events


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_starts_the_unit_again(web: Machine, signum: signal.Signals) -> None:
    write_runbook(web, book("sleep 4323"))

    def interrupt() -> float:
        run, took = interrupted(web, signum, "sleep 4323")
        assert (run.exit, run.last["status"]) == (128 + signum, "interrupted")
        until(lambda: states(web) == ["active"] * 3, "all to be up again", 10)
        assert web.run(["pgrep", "-f", "sleep 4323"], check=False).returncode == 1
        return took

    assert least(interrupt, within=1.0) < 1.0


def test_an_interruption_during_the_stop_starts_the_unit_again(web: Machine) -> None:
    """systemd opens no socket while its service is stopping, so the socket has to wait for the end of the stop."""
    late = "until test -e /run/web.go; do sleep 0.1; done; exit 0"
    slow = f"trap '{late}' TERM; touch /run/web.up; while :; do sleep 0.1; done"
    # With KillMode=mixed only the shell gets the signal, which would end the sleep of the trap.
    text = unit_file(f'/bin/sh -c "{slow}"', Restart="always", KillMode="mixed")
    web.write("/etc/systemd/system/web.service", text)
    web.run(["systemctl", "daemon-reload"])
    web.run(["rm", "-f", "/run/web.up", "/run/web.go"])
    web.run(["systemctl", "restart", "web.service"])
    until(lambda: web.run(["test", "-e", "/run/web.up"], check=False).returncode == 0, "it to be up")
    write_runbook(web, book("true"))
    with web.popen(["runbook", "apply", RUNBOOK, "--output", "json"]) as process:
        until(lambda: states(web)[0] == "deactivating", "the stop to go on")
        web.run(["pkill", "-TERM", "-f", "runbook apply"])
        out, err = process.communicate(timeout=20)
    assert parsed(out, process.returncode, err).last["status"] == "interrupted"
    assert states(web)[0] == "deactivating"
    web.run(["touch", "/run/web.go"])
    until(lambda: states(web) == ["active"] * 3, "all to be up again", 15)


def test_units_that_were_down_stay_down(web: Machine) -> None:
    web.run(["systemctl", "stop", "web.timer", "web.socket", "web.service"])
    run = runbook(web, "apply", book("exit 7"))
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed"), run.last
    assert states(web) == ["inactive"] * 3


def test_a_dry_run_stops_nothing(web: Machine) -> None:
    pid = web.show("web.service", "MainPID")
    run = runbook(web, "apply", book("exit 7"), "--dry-run")
    planned = next(e for e in run.of("step-planned") if e["id"] == "update")
    assert "would stop web." in planned["reason"]
    assert (run.exit, planned["impact"], web.show("web.service", "MainPID")) == (0, "mutating", pid)
