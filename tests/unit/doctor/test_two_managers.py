"""Names and ports that the system and a user manager both have."""

from __future__ import annotations

from runbook.doctor.machine_facts import read_facts
from runbook.doctor.two_managers import find_double_units
from tests.unit.doctor.diagnosed import healthy
from tests.unit.fake_machine import FakeMachine, listen, process, unit


def reasons(machine: FakeMachine) -> list[str]:
    machine.units["user@1000.service"] = unit("user@1000.service", main_pid=0, control_group="/user.slice")
    return [one.reason for one in find_double_units(read_facts(machine, 0))]


def test_the_same_name() -> None:
    machine = healthy()
    machine.user_units[1000] = (
        unit(of_user=True),
        unit("other.service", of_user=True),
        unit("gw.socket", of_user=True),
    )
    assert reasons(machine) == [
        "the system has a unit of the same name, active (running); this one is active (running)"
    ]


def test_units_that_a_package_has_for_both_managers() -> None:
    machine = healthy(fragment_path="/usr/lib/systemd/system/gw.service")
    machine.user_units[1000] = (unit(of_user=True, fragment_path="/usr/lib/systemd/user/gw.service"),)
    assert reasons(machine) == []
    machine.user_units[1000] = (unit(of_user=True, fragment_path="/home/u/.config/systemd/user/gw.service"),)
    assert len(reasons(machine)) == 1


def test_the_same_port() -> None:
    machine = healthy()
    machine.user_units[1000] = (unit("mine.service", of_user=True),)
    cgroup = "/user.slice/user-1000.slice/user@1000.service/app.slice/mine.service"
    machine.processes[200] = process(200, cgroup=cgroup)
    listen(machine, 200, "[::1]:18789")
    assert reasons(machine) == ["gw.service of the system listens on port 18789, too"]
