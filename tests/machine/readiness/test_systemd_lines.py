"""Units that systemd itself could not load, set up or execute: its own lines are shown, and no exit of a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, script, wait
from tests.machine.runs import Run, runbook, unit_file, write_runbook

SLEEPS = "/usr/bin/sleep infinity"
NO_FILE = "No such file or directory"
HOME = "/home/agentops"


@dataclass(frozen=True)
class Shape:
    """A unit that cannot start."""

    text: str  # of its file
    reason: str  # of the failure
    line: str  # of systemd
    remembered: bool = True  # False if systemd unloads the unit afterwards


def not_executed(failed: str, status: str) -> str:
    return f"its program was not executed: systemd could not {failed} (status {status}"


RESOURCES = "an operation of systemd for it failed (Result is resources)"
WRONG = "systemd cannot load web.service: a setting in its file is wrong"

SHAPES = {
    "environment file": Shape(
        unit_file(SLEEPS, EnvironmentFile="/etc/none.env"),
        f"{RESOURCES}; its start reads /etc/none.env (EnvironmentFile=)",
        f"Failed to load environment files: {NO_FILE}",
    ),
    "environment file in a loop": Shape(
        unit_file(SLEEPS, EnvironmentFile="/etc/none.env", Restart="always", RestartSec="50ms"),
        f"{RESOURCES}; its start reads /etc/none.env",
        f"Failed to load environment files: {NO_FILE}",
    ),
    "user": Shape(unit_file(SLEEPS, User="nosuch"), not_executed("change to User=", "217/USER"), "Failed at step USER"),
    "group": Shape(
        unit_file(SLEEPS, Group="nosuch"),
        not_executed("change to Group= or SupplementaryGroups=", "216/GROUP"),
        "step GROUP",
    ),
    "folder": Shape(
        unit_file(SLEEPS, WorkingDirectory="/none"),
        not_executed("change to WorkingDirectory=", "200/CHDIR"),
        f"Failed at step CHDIR spawning /usr/bin/sleep: {NO_FILE}",
    ),
    "program": Shape(unit_file("/none"), not_executed("execute the file", "203/EXEC"), "Failed at step EXEC spawning"),
    "interpreter": Shape(
        unit_file("/opt/no-interpreter"),
        not_executed("execute the file", "203/EXEC, unless the program itself exits with that)"),
        "Failed at step EXEC spawning /opt/no-interpreter",
    ),
    "program, and Type=notify": Shape(
        unit_file("/none", Type="notify"), not_executed("execute the file", "203/EXEC"), "Failed at step EXEC spawning"
    ),
    "program, and Type=forking": Shape(
        unit_file("/none", Type="forking"),
        "its ExecStart=/none was not executed: systemd could not execute the file (status 203/EXEC",
        "Failed at step EXEC spawning",
    ),
    "command before": Shape(
        unit_file(SLEEPS, ExecStartPre="/none"),
        "its ExecStartPre=/none was not executed: systemd could not execute the file (status 203/EXEC",
        "Failed at step EXEC spawning",
    ),
    "command as condition": Shape(
        unit_file(SLEEPS, ExecCondition="/none"),
        "its ExecCondition=/none was not executed: systemd could not execute the file (status 203/EXEC",
        "Failed at step EXEC spawning",
        remembered=False,
    ),
    "namespace": Shape(
        unit_file(SLEEPS, ReadWritePaths="/none", ProtectSystem="strict"),
        "its program was not executed: systemd could not set up its namespaces",
        "Failed at step NAMESPACE spawning",
    ),
    "credential": Shape(
        unit_file(SLEEPS, LoadCredential="key:/none"),
        "its program was not executed: systemd could not set up its credentials",
        "Failed at step CREDENTIALS spawning",
    ),
    "two programs": Shape(unit_file(f"{SLEEPS}\nExecStart={SLEEPS}"), WRONG, "Service has more than one ExecStart="),
    "no program": Shape("[Service]\nType=simple\n", WRONG, "Service has no ExecStart="),
    "wrong path": Shape("[Service]\nExecStart=sleep$X/y\n", WRONG, "Neither a valid executable name nor an absolute"),
}


def failed(run: Run) -> tuple[str, list[str]]:
    """Return why the run failed, and what systemd logged."""
    assert run.exit == 1, run.last
    step = run.of("step-finished")[-1]
    return step["reason"], step["evidence"].get("systemd", [])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_systemd_logged_of_a_start_that_failed(machine: Machine, unit: InstallUnit, shape: Shape) -> None:
    machine.write("/opt/no-interpreter", "#!/none\n")
    machine.run(["chmod", "+x", "/opt/no-interpreter"])
    unit("web.service", shape.text)
    reason, lines = failed(runbook(machine, "apply", book("web", "restart", wait("healthy-for: 300ms"))))
    assert shape.reason in reason
    assert any(shape.line in line for line in lines), lines
    assert not any("Failed with result" in line or "Failed to start" in line for line in lines)
    # A check that changes nothing shows the same.
    _, lines = failed(runbook(machine, "check", book("web", wait("healthy-for: 300ms"))))
    assert any(shape.line in line for line in lines) is shape.remembered, lines


FORGES = """#!/bin/sh
# Write as the own words of systemd what systemd did not log.
printf 'web.service: Failed to load environment files: forged\\n'
logger --journald <<END
MESSAGE=web.service: Failed to load environment files: forged
UNIT=web.service
PRIORITY=3
MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7
INVOCATION_ID=$INVOCATION_ID
END
seq 500
exit 1
"""


def test_the_lines_of_systemd_stand_first(machine: Machine, unit: InstallUnit) -> None:
    """A service that writes much, and the same words and fields as systemd, does not hide or replace them."""
    machine.write("/run/web.env", "A=b\n")
    machine.write("/opt/forges", FORGES)
    machine.run(["chmod", "+x", "/opt/forges"])
    settings = {"EnvironmentFile": "/run/web.env", "Restart": "on-failure", "RestartSec": "50ms", "User": "nobody"}
    unit("web.service", unit_file("/opt/forges", ExecStopPost="+/bin/rm -f /run/web.env", **settings))
    write_runbook(machine, book("web", "restart", wait("healthy-for: 1s, max-restarts: 3")))
    shown = machine.run(["runbook", "apply", "/root/test.yaml", "--output", "plain"], check=False).stdout
    quoted = [line.strip() for line in shown.splitlines() if line.strip().startswith("| ")]
    assert quoted[0] == "| systemd: web.service: Failed to load environment files: No such file", shown
    assert "| 500" in quoted, "its own last lines follow"
    assert not any("forged" in line for line in quoted), shown
    assert machine.run(["journalctl", "-q", "UNIT=web.service", "_UID=65534", "-g", "forged"]).stdout


def test_a_program_that_exits_with_a_status_of_systemd_s(machine: Machine, unit: InstallUnit, suite: str) -> None:
    """systemd 257 shows that it executed the program; of 252 the sentence leaves it open."""
    unit("web.service", unit_file(script("exit 217")))
    reason, lines = failed(runbook(machine, "apply", book("web", "restart", wait("healthy-for: 300ms"))))
    executed = "web.service failed: its main process exited with status 217"
    open_ = (
        f"web.service failed: {not_executed('change to User=', '217/USER')}, unless the program itself exits with that)"
    )
    assert reason == (executed if suite == "trixie" else open_)
    assert not lines


def test_an_error_that_was_corrected_is_not_shown(machine: Machine, unit: InstallUnit) -> None:
    """Only what the latest load logged counts."""
    unit("web.service", unit_file(f"{SLEEPS}\nExecStart={SLEEPS}"))
    runbook(machine, "check", book("web", wait()))
    unit("web.service", "[Service]\nType=simple\nRestart=always\n")
    machine.run(["sleep", "1.1"])
    reason, lines = failed(runbook(machine, "apply", book("web", "start")))
    assert (reason, len(lines)) == (WRONG, 1), lines
    assert "Service has no ExecStart=" in lines[0]


def test_a_drop_in_file_that_is_wrong(machine: Machine, unit: InstallUnit) -> None:
    """systemd 252 reports without an end that such a unit needs a reload; one is made."""
    folder = "/etc/systemd/system/web.service.d"
    machine.write(f"{folder}/more.conf", f"[Service]\nExecStart={SLEEPS}\n")
    unit("web.service", unit_file(SLEEPS))
    run = runbook(machine, "apply", book("web", "restart"))
    machine.run(["rm", "-r", folder])
    reason, lines = failed(run)
    assert (reason, run.step("restart")["verdict"]) == (WRONG, "job-failed")
    assert any("more than one ExecStart=" in line for line in lines), lines


def test_a_unit_that_still_runs_by_a_file_that_is_wrong_now(machine: Machine, service: StartService) -> None:
    """Nothing is stopped; a correction of the file is read by the restart itself."""
    name = service("web.service", unit_file(SLEEPS))
    before = machine.show(name, "MainPID")["MainPID"]
    machine.write("/etc/systemd/system/web.service", unit_file(f"{SLEEPS}\nExecStart={SLEEPS}"))
    reason, lines = failed(runbook(machine, "apply", book("web", "restart")))
    assert reason == f"{WRONG}: it still runs, and once it stops, it cannot be started"
    assert any("more than one ExecStart=" in line for line in lines), lines
    assert machine.show(name, "MainPID")["MainPID"] == before
    machine.write("/etc/systemd/system/web.service", unit_file("/usr/bin/sleep 1h"))
    assert runbook(machine, "apply", book("web", "restart")).exit == 0
    assert machine.show(name, "MainPID")["MainPID"] != before


def test_a_restart_of_a_frozen_unit(machine: Machine, service: StartService, suite: str) -> None:
    """systemd 257 refuses it, and logs that it does. 252 thaws the unit, and restarts it."""
    name = service("web.service", unit_file(SLEEPS))
    before = machine.show(name, "MainPID", "InvocationID")
    machine.run(["systemctl", "freeze", name])
    run = runbook(machine, "apply", book("web", "restart"))
    if suite == "trixie":
        reason, lines = failed(run)
        frozen = "web.service is frozen, so none of its processes runs (systemctl thaw web.service lets them run)"
        assert (reason, lines) == (
            f"the restart of web.service failed: {frozen}",
            ["Cannot stop frozen unit web.service."],
        )
        assert machine.show(name, "MainPID", "InvocationID") == before
        machine.run(["systemctl", "thaw", name])
        run = runbook(machine, "apply", book("web", "restart"))
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last
    assert "systemd" not in run.step("restart")["evidence"]
    assert machine.show(name, "FreezerState")["FreezerState"] == "running"
    assert machine.show(name, "InvocationID")["InvocationID"] != before["InvocationID"]


@pytest.fixture
def user_manager(machine: Machine) -> Iterator[None]:
    """Start the user's manager of agentops."""
    machine.run(["loginctl", "enable-linger", "agentops"])

    def is_up() -> bool:
        asked = machine.run(["systemctl", "--user", "is-system-running"], check=False, user="agentops")
        return asked.stdout.strip() in ("running", "degraded")

    until(is_up, "the manager of agentops")
    yield
    machine.run(["rm", "-rf", f"{HOME}/.config", f"{HOME}/test.yaml"])
    machine.run(["loginctl", "disable-linger", "agentops"])
    until(lambda: not machine.run(["ls", "/run/user"]).stdout.strip(), "the manager to exit")


@pytest.mark.parametrize("name", ["environment file", "folder", "program", "two programs"])
@pytest.mark.usefixtures("user_manager")
def test_a_unit_of_a_user_s_manager(machine: Machine, name: str) -> None:
    shape = SHAPES[name]
    machine.write(f"{HOME}/.config/systemd/user/web.service", shape.text)
    machine.run(["chown", "-R", "agentops", HOME])
    machine.run(["systemctl", "--user", "daemon-reload"], user="agentops")
    text = book("web", "restart", wait("healthy-for: 300ms"), scope="user")
    reason, lines = failed(runbook(machine, "apply", text, user="agentops"))
    assert shape.reason in reason
    assert any(shape.line in line for line in lines), lines
