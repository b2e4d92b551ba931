"""Acts of another requester on the unit during a run are found, reported and not undone, on a real systemd."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.ending.staging import listening
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import REQUESTER, book, meanwhile, script, wait
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import PROJECT

SLEEPS = unit_file("/usr/bin/sleep infinity")
FIXES = "remediate: {check: [wait-ready: {timeout: 60s, healthy-for: 30s}], fix: [stop, reset-failed, start]}"
WAITS, CHECKS = "wait-ready", "remediate.check.wait-ready"


def leaves_late(seconds: int) -> str:
    """Return a service that takes its time to stop.

    systemd sends TERM as long as it finds new processes, so the child for which the shell waits must ignore it.
    """
    late = f'late() {{ trap "" TERM; sleep {seconds}; exit 0; }}'
    return unit_file(script(f"{late}; trap late TERM; while :; do sleep 0.1; done"))


def does(machine: Machine, command: str) -> Any:
    """Return a function that runs the command of a second administrator."""
    return lambda _event: machine.run(["sh", "-c", command])


def test_a_restart_during_the_wait_is_reported(machine: Machine, service: StartService) -> None:
    """As needrestart does. The unit is ready in the end. The restart is reported as that of another requester."""
    service("web.service", unit_file("/usr/bin/sleep infinity", Restart="always"))
    act = does(machine, "systemctl restart web.service; touch /run/went")
    # The unit is ready only after the restart, however late that is.
    fields = "healthy-for: 1s, probes: [run: {run: test -e /run/went}]"
    run = meanwhile(machine, book("web", wait(fields)), act, event="step-waiting", id=WAITS)
    machine.run(["rm", "/run/went"])
    assert (run.exit, run.step(WAITS)["verdict"]) == (0, "ready"), run.last
    expected = f"; {REQUESTER} started web.service again once while it was watched$"
    assert re.search(expected, run.step(WAITS)["reason"]), run.last


def test_a_restart_just_before_the_wait_is_reported(machine: Machine, service: StartService) -> None:
    """The wait is for another invocation than the one that the run started."""
    service("web.service", leaves_late(1))
    other = "systemd-run --quiet --wait --unit=other systemctl restart web.service"
    run = runbook(machine, "apply", book("web", "restart", f"run: {{run: {other}}}", wait("healthy-for: 200ms")))
    expected = (
        r"; something else \(PID \d+ `\S*systemctl restart web.service` as root in other.service\) "
        r"started web.service again once while it was watched$"
    )
    assert re.search(expected, run.step(WAITS)["reason"]), run.last


def test_a_watchdog_that_restarts_the_unit_is_reported(
    machine: Machine, service: StartService, unit: InstallUnit
) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", Unit_StartLimitIntervalSec="0"))
    unit("dog.service", unit_file(script("while sleep 0.5; do systemctl restart web.service; done")))
    machine.run(["systemctl", "start", "dog.service"])
    run = runbook(machine, "apply", book("web", wait("healthy-for: 5s", seconds=6)))
    machine.run(["systemctl", "stop", "dog.service"])
    assert (run.exit, run.last["verdict"]) == (1, "unit-changed"), run.last
    # Each requester exits after milliseconds. Nearly all are found, and here are several.
    named = r"\(last seen: PID \d+ `systemctl restart web.service` as root in dog.service\)"
    expected = rf"something else( {named})? started web.service again ([2-9]|\d\d) times while it was watched"
    assert re.search(expected, run.last["reason"]), run.last


def test_a_stop_is_not_undone(machine: Machine, service: StartService) -> None:
    """A second administrator stops the unit during the check of a remediation. No fix starts it again."""
    service("web.service", SLEEPS)
    act = does(machine, "systemctl stop web.service")
    run = meanwhile(machine, book("web", FIXES), act, event="step-waiting", id=CHECKS)
    assert run.step(CHECKS)["verdict"] == "unit-changed"
    # If the check comes during the stop, it reports the stop as in progress.
    expected = f"^{REQUESTER} (stopped web.service while it was watched$|is stopping web.service, which)"
    assert re.search(expected, run.step(CHECKS)["reason"]), run.last
    assert run.last["reason"].startswith("remediate: no fix was begun, because another requester acts on the unit")
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "inactive"


def test_a_stop_in_progress_is_reported_at_once(machine: Machine, service: StartService) -> None:
    """The unit is `deactivating (stop-sigterm)` until TimeoutStopSec= is over. It is not reported as starting."""
    service("web.service", leaves_late(60))
    act = does(machine, "systemctl stop --no-block web.service")
    run = meanwhile(machine, book("web", wait("healthy-for: 30s")), act, event="step-waiting", id=WAITS)
    assert run.step(WAITS)["verdict"] == "unit-changed", run.last
    expected = rf"^{REQUESTER} is stopping web.service, which is deactivating \(stop-sigterm\)"
    assert re.search(expected, run.step(WAITS)["reason"]), run.last


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_a_unit_that_does_not_stop_is_not_ready(machine: Machine, service: StartService, verb: str) -> None:
    """The old process ignores TERM and still serves. No step reports the unit as ready or the port as owned."""
    deaf = f"/usr/bin/python3 {PROJECT}/tests/machine/readiness/answers.py old 127.0.0.1:9404 deaf"
    service("web.service", unit_file(deaf, TimeoutStopSec="600"))
    listening(machine, {9404})
    pid = machine.show("web.service", "MainPID")["MainPID"]
    machine.run(["systemctl", verb, "--no-block", "web.service"])
    until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "its stop")
    probes = 'healthy-for: 0, on-failure: continue, probes: [{http: {url: "http://127.0.0.1:9404/"}}]'
    text = book("web", wait(probes, seconds=2), "verify-port-owner", port=9404)
    stopping = (
        f"something else is {verb}{'p' if verb == 'stop' else ''}ing web.service, which is deactivating (stop-sigterm)"
        f", PID {pid}; it serves until its processes have exited; they get KILL after the 10min of TimeoutStopSec="
    )
    waited = "unit-changed" if verb == "stop" else "still-starting"
    owner = f"{stopping}; port 9404 is held only by PID {pid}"
    try:
        run = runbook(machine, "check", text)
        assert [(step["verdict"], step["reason"]) for step in run.of("step-finished")] == [
            (waited, stopping),
            ("unit-changed", owner),
        ]
        assert run.exit == 1
        run = runbook(machine, "apply", text)
        assert run.step(WAITS)["verdict"] == waited
        expected = stopping if verb == "stop" else f"not ready within 2s: {stopping}; it was left alone"
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


def test_a_kill_by_another_process_is_reported(machine: Machine, service: StartService) -> None:
    """The sender of the signal is unknown, but it was not systemd."""
    service("web.service", SLEEPS)
    act = does(machine, "systemctl kill --signal=KILL web.service")
    run = meanwhile(machine, book("web", wait("healthy-for: 30s")), act, event="step-waiting", id=WAITS)
    assert run.step(WAITS)["verdict"] == "unit-failed"
    assert run.step(WAITS)["reason"].endswith("was killed by signal 9, which systemd did not send")


def test_a_unit_that_is_masked_during_a_run_is_not_started(machine: Machine, service: StartService) -> None:
    machine.run(["mkdir", "-p", "/run/systemd/system"])
    machine.write("/run/systemd/system/lent.service", SLEEPS)
    machine.run(["sh", "-c", "systemctl daemon-reload; systemctl start lent.service"])
    act = does(machine, "systemctl mask --quiet lent.service && systemctl stop lent.service")
    run = meanwhile(machine, book("lent", FIXES), act, event="step-waiting", id=CHECKS)
    machine.run(["sh", "-c", "systemctl unmask --quiet lent.service; rm -f /run/systemd/system/lent.service"])
    machine.run(["systemctl", "daemon-reload"])
    assert run.step(CHECKS)["verdict"] in ("unit-changed", "unit-masked")
    assert "no fix was begun" in run.last["reason"]


def test_a_daemon_reload_does_not_interrupt_the_window(machine: Machine, service: StartService) -> None:
    """It changes nothing of the unit."""
    service("web.service", SLEEPS)
    act = does(machine, "systemctl daemon-reload")
    run = meanwhile(machine, book("web", wait("healthy-for: 1s")), act, event="step-waiting", id=WAITS)
    assert run.step(WAITS)["reason"] == "healthy for 1s, ready after 0.0s"


def test_a_stop_during_a_restart_of_the_run_is_not_undone(machine: Machine, service: StartService) -> None:
    """The stop replaces the job of the restart. The unit is not started again."""
    service("web.service", leaves_late(4))
    fix = "remediate: {check: [verify-port-owner: {port: 9403}], fix: [restart]}"

    def stop(_event: object) -> None:
        until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "the first half")
        machine.run(["systemctl", "stop", "web.service"])

    run = meanwhile(machine, book("web", fix), stop, event="step-acting", id="remediate.fix.restart")
    restarted = run.step("remediate.fix.restart")
    assert restarted["verdict"] == "job-canceled", restarted
    expected = (
        r"^the job of something else \(PID \d+ `systemctl stop web.service` as root\) "
        r"took the place of this restart of web.service, which is"
    )
    assert re.search(expected, restarted["reason"]), restarted
    assert not run.of("unit-started-again")
    assert machine.show("web.service", "ActiveState")["ActiveState"] in ("inactive", "failed")


def test_two_restarts_at_once_are_one_job(machine: Machine, service: StartService) -> None:
    """systemd merges both jobs into one."""
    service("web.service", leaves_late(4))

    def restart(_event: object) -> None:
        until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "the first half")
        machine.run(["systemctl", "restart", "web.service"])

    run = meanwhile(machine, book("web", "restart"), restart, event="step-acting", id="restart")
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last


# -- the requester's name: systemctl waits for its job, and a service that takes its time to stop delays that


def lasting(command: str) -> str:
    """Return a shell command that writes its PID and then waits for its job, so that the scan finds it."""
    return f"echo $$ > /run/asker; exec {command}"


def acts(machine: Machine, command: str, fields: str = "healthy-for: 500ms") -> tuple[str, Any]:
    """Run a command during a wait. Return the reason of the wait, and the requesters in its evidence."""
    run = meanwhile(machine, book("web", wait(fields)), does(machine, command), event="step-waiting", id=WAITS)
    return run.step(WAITS)["reason"], run.step(WAITS)["evidence"].get("asked-by")


def test_an_administrator_is_named(machine: Machine, service: StartService) -> None:
    service("web.service", leaves_late(1))
    reason, asked = acts(machine, lasting("systemctl restart web"))
    pid = machine.read("/run/asker").strip()
    named = f"something else (PID {pid} `systemctl restart web` as root)"
    assert reason.endswith(f"; {named} started web.service again once while it was watched")
    assert asked == [{"pid": int(pid), "command": "systemctl restart web", "user": "root"}]


def test_the_requester_of_a_stop_in_progress_is_named(machine: Machine, service: StartService) -> None:
    service("web.service", leaves_late(3))
    reason, _asked = acts(machine, lasting("systemctl stop web.service"))
    pid = machine.read("/run/asker").strip()
    named = f"something else (PID {pid} `systemctl stop web.service` as root)"
    assert reason.startswith(f"{named} is stopping web.service, which is deactivating")


def test_the_requester_of_an_earlier_job_is_named(machine: Machine, service: StartService) -> None:
    """The job began before the run, but its requester is still waiting for it."""
    service("web.service", leaves_late(5))
    with machine.popen(["systemctl", "stop", "web.service"]) as stop:
        until(lambda: machine.show("web.service", "SubState")["SubState"] == "stop-sigterm", "its stop")
        run = runbook(machine, "check", book("web", wait()))
        assert stop.wait(20) == 0
    expected = r"^something else \(PID \d+ `systemctl stop web.service` as root\) is stopping web.service"
    assert re.search(expected, run.step(WAITS)["reason"]), run.last


def test_a_watchdog_is_named_by_its_unit(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    service("web.service", leaves_late(1))
    unit("dog.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'systemctl restart web.service; true'\n")
    reason, _asked = acts(machine, "systemctl start dog.service")
    assert re.search(
        r"something else \(PID \d+ `systemctl restart web.service` as root in dog.service\) started", reason
    ), reason


def test_a_program_that_calls_systemctl_is_named(machine: Machine, service: StartService) -> None:
    """As needrestart does. The processes between it and systemctl are left out."""
    service("web.service", leaves_late(1))
    text = "#!/bin/sh\necho $$ > /run/asker\nenv sh -c 'systemctl restart other.service web.service; true'\n"
    machine.write("/usr/local/sbin/needrestart", text, 0o755)
    reason, _asked = acts(machine, "/usr/local/sbin/needrestart")
    pid = machine.read("/run/asker").strip()
    assert re.search(
        rf"\(PID \d+ `systemctl restart other.service web.service`, run by PID {pid} \(needrestart\) as root\) started",
        reason,
    ), reason


BECOMES_ROOT = """
import os
reader, writer = os.pipe()
if os.fork() == 0:
    os.read(reader, 1)
    os.execvp("systemctl", ["systemctl", "restart", "web.service"])
