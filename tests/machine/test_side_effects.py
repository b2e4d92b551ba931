"""What systemd does beside the jobs of a runbook is in the plan, and at the beginning of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine
from tests.machine.runs import runbook, unit_file

SLEEP = "/bin/sleep infinity"
BOOK = "unit: main\nsteps: [{steps}]\n"


class Units:
    """Units that are installed in a machine, and removed with it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.made: list[str] = []

    def __call__(self, name: str, **settings: str) -> None:
        self.made.append(name)
        self.machine.write(f"/etc/systemd/system/{name}", unit_file(SLEEP, **settings))
        self.machine.run(["systemctl", "daemon-reload"])

    def start(self, *names: str) -> None:
        self.machine.run(["systemctl", "start", *names])

    def state(self, name: str) -> str:
        return self.machine.show(name, "ActiveState")["ActiveState"]

    def notices(self, steps: str, command: str = "apply") -> list[str]:
        options = ("--dry-run",) if command == "plan" else ()
        run = runbook(self.machine, "apply", BOOK.format(steps=steps), *options)
        return [one["text"] for one in run.of("notice")]

    def clear(self) -> None:
        self.machine.run(["systemctl", "stop", *self.made], check=False)
        for name in self.made:
            self.machine.run(["rm", "-f", f"/etc/systemd/system/{name}"])
        self.machine.run(["systemctl", "daemon-reload"])
        self.machine.run(["systemctl", "reset-failed"])


@pytest.fixture
def units(machine: Machine) -> Iterator[Units]:
    made = Units(machine)
    made("main.service")
    yield made
    made.clear()


@pytest.mark.parametrize("setting", ["Requires", "BindsTo", "PartOf", "Requisite"])
def test_what_requires_it_goes_with_it(units: Units, setting: str) -> None:
    units("other.service", **{f"Unit_{setting}": "main.service", "Unit_After": "main.service"})
    units("far.service", Unit_Requires="other.service", Unit_After="other.service")
    units.start("main", "other", "far")
    why = f"other.service (it has {setting}=main.service), far.service (it has Requires=other.service)"
    restarted = f"restart: the restart of main.service also restarts {why}"
    assert units.notices("restart", "plan") == [restarted]
    assert units.notices("restart") == [restarted]
    assert units.state("far.service") == "active"
    stopped = f"stop: the stop of main.service also stops {why}, which no step starts again"
    assert units.notices("stop", "plan") == [stopped]
    assert stopped in units.notices("stop")
    assert units.state("far.service") == "inactive"


def test_a_unit_that_a_step_starts_is_not_lost(units: Units) -> None:
    units("other.service", Unit_Requires="main.service", Unit_After="main.service")
    units.start("main", "other")
    assert units.notices("stop, start, start: {unit: other}", "plan") == []


def test_what_a_stop_is_propagated_to(units: Units) -> None:
    units("other.service")
    units("main.service", Unit_PropagatesStopTo="other.service")
    units.start("main", "other")
    why = "other.service (it has StopPropagatedFrom=main.service), which no step starts again"
    assert units.notices("stop", "plan") == [f"stop: the stop of main.service also stops {why}"]
    # systemd 252 stops it only with a stop.
    stops = units.machine.suite != "bookworm"
    assert units.notices("restart", "plan") == ([f"restart: the restart of main.service also stops {why}"] * stops)
    units.notices("restart")
    assert units.state("other.service") == ("inactive" if stops else "active")


def test_what_a_unit_that_is_down_does_not_pass_on(units: Units) -> None:
    units("far.service", Unit_PartOf="other.service")
    units("other.service", Unit_PartOf="main.service")
    units.start("main", "far")
    assert units.notices("stop", "plan") == []
    units.notices("stop")
    assert units.state("far.service") == "active"


def test_the_restart_of_a_unit_that_is_down_restarts_its_parts(units: Units) -> None:
    units("other.service", Unit_PartOf="main.service")
    units.start("other")
    before = units.machine.show("other.service", "InvocationID")
    assert units.notices("restart") == [
        "restart: the restart of main.service also restarts other.service (it has PartOf=main.service)"
    ]
    assert units.machine.show("other.service", "InvocationID") != before


