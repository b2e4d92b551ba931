"""What is read of a machine, and how the commands name a unit."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.doctor.machine_facts import MachineFacts, UnitId, read_facts, unit_of
from runbook.errors import LookLimitExceeded
from runbook.host.cgroups import parse_cgroup_path
from runbook.model import Port
from tests.unit.doctor.diagnosed import SESSION, healthy
from tests.unit.fake_machine import FakeMachine


@pytest.mark.parametrize(
    ("at", "uid", "command"),
    [
        (UnitId("a.service"), 0, "runbook doctor a.service"),
        (UnitId("a.service"), 1000, "sudo runbook doctor a.service"),
        (UnitId("a.service", 1000), 1000, "runbook doctor --user a.service"),
        (UnitId("a.service", 1000), 0, "su - bob -c 'runbook doctor --user a.service'"),
    ],
)
def test_the_command_about_a_unit(monkeypatch: pytest.MonkeyPatch, at: UnitId, uid: int, command: str) -> None:
    monkeypatch.setattr("runbook.doctor.machine_facts.find_local_user_name", lambda _: "bob")
    assert MachineFacts(FakeMachine(), uid, {}).command("doctor", at) == command


@pytest.mark.parametrize(
    ("user", "uid", "command"),
    [
        (None, 0, "systemctl daemon-reload"),
        (None, 1000, "sudo systemctl daemon-reload"),
        (1000, 1000, "systemctl --user daemon-reload"),
        (1000, 0, "systemctl --user -M bob@ daemon-reload"),
    ],
)
def test_the_command_for_a_manager(monkeypatch: pytest.MonkeyPatch, user: int | None, uid: int, command: str) -> None:
    monkeypatch.setattr("runbook.doctor.machine_facts.find_local_user_name", lambda _: "bob")
    assert MachineFacts(FakeMachine(), uid, {}).systemctl("daemon-reload", user) == command


def test_the_ports_of_each_process() -> None:
    facts = read_facts(healthy(), 0)
    assert facts.held_ports == {100: (Port(18789),)}
    assert facts.places[100].unit == "gw.service"


def test_what_takes_too_long_is_unseen() -> None:
    machine = healthy()

    def fail() -> Any:
        raise LookLimitExceeded("it takes too long")

    machine.scan_ports = fail  # type: ignore[method-assign]
    machine.list_processes = fail  # type: ignore[method-assign]
    facts = read_facts(machine, 0)
    assert facts.unseen == ["the processes: it takes too long", "the ports: it takes too long"]
    assert (facts.processes, facts.held_ports) == ({}, {})


def test_the_service_that_a_process_is_in() -> None:
    assert unit_of(parse_cgroup_path("/system.slice/gw.service/sub")) == UnitId("gw.service")
    user = "/user.slice/user-1000.slice/user@1000.service"
    assert unit_of(parse_cgroup_path(f"{user}/app.slice/gw.service")) == UnitId("gw.service", 1000)
    assert unit_of(parse_cgroup_path(f"{user}/init.scope")) is None
    assert unit_of(parse_cgroup_path(SESSION)) is None
    assert unit_of(parse_cgroup_path(f"/system.slice/docker-{'a' * 64}.scope")) is None