os.setresuid(UID, UID, UID)
os.write(writer, b"x")
os.wait()
"""
"""A user's process whose child is root, as with sudo."""


def test_a_user_who_became_root_is_named_with_the_session(machine: Machine, service: StartService) -> None:
    service("web.service", leaves_late(1))
    uid = machine.run(["id", "-u", "agentops"]).stdout.strip()
    machine.write("/run/shell.py", BECOMES_ROOT.replace("UID", uid))
    scope = "systemd-run --quiet --scope --slice=user.slice --unit=session-c9.scope"
    reason, _asked = acts(machine, f"{scope} /usr/bin/python3 /run/shell.py")
    expected = r"run by PID \d+ \(shell.py\) as root for agentops in session-c9.scope\) started web.service again once"
    assert re.search(expected, reason), reason


def test_a_command_of_the_run_is_not_another_requester(machine: Machine, service: StartService) -> None:
    service("web.service", leaves_late(1))
    text = book("web", "restart", "run: {run: systemctl restart web.service}", wait("healthy-for: 200ms"))
    run = runbook(machine, "apply", text)
    assert (run.exit, run.step(WAITS)["verdict"]) == (0, "ready"), run.last
    assert "something else" not in run.step(WAITS)["reason"]
    assert "asked-by" in run.step(WAITS)["evidence"]


