"""In which network namespace a unit is, and how it is entered."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from runbook.errors import HostError
from runbook.host.facts import ActiveState
from runbook.host.kernel import processes
from runbook.host.ownership import network
from runbook.host.ownership.network import (
    NETNS_TOOL_SECONDS,
    UnitNetworks,
    find_network_pid,
    is_entering_netns,
    read_program,
)
from runbook.model import Port, ProcessId
from tests.unit.fake_machine import FakeMachine

from .scene import process, unit


class Namespaces:
    """Which PIDs are in another network namespace, and what runs in the main process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.other: set[int] = set()
        self.program = "gateway"
        monkeypatch.setattr(processes, "is_in_other_netns", lambda pid: pid in self.other)
        monkeypatch.setattr(processes, "read_process", process)
        monkeypatch.setattr(network, "read_program", lambda pid: self.program)
        self.age = 0.0
        stat = SimpleNamespace(start=0)
        monkeypatch.setattr(processes, "read_stat", lambda pid: stat)
        monkeypatch.setattr(processes, "uptime", lambda: self.age)


@pytest.fixture
def namespaces(monkeypatch: pytest.MonkeyPatch) -> Namespaces:
    return Namespaces(monkeypatch)


def networks(**units: Any) -> UnitNetworks:
    return UnitNetworks(FakeMachine(units=units))


def test_by_settings_or_by_its_own_action(namespaces: Namespaces) -> None:
    known = networks()
    assert known.is_separate(unit(private_network=True))
    assert known.is_separate(unit(network_namespace_path="/run/netns/blue"))
    assert not known.is_separate(unit())
    namespaces.other = {100}
    assert known.is_separate(unit())
    # Once found, also while it is down.
    assert known.is_separate(unit(main_pid=0))
    assert not known.is_separate(unit("web.service", main_pid=0))


def test_ip_netns_exec_before_it_has_entered(namespaces: Namespaces) -> None:
    namespaces.program = "ip"
    assert networks().is_separate(unit())
    namespaces.age = NETNS_TOOL_SECONDS  # as `ip monitor`, which stays
    assert not networks().is_separate(unit())
    assert not is_entering_netns(100)
    namespaces.program = "systemd-executor"
    assert not networks().is_separate(unit())


@pytest.mark.parametrize(
    ("program", "other", "entering"),
    [("systemd-executor", (), True), ("ip", (), True), ("gateway", (), False), ("systemd-executor", (100,), False)],
)
def test_a_main_process_that_has_yet_to_enter(
    namespaces: Namespaces, program: str, other: tuple[int, ...], entering: bool
) -> None:
    namespaces.program, namespaces.other = program, set(other)
    assert is_entering_netns(100) is entering


def test_the_program_of_a_process() -> None:
    assert read_program(os.getpid()).startswith("python3")
    assert read_program(2**22 + 1) == ""


def test_the_process_to_enter_through(namespaces: Namespaces) -> None:
    assert networks().find_process(unit()) is None
    namespaces.other = {100}
    assert networks().find_process(unit()) == ProcessId(100, 1000)


def test_no_process_to_enter_through(namespaces: Namespaces) -> None:
    with pytest.raises(HostError, match="no main process to enter it through"):
        networks().find_process(unit(private_network=True, main_pid=0))
    namespaces.program = "systemd-executor"
    with pytest.raises(HostError, match="has not entered the unit's network namespace yet"):
        networks().find_process(unit(private_network=True))
    # A container that forbids it: systemd runs the unit without one.
    namespaces.program = "gateway"
    assert networks().find_process(unit(private_network=True)) is None


def test_a_socket_unit_listens_in_the_managers_namespace(namespaces: Namespaces) -> None:
    namespaces.other = {100}
    socket = unit("gw.socket", listen=(("Stream", "[::]:80"),))
    known = UnitNetworks(FakeMachine(units={"gw.socket": socket}))
    activated = unit(private_network=True, triggered_by=("gw.socket", "gw.timer"))
    assert known.find_process(activated, Port(80)) is None
    assert known.find_process(activated, Port(8080)) is not None
    closed = UnitNetworks(FakeMachine(units={"gw.socket": replace(socket, active_state=ActiveState.FAILED)}))
    assert closed.find_process(activated, Port(80)) is not None


def test_a_namespace_that_is_shared() -> None:
    other = unit("web.service", main_pid=70, private_network=True)
    machine = FakeMachine(units={"web.service": other})
    assert find_network_pid(unit(joins_namespace_of=("web.service",)), machine) == 100
    assert find_network_pid(unit(main_pid=0, joins_namespace_of=("web.service",)), machine) == 70
    assert find_network_pid(unit(main_pid=0), machine) == 0
