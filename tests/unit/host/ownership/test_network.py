"""In which network namespace a unit is, and how it is entered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.errors import HostError
from runbook.host.facts import ActiveState
from runbook.host.kernel import processes
from runbook.host.ownership.network import UnitNetworks, find_network_pid
from runbook.model import Port, ProcessId
from tests.unit.fake_machine import FakeMachine

from .scene import process, unit


class Namespaces:
    """Which PIDs are in another network namespace, and what runs in the main process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.other: set[int] = set()
        self.exe = "/usr/bin/gateway"
        monkeypatch.setattr(processes, "is_in_other_netns", lambda pid: pid in self.other)
        monkeypatch.setattr(processes, "read_process", lambda pid: process(pid, exe=self.exe))


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


def test_the_process_to_enter_through(namespaces: Namespaces) -> None:
    assert networks().find_process(unit()) is None
    namespaces.other = {100}
    assert networks().find_process(unit()) == ProcessId(100, 1000)


def test_no_process_to_enter_through(namespaces: Namespaces) -> None:
    with pytest.raises(HostError, match="no main process to enter it through"):
        networks().find_process(unit(private_network=True, main_pid=0))
    namespaces.exe = "/usr/lib/systemd/systemd-executor"
    with pytest.raises(HostError, match="has not entered the unit's network namespace yet"):
        networks().find_process(unit(private_network=True))
    # A container that forbids it: systemd runs the unit without one.
    namespaces.exe = "/usr/bin/gateway"
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