CALL = (
    "dbus-send --system --dest=org.freedesktop.systemd1 --print-reply /org/freedesktop/systemd1 "
    "org.freedesktop.systemd1.Manager.RestartUnit string:web.service string:replace"
)
"""A call to systemd without systemctl, which does not wait for the job."""


def test_a_requester_without_systemctl_is_not_named(machine: Machine, service: StartService) -> None:
    """It has exited, and no process shows who it was."""
    service("web.service", leaves_late(1))
    reason, asked = acts(machine, CALL)
    assert reason.endswith("; something else started web.service again once while it was watched")
    assert asked is None


def test_a_systemctl_that_only_reads_is_not_named(machine: Machine, service: StartService) -> None:
    """A systemctl with the unit's name runs all the time. It is blocked because its output is not read."""
    service("web.service", leaves_late(1))
    full = "rm -f /run/full; mkfifo /run/full; exec 9<>/run/full; head -c 65536 /dev/zero >&9"
    reads = 'systemctl show web.service >&9 & until grep -q systemctl "/proc/$!/comm"; do sleep 0.01; done'
    done = "while systemctl list-jobs | grep -q web.service; do sleep 0.05; done; kill $!"
    reason, asked = acts(machine, f"{full}; {reads}; {CALL}; {done}")
    assert reason.endswith("; something else started web.service again once while it was watched")
    assert asked is None


def test_a_timer_is_named_as_the_requester(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    """systemd reports the timer as the trigger of a start, and still does so after a restart by hand."""
    service("web.service", SLEEPS)
    unit("web.timer", "[Timer]\nOnActiveSec=1ms\nAccuracySec=1ms\nRemainAfterElapse=no\n")
    up = "until systemctl --quiet is-active web.service; do sleep 0.05; done"
    by_timer = f"systemctl stop web.service; systemctl start web.timer; {up}"
    run = runbook(machine, "apply", book("web", "restart", f"run: {{run: '{by_timer}'}}", wait("healthy-for: 200ms")))
    triggered = "something else (web.timer, which triggers it) started web.service again once while it was watched"
    assert run.step(WAITS)["reason"].endswith(triggered), run.last
    machine.run(["systemctl", "stop", "web.timer"])
    run = runbook(machine, "apply", book("web", "restart", f"run: {{run: '{CALL}'}}", wait("healthy-for: 200ms")))
    assert "web.timer" not in run.step(WAITS)["reason"], run.last
