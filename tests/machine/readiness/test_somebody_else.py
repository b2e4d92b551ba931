"""Somebody else acts on the unit in the middle: noticed, said, and never undone, on a real systemd."""

from __future__ import annotations

from typing import Any

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.ending.staging import listening
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, meanwhile, script, wait
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import PROJECT

SLEEPS = unit_file("/usr/bin/sleep infinity")
MENDS = "remediate: {check: [wait-ready: {timeout: 60s, healthy-for: 30s}], fix: [stop, reset-failed, start]}"
WAITS, CHECKS = "wait-ready", "remediate.check.wait-ready"


def leaves_late(seconds: int) -> str:
    """Write a service that takes its time to stop.

    systemd sends TERM until it sees no process any more that is new to it: what the shell waits for must not hear it.
    """
    late = f'late() {{ trap "" TERM; sleep {seconds}; exit 0; }}'
    return unit_file(script(f"{late}; trap late TERM; while :; do sleep 0.1; done"))


def does(machine: Machine, command: str) -> Any:
    """Make what a second administrator types."""
    return lambda _told: machine.run(["sh", "-c", command])


def test_a_restart_in_the_middle_of_the_wait(machine: Machine, service: StartService) -> None:
    """As needrestart does. It is ready in the end, and that was no restart of systemd's or of the run's."""
    service("web.service", unit_file("/usr/bin/sleep infinity", Restart="always"))
    act = does(machine, "systemctl restart web.service; touch /run/went")
    # However late that is: it is not ready before.
    fields = "healthy-for: 1s, probes: [run: {run: test -e /run/went}]"
    run = meanwhile(machine, book("web", wait(fields)), act, event="step-waiting", id=WAITS)
    machine.run(["rm", "/run/went"])
    assert (run.exit, run.step(WAITS)["verdict"]) == (0, "ready"), run.last
    assert run.step(WAITS)["reason"].endswith("; somebody else started web.service again once while it was watched")


def test_a_restart_before_the_wait(machine: Machine, service: StartService) -> None:
    """What is waited for is not what the run itself started."""
    service("web.service", SLEEPS)
    text = book("web", "restart", "run: {run: systemctl restart web.service}", wait("healthy-for: 200ms"))
    run = runbook(machine, "apply", text)
    assert "somebody else started web.service again once" in run.step(WAITS)["reason"]


def test_a_watchdog_that_never_lets_it_be(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", Unit_StartLimitIntervalSec="0"))
    unit("dog.service", unit_file(script("while sleep 0.5; do systemctl restart web.service; done")))
    machine.run(["systemctl", "start", "dog.service"])
    run = runbook(machine, "apply", book("web", wait("healthy-for: 5s", seconds=6)))
    machine.run(["systemctl", "stop", "dog.service"])
    assert (run.exit, run.last["verdict"]) == (1, "unit-changed"), run.last
    assert "somebody else started web.service again" in run.last["reason"]


def test_a_stop_is_not_undone(machine: Machine, service: StartService) -> None:
    """A second administrator stops it while a remediation watches: no fix starts it again."""
    service("web.service", SLEEPS)
    act = does(machine, "systemctl stop web.service")
    run = meanwhile(machine, book("web", MENDS), act, event="step-waiting", id=CHECKS)
    assert run.step(CHECKS)["verdict"] == "unit-changed"
    assert run.step(CHECKS)["reason"] == "somebody else stopped web.service while it was watched"
    assert run.last["reason"].startswith("remediate: no fix was begun, for somebody else acts on the unit")
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "inactive"


def test_a_stop_that_goes_on_serving(machine: Machine, service: StartService) -> None:
    """`deactivating (stop-sigterm)` for as long as TimeoutStopSec=: known at once, and not called starting."""
    service("web.service", leaves_late(60))
    act = does(machine, "systemctl stop --no-block web.service")
    run = meanwhile(machine, book("web", wait("healthy-for: 30s")), act, event="step-waiting", id=WAITS)
    assert run.step(WAITS)["verdict"] == "unit-changed", run.last
    assert "somebody else is stopping web.service, which is deactivating (stop-sigterm)" in run.step(WAITS)["reason"]


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_one_that_will_not_end(machine: Machine, service: StartService, verb: str) -> None:
    """The old process serves on, deaf to TERM. All three say so, and none that it is ready or the port in order."""
    deaf = f"/usr/bin/python3 {PROJECT}/tests/machine/readiness/answers.py old 127.0.0.1:9404 deaf"
    service("web.service", unit_file(deaf, TimeoutStopSec="600"))
    listening(machine, {9404})
    pid = machine.show("web.service", "MainPID")["MainPID"]
    machine.run(["systemctl", verb, "--no-block", "web.service"])
    until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "its stop")
    probes = 'healthy-for: 0, on-failure: continue, probes: [{http: {url: "http://127.0.0.1:9404/"}}]'
    text = book("web", wait(probes, seconds=2), "verify-port-owner", port=9404)
    says = (
        f"somebody else is {verb}{'p' if verb == 'stop' else ''}ing web.service, which is deactivating (stop-sigterm), "
        f"PID {pid}; it serves until its processes have ended, which get KILL after the 10min of TimeoutStopSec="
    )
    waited = "unit-changed" if verb == "stop" else "still-starting"
    owner = f"{says}; port 9404 is PID {pid}'s alone"
    try:
        run = runbook(machine, "check", text)
        assert [(step["verdict"], step["reason"]) for step in run.of("step-finished")] == [
            (waited, says),
            ("unit-changed", owner),
        ]
        assert run.exit == 1
        run = runbook(machine, "apply", text)
        assert run.step(WAITS)["verdict"] == waited
        expected = says if verb == "stop" else f"not ready within 2s: {says}; it was left alone"
        assert run.step(WAITS)["reason"] == expected
        if verb == "stop":
            assert run.step("verify-port-owner")["reason"] == owner
        else:
            assert run.exit == 3
            act = does(machine, f"kill -KILL {pid}")
            run = meanwhile(machine, book("web", wait(probes), port=9404), act, event="step-waiting", id=WAITS)
            assert (run.exit, run.step(WAITS)["verdict"]) == (0, "ready"), run.last
    finally:
        machine.run(["systemctl", "kill", "--signal=KILL", "web.service"], check=False)
        machine.run(["systemctl", "stop", "web.service"], check=False)
        machine.run(["systemctl", "reset-failed", "web.service"], check=False)


