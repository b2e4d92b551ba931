"""What proves a restart: another invocation, with or without a main process; and what of a target is restarted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, script, wait
from tests.machine.runs import runbook, unit_file

SLEEPS = "/usr/bin/sleep infinity"
SERVES = script("setsid python3 -m http.server --bind 127.0.0.1 9420 >/dev/null 2>&1 & exit 0")
TWO = script("setsid sleep 7300 & setsid sleep 7301 & exit 0")

NO_MAIN_PROCESS = {
    "as a SysV script": unit_file(SERVES, Type="forking", GuessMainPID="no", RemainAfterExit="yes"),
    "GuessMainPID=no": unit_file(SERVES, Type="forking", GuessMainPID="no"),
    "two daemons": unit_file(TWO, Type="forking"),
    "a oneshot": unit_file(script("exit 0"), Type="oneshot", RemainAfterExit="yes"),
    "a oneshot that is down afterwards": unit_file(script("exit 0"), Type="oneshot"),
    "a oneshot without ExecStart": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/bin/true\n",
}


@pytest.mark.parametrize("name", NO_MAIN_PROCESS)
def test_without_a_main_process(machine: Machine, unit: InstallUnit, name: str) -> None:
    """The InvocationID is the proof."""
    unit("web.service", NO_MAIN_PROCESS[name])
    run = runbook(machine, "apply", book("web", "restart", "restart", "stop", "start"))
    down = name == "a oneshot that is down afterwards"
    stopped = ("stop", "ok", "already-so") if down else ("stop", "changed", "job-done")
    done = [("restart", "changed", "job-done"), ("restart-2", "changed", "job-done"), stopped]
    assert run.verdicts == [*done, ("start", "changed", "job-done")], run.last


def test_a_service_without_a_main_process_is_upgraded(machine: Machine, unit: InstallUnit) -> None:
    """A good upgrade of it is not taken back."""
    unit("web.service", NO_MAIN_PROCESS["as a SysV script"])
    machine.write("/srv/version", "1.0.0\n")
    update = "update: {run: 'echo ${{ to }} >/srv/version', version: cat /srv/version, to: 2.0.0}"
    steps = (update, "restart", wait("healthy-for: 500ms"))
    run = runbook(machine, "apply", book("web", *steps, rollback="auto", port=9420))
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert machine.read("/srv/version") == "2.0.0\n"


def test_the_main_process_of_before(machine: Machine, service: StartService) -> None:
    """A restart that keeps the invocation is none, whatever the unit has for processes."""
    service("web.service", unit_file(SLEEPS))
    run = runbook(machine, "apply", book("web", "restart"))
    assert run.verdicts == [("restart", "changed", "job-done")]


# Targets


@pytest.fixture
def target(machine: Machine) -> Iterator[None]:
    """app.target, which wants one.service and two.service; both run."""
    machine.write("/etc/systemd/system/app.target", "[Unit]\nWants=one.service two.service\n")
    for name in ("one", "two"):
        machine.write(f"/etc/systemd/system/{name}.service", unit_file(SLEEPS))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "app.target"])
    yield
    machine.run(["systemctl", "stop", "app.target", "one.service", "two.service"])
    folder = "/etc/systemd/system"
    machine.run(["sh", "-c", f"cd {folder}; rm app.target one.service two.service; systemctl daemon-reload"])


def part_of(machine: Machine, *names: str) -> None:
    """Make units a part of app.target."""
    for name in names:
        machine.write(f"/etc/systemd/system/{name}.service", unit_file(SLEEPS, Unit_PartOf="app.target"))
    machine.run(["systemctl", "daemon-reload"])


def pids(machine: Machine) -> list[str]:
    return [machine.show(f"{name}.service", "MainPID")["MainPID"] for name in ("one", "two")]


@pytest.mark.usefixtures("target")
def test_a_target_that_restarts_nothing(machine: Machine) -> None:
    """No unit is a part of it: no job is requested, and the reason names what goes on running."""
    before = pids(machine)
    for verb, word in (("restart", "not-restarted"), ("stop", "job-failed")):
        run = runbook(machine, "apply", book("app.target", verb))
        assert (run.exit, run.step(verb)["verdict"]) == (1, word), run.last
        assert not run.of("step-acting")
        assert "one.service and two.service" in run.last["reason"]
        assert "PartOf=app.target" in run.last["reason"]
        assert machine.show("app.target", "ActiveState")["ActiveState"] == "active"
    assert pids(machine) == before


@pytest.mark.usefixtures("target")
def test_a_target_that_restarts_all_or_one(machine: Machine) -> None:
    before = pids(machine)
    part_of(machine, "one", "two")
    run = runbook(machine, "apply", book("app.target", "restart"))
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last
    between = pids(machine)
    assert between[0] != before[0]
    assert between[1] != before[1]
    machine.write("/etc/systemd/system/two.service", unit_file(SLEEPS))
    machine.run(["systemctl", "daemon-reload"])
    run = runbook(machine, "apply", book("app.target", "restart"))
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last
    assert "two.service was not restarted with it" in run.step("restart")["reason"]
    after = pids(machine)
    assert (after[0] != between[0], after[1]) == (True, between[1])


@pytest.mark.usefixtures("target")
def test_a_target_whose_units_are_down(machine: Machine) -> None:
    """Its restart starts them."""
    machine.run(["systemctl", "stop", "one.service", "two.service"])
    run = runbook(machine, "apply", book("app.target", "restart"))
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last
    until(lambda: "0" not in pids(machine), "both to run")
