"""The state of a unit is reported as soon as it can be found, long before the time-out, on a real systemd."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import LONG, book, script, wait
from tests.machine.runs import runbook, unit_file

SLEEPS = "/usr/bin/sleep infinity"
NOTIFY = """
import os, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", chr(0)))
"""
NOT_EXECUTED = "its program was not executed: systemd could not execute the file .status 203.EXEC.*"
GOES_ON = "restart: {on-failure: continue}"


@dataclass(frozen=True)
class Shape:
    """A unit, and the verdicts of `restart` and `wait-ready`. An empty verdict stands for success."""

    file: str
    verdict: str
    reason: str
    restart: str = ""
    wait: str = "healthy-for: 500ms"
    first: str = "restart"


SHAPES = {
    # Crash loops: the unit is restarted again and again.
    "loop": Shape(
        unit_file(script("exit 1"), Restart="always"),
        "crash-loop",
        "its main process exited with status 1$",
    ),
    "loop without a start limit": Shape(
        unit_file(script("exit 1"), Restart="always", RestartSec="2s", Unit_StartLimitIntervalSec="0"),
        "crash-loop",
        "status 1; it has no start limit, and will be restarted for ever$",
    ),
    "loop that is faster than the journal": Shape(
        unit_file(script("exit 1"), Restart="always", RestartSec="0", Unit_StartLimitIntervalSec="0"),
        "crash-loop",
        "its main process (exited with status 1|keeps exiting); it has no start limit, and will be restarted for ever$",
    ),
    "loop with pauses of an hour": Shape(
        unit_file(script("exit 1"), Restart="always", RestartSec="1h"),
        "crash-loop",
        "^systemd will restart web.service in 1h: its main process exited with status 1; with its RestartSec= the "
        "start limit is never reached, and it will be restarted for ever$",
    ),
    "loop of a command before it": Shape(
        unit_file(SLEEPS, ExecStartPre=script("exit 7"), Restart="always", RestartSec="1h"),
        "crash-loop",
        "its ExecStartPre=/bin/sh exited with status 7",
        restart="job-failed",
        first=GOES_ON,
    ),
    "loop of a command after it": Shape(
        unit_file(SLEEPS, ExecStartPost=script("exit 8"), Restart="always", RestartSec="1h"),
        "crash-loop",
        "its ExecStartPost=/bin/sh exited with status 8",
        restart="job-failed",
        first=GOES_ON,
    ),
    "watchdog": Shape(
        unit_file(
            script("systemd-notify --ready; exec sleep infinity"),
            Type="notify",
            NotifyAccess="all",
            WatchdogSec="500ms",
            Restart="always",
            RestartSec="1h",
        ),
        "crash-loop",
        "it sent no keep-alive ping within the 0.5s of WatchdogSec=, and systemd stopped it",
        wait="healthy-for: 30s",
    ),
    # The unit is down, and no restart will follow.
    "prevented": Shape(
        unit_file(script("sleep 0.3; exit 78"), Restart="on-failure", RestartPreventExitStatus="78"),
        "unit-failed",
        "^web.service failed: its main process exited with status 78; "
        "RestartPreventExitStatus= names that, so systemd leaves it down$",
        wait="healthy-for: 30s",
    ),
    "clean exit": Shape(
        unit_file(script("sleep 0.3; exit 0"), Restart="on-failure"),
        "unit-exited",
        "^web.service is down: its main process exited with status 0$",
        wait="healthy-for: 30s",
    ),
    "condition": Shape(
        unit_file(SLEEPS, Unit_ConditionPathExists="/nowhere"),
        "condition-not-met",
        "does not hold$",
        restart="condition-not-met",
        first=GOES_ON,
    ),
    "command as condition": Shape(
        unit_file(SLEEPS, ExecCondition=script("exit 3")),
        "condition-not-met",
        "^web.service was not started: its ExecCondition=/bin/sh exited with status 3$",
        restart="condition-not-met",
        first=GOES_ON,
    ),
    "dependency": Shape(
        unit_file(SLEEPS, Unit_Requires="db.service", Unit_After="db.service"),
        "job-dependency",
        "web.service needs db.service, which failed: its main process exited with status 3$",
        restart="job-dependency",
        first=GOES_ON,
    ),
    "work that is done": Shape(
        unit_file("/bin/true", Type="oneshot"),
        "unit-exited",
        "a Type=oneshot without RemainAfterExit= is down once its work is done, and is not to be waited for$",
    ),
    "no such program": Shape(unit_file("/nowhere/web"), "unit-failed", NOT_EXECUTED),
    "no such program, and Type=exec": Shape(
        unit_file("/nowhere/web", Type="exec"), "unit-failed", NOT_EXECUTED, restart="job-failed", first=GOES_ON
    ),
    # The unit waits for a report that its Type= needs and that never comes.
    "never notifies": Shape(
        unit_file(SLEEPS, Type="notify", TimeoutStartSec="1s"),
        "not-notifying",
        "it did not report that it is ready within the 1s of TimeoutStartSec= .Type=notify., and systemd stopped it$",
        restart="not-notifying",
        first=GOES_ON,
    ),
    "a notification that is refused": Shape(
        # The notification comes from another process than the main process.
        unit_file(
            script("python3 /opt/notify.py; exec sleep infinity"),
            Type="notify",
            NotifyAccess="main",
            TimeoutStartSec="1s",
        ),
        "not-notifying",
        "it did not report that it is ready within the 1s",
        restart="not-notifying",
        first=GOES_ON,
    ),
    "a name that never comes": Shape(
        unit_file(SLEEPS, Type="dbus", BusName="org.example.Never", TimeoutStartSec="1s"),
        "not-notifying",
        "its name org.example.Never did not appear on the bus within the 1s",
        restart="not-notifying",
        first=GOES_ON,
    ),
    "the wrong PIDFile": Shape(
        unit_file(script("sleep infinity & exit 0"), Type="forking", PIDFile="/run/wrong.pid", TimeoutStartSec="1s"),
        "unit-failed",
        "did not complete within the 1s of TimeoutStartSec= .Type=forking., "
        "no main process was taken from PIDFile=/run/wrong.pid",
        restart="job-failed",
        first=GOES_ON,
    ),
    "a fork that fails": Shape(
        unit_file(script("exit 9"), Type="forking"),
        "unit-failed",
        "^web.service failed: its ExecStart=/bin/sh exited with status 9$",
        restart="job-failed",
        first=GOES_ON,
    ),
    # The unit is ready.
    "work that leaves something": Shape(unit_file("/bin/true", Type="oneshot", RemainAfterExit="yes"), "", "^healthy"),
    "exec": Shape(unit_file(SLEEPS, Type="exec"), "", "^healthy"),
    "idle": Shape(unit_file(SLEEPS, Type="idle"), "", "^healthy"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_verdict_on_a_unit_comes_early(machine: Machine, unit: InstallUnit, name: str) -> None:
    shape = SHAPES[name]
    machine.write("/opt/notify.py", NOTIFY)
    unit("db.service", unit_file(script("exit 3"), Type="oneshot"))
    unit("web.service", shape.file)
    run = runbook(machine, "apply", book("web", shape.first, wait(shape.wait)))
    restarted, waited = run.step("restart"), run.step("wait-ready")
    assert restarted["verdict"] == (shape.restart or "job-done"), run.last
    assert waited["verdict"] == (shape.verdict or "ready"), waited["reason"]
    assert re.search(shape.reason, waited["reason"]), waited["reason"]
    assert waited["seconds"] < LONG / 4


FIRST_END = {
    "exit 7": "its main process exited with status 7",
    "kill -9 $$$$": "its main process was killed by signal 9, which systemd did not send",
    "exit 0": "it exited, and systemd counts that as a success",
}


RUNS_ON = "touch /run/runs; exec sleep infinity"
UNTIL_IT_RUNS = "run: {run: 'until test -e /run/runs; do sleep 0.01; done', timeout: 20s}"
ANEW = ["rm", "-rf", "/run/first", "/run/second", "/run/runs"]


@pytest.mark.parametrize("end", FIRST_END)
def test_an_exit_that_the_unit_no_longer_shows_is_reported(machine: Machine, unit: InstallUnit, end: str) -> None:
    """The next process runs before the first check, so the unit no longer shows how the previous one exited."""
    unit("web.service", unit_file(script(f"if mkdir /run/first; then {end}; fi; {RUNS_ON}"), Restart="always"))
    machine.run(ANEW)
    run = runbook(machine, "apply", book("web", "restart", UNTIL_IT_RUNS, wait()))
    waited = run.step("wait-ready")
    assert (waited["verdict"], waited["reason"]) == (
        "crash-loop",
        f"systemd restarted web.service once: {FIRST_END[end]}",
    )
    assert waited["evidence"]["SubState"] == "running"
    assert waited["seconds"] < LONG / 4


def test_a_missing_report_that_the_unit_no_longer_shows_is_reported(machine: Machine, unit: InstallUnit) -> None:
    """systemd counts the exit on TERM as clean. No process has failed, and only the journal has the Result."""
    ready, silent = "systemd-notify --ready", "mkdir /run/second && exec sleep infinity"
    start = script(f"if mkdir /run/first; then {ready}; exit 0; fi; {silent}; {ready}; {RUNS_ON}")
    settings = {"Type": "notify", "NotifyAccess": "all", "TimeoutStartSec": "1s", "Restart": "always"}
    unit("web.service", unit_file(start, **settings))
    machine.run(ANEW)
    run = runbook(machine, "apply", book("web", "restart", UNTIL_IT_RUNS, wait()))
    waited = run.step("wait-ready")
    assert (waited["verdict"], waited["reason"]) == (
        "not-notifying",
        "systemd restarted web.service 2 times: it did not report that it is ready within the 1s of TimeoutStartSec= "
        "(Type=notify), and systemd stopped it",
    )


def test_a_loop_is_reported_after_the_allowed_restart(machine: Machine, unit: InstallUnit) -> None:
    """One restart is allowed. The second one is reported once systemd announces it."""
    # The pause is long enough for a check on a slow machine.
    pause = {"RestartSec": "3s", "Unit_StartLimitIntervalSec": "60"}
    unit("web.service", unit_file(script("sleep 0.2; exit 1"), Restart="always", **pause))
    run = runbook(machine, "apply", book("web", "restart", wait("healthy-for: 30s, max-restarts: 1")))
    waited = run.step("wait-ready")
    assert waited["verdict"] == "crash-loop"
    assert waited["reason"] == "systemd will restart web.service in 3s, for the 2nd time: " + EXITED


EXITED = "its main process exited with status 1"


def test_a_start_limit_that_was_hit_before_is_reported(machine: Machine, service: StartService) -> None:
    """Result= is still exit-code."""
    service("web.service", unit_file(script("exit 1"), Restart="always", Unit_StartLimitBurst="2"))
    until(lambda: machine.show("web.service", "ActiveState")["ActiveState"] == "failed", "the limit to be hit")
    assert machine.show("web.service", "Result")["Result"] == "exit-code"
    run = runbook(machine, "apply", book("web", wait()))
    waited = run.step("wait-ready")
    assert (waited["verdict"], waited["seconds"] < LONG / 4) == ("start-limit-hit", True)
    assert waited["reason"] == f"systemd gave web.service up, its starts (2 in 10s) were used up: {EXITED}"


FILES = {
    "changed": (
        "echo >> /etc/systemd/system/web.service",
        "; the file of web.service changed since systemd read it: the unit runs by the old file "
        "(systemctl daemon-reload)",
    ),
    "gone": (
        "rm /etc/systemd/system/web.service; systemctl daemon-reload",
        "; the file of web.service is gone: once it stops, it cannot be started",
    ),
    "masked": (
        "rm /etc/systemd/system/web.service; systemctl mask --quiet web.service",
        "; web.service has been masked: once it stops, it cannot be started (systemctl unmask web.service)",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_changed_file_of_a_running_unit_is_reported(machine: Machine, service: StartService, what: str) -> None:
    """The unit is ready, and a problem of its next start is reported. A restart does not stop what it cannot start."""
    service("web.service", unit_file(SLEEPS))
    pid = machine.show("web.service", "MainPID")
    command, problem = FILES[what]
    machine.run(["sh", "-c", command])
    run = runbook(machine, "apply", book("web", wait("healthy-for: 200ms"), "restart"))
    assert run.step("wait-ready")["reason"].endswith(problem)
    if what == "changed":
        assert (run.exit, machine.show("web.service", "NeedDaemonReload")["NeedDaemonReload"]) == (0, "no")
        return
    expected = {"gone": "unit-not-found", "masked": "unit-masked"}[what]
    assert (run.exit, run.last["verdict"]) == (1, expected)
    assert machine.show("web.service", "MainPID") == pid


def test_a_unit_that_is_down_without_its_file_is_not_found(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(SLEEPS))
    machine.run(["sh", "-c", "rm /etc/systemd/system/web.service; systemctl daemon-reload"])
    run = runbook(machine, "check", book("web", wait()))
    assert (run.exit, run.step("wait-ready")["verdict"]) == (1, "unit-not-found")