def test_a_reload_is_passed_on_and_stops_nothing(units: Units) -> None:
    units("needs.service", Unit_Requires="main.service")
    units("other.service", ExecReload="/bin/touch /run/reloaded")
    units("main.service", ExecReload="/bin/true", Unit_PropagatesReloadTo="other.service")
    units.start("main", "needs", "other")
    why = "other.service (main.service has PropagatesReloadTo=other.service)"
    assert units.notices("reload") == [f"reload: the reload of main.service also reloads {why}"]
    units.machine.run(["rm", "/run/reloaded"])


@pytest.mark.parametrize("side", ["main.service", "other.service"])
def test_what_it_conflicts_with_is_stopped(units: Units, side: str) -> None:
    against = "other.service" if side == "main.service" else "main.service"
    units("other.service")
    units(side, Unit_Conflicts=against)
    units.start("other")
    whose = f"{side} has" if side == "main.service" else "it has"
    told = (
        f"the start of main.service also stops other.service ({whose} Conflicts={against}), which no step starts again"
    )
    assert units.notices("start", "plan") == [f"start: {told}"]
    units.notices("start")
    assert (units.state("other.service"), units.state("main.service")) == ("inactive", "active")


def test_what_it_requires_is_started(units: Units) -> None:
    units("db.service")
    units("main.service", Unit_Requires="db.service")
    told = "start: the start of main.service also starts db.service (main.service has Requires=db.service)"
    assert units.notices("start", "plan") == [told]


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("Unit_StartLimitAction", "reboot", "systemd reboots this machine if the unit is started too often"),
        ("Unit_FailureAction", "reboot-force", "systemd reboots this machine if the unit fails"),
        ("Unit_SuccessAction", "poweroff", "systemd powers this machine off if the unit stops without an error"),
        (
            "Unit_JobTimeoutAction",
            "exit",
            "systemd exits, and ends all of its services if the unit has a job that times",
        ),
    ],
)
def test_a_unit_that_can_reboot_the_machine_is_named(units: Units, setting: str, value: str, told: str) -> None:
    units("main.service", **{setting: value})
    units.start("main")
    plan = units.notices("restart", "plan")
    assert len(plan) == 1
    assert f"main.service has {setting.removeprefix('Unit_')}={value}: {told}" in plan[0]
    units("main.service")


@pytest.mark.parametrize(
    ("setting", "steps"),
    [("RefuseManualStop", "restart"), ("RefuseManualStop", "stop"), ("RefuseManualStart", "restart")],
)
def test_a_job_that_systemd_refuses_is_in_the_plan(units: Units, setting: str, steps: str) -> None:
    units.start("main")
    units("main.service", **{f"Unit_{setting}": "yes"})
    told = f"systemd refuses to {steps} main.service by request: its file has {setting}=yes"
    text = BOOK.format(steps=steps)
    plan = runbook(units.machine, "apply", text, "--dry-run")
    assert plan.of("step-planned")[0]["reason"] == f"would fail: {told}"
    run = runbook(units.machine, "apply", text)
    assert (run.exit, run.step(steps)["reason"]) == (1, told)
    assert units.state("main.service") == "active"
    units("main.service")


PACKAGE = r"""
set -e
mkdir -p /srv/stops/DEBIAN && cd /srv
printf 'Package: stopping-app\nVersion: 2.0\nArchitecture: all\nMaintainer: M <m@example.org>\n' >stops/DEBIAN/control
printf 'Description: an app whose script stops it\n' >>stops/DEBIAN/control
printf '#!/bin/sh\nsystemctl stop main.service other.service\nsleep 1\n' >stops/DEBIAN/preinst
chmod 755 stops/DEBIAN/preinst
dpkg-deb --build -Znone stops stopping-app.deb >/dev/null
"""


def test_what_a_package_stopped_is_named_with_who_did_it(units: Units) -> None:
    units("other.service")
    units.start("main", "other")
    units.machine.run(["sh", "-c", PACKAGE])
    version = "sh -c 'dpkg-query -W -f ${Version} stopping-app || true'"
    update = f'update: {{run: "dpkg -i /srv/stopping-app.deb # ${{{{ to }}}}", version: "{version}", to: 2.0}}'
    told = units.notices(update)
    units.machine.run(["dpkg", "-P", "stopping-app"])
    assert len(told) == 2, told
    for name, text in zip(("main.service", "other.service"), told, strict=True):
        assert text.startswith(f"{name} was stopped by a command of this run (PID ")
        assert "`systemctl stop main.service other.service`, run by PID " in text
        assert text.endswith(" at update, and is inactive (dead)")