def test_a_kill(machine: Machine, service: StartService) -> None:
    """systemd does not know who; it was not systemd."""
    service("web.service", SLEEPS)
    act = does(machine, "systemctl kill --signal=KILL web.service")
    run = meanwhile(machine, book("web", wait("healthy-for: 30s")), act, event="step-waiting", id=WAITS)
    assert run.step(WAITS)["verdict"] == "unit-failed"
    assert run.step(WAITS)["reason"].endswith("was killed by signal 9, which systemd did not send")


def test_a_mask_in_the_middle(machine: Machine, service: StartService) -> None:
    machine.run(["mkdir", "-p", "/run/systemd/system"])
    machine.write("/run/systemd/system/lent.service", SLEEPS)
    machine.run(["sh", "-c", "systemctl daemon-reload; systemctl start lent.service"])
    act = does(machine, "systemctl mask --quiet lent.service && systemctl stop lent.service")
    run = meanwhile(machine, book("lent", MENDS), act, event="step-waiting", id=CHECKS)
    machine.run(["sh", "-c", "systemctl unmask --quiet lent.service; rm -f /run/systemd/system/lent.service"])
    machine.run(["systemctl", "daemon-reload"])
    assert run.step(CHECKS)["verdict"] in ("unit-changed", "unit-masked")
    assert "no fix was begun" in run.last["reason"]


def test_a_reload_in_the_middle(machine: Machine, service: StartService) -> None:
    """It changes nothing of the unit, and breaks no window."""
    service("web.service", SLEEPS)
    act = does(machine, "systemctl daemon-reload")
    run = meanwhile(machine, book("web", wait("healthy-for: 1s")), act, event="step-waiting", id=WAITS)
    assert run.step(WAITS)["reason"] == "healthy for 1s, ready after 0.0s"


def test_a_stop_in_the_middle_of_a_restart(machine: Machine, service: StartService) -> None:
    """The restart's job is replaced; nobody starts it again behind the administrator's back."""
    service("web.service", leaves_late(4))
    fix = "remediate: {check: [verify-port-owner: {port: 9403}], fix: [restart]}"

    def stop(_told: object) -> None:
        until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "the first half")
        machine.run(["systemctl", "stop", "web.service"])

    run = meanwhile(machine, book("web", fix), stop, event="step-acting", id="remediate.fix.restart")
    restarted = run.step("remediate.fix.restart")
    assert restarted["verdict"] == "job-canceled", restarted
    assert restarted["reason"].startswith("somebody else's job took the place of this restart of web.service, which is")
    assert not run.of("unit-started-again")
    assert machine.show("web.service", "ActiveState")["ActiveState"] in ("inactive", "failed")


def test_two_restarts_at_once(machine: Machine, service: StartService) -> None:
    """systemd makes one job of both, and it is done for both."""
    service("web.service", leaves_late(4))

    def restart(_told: object) -> None:
        until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "the first half")
        machine.run(["systemctl", "restart", "web.service"])

    run = meanwhile(machine, book("web", "restart"), restart, event="step-acting", id="restart")
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last
