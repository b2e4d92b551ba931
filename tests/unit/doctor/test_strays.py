"""Processes that hold ports and belong to no unit, and what earlier invocations left."""

from __future__ import annotations

from typing import Any

from runbook.doctor.machine_facts import read_facts
from runbook.doctor.strays import Stray, describe_strays, find_left_processes, find_strays
from runbook.errors import HostError
from tests.unit.doctor.diagnosed import SESSION, healthy
from tests.unit.fake_machine import FakeMachine, listen, process, unit


def machine_with(port: int = 3000, **changes: Any) -> FakeMachine:
    machine = healthy()
    facts = {"cgroup": SESSION, "name": "node", "command": ("node", "x.js"), **changes}
    machine.processes[90] = process(90, **facts)
    listen(machine, 90, f"0.0.0.0:{port}")
    return machine


def strays(machine: FakeMachine) -> list[Stray]:
    return list(find_strays(read_facts(machine, 0)))


def reasons(machine: FakeMachine) -> list[str]:
    facts = read_facts(machine, 0)
    return [one.reason for one in describe_strays(facts, list(find_strays(facts)))]


def test_a_listener_in_a_login() -> None:
    (found,) = strays(machine_with())
    assert (found.process.pid, [str(port) for port in found.ports], found.suspects) == (90, ["3000"], ())


def test_a_listener_with_the_port_or_the_program_of_a_unit() -> None:
    assert strays(machine_with(18789))[0].first_suspect == "gw.service"
    assert strays(machine_with(command=("/home/u/gateway",), name="gateway"))[0].suspects == ("gw.service",)


def test_services_containers_and_workers_are_none() -> None:
    assert strays(machine_with(cgroup="/system.slice/other.service")) == []
    assert strays(machine_with(cgroup=f"/system.slice/docker-{'a' * 64}.scope")) == []
    machine = machine_with()
    machine.processes[91] = process(91, ppid=90, cgroup=SESSION, name="node")
    machine.sockets[91] = machine.sockets[90]
    assert [one.process.pid for one in strays(machine)] == [90]


def test_only_what_nothing_manages_is_reported() -> None:
    assert "the process that started it has exited" in reasons(machine_with())[0]
    assert "it left the cgroup of that unit" in reasons(machine_with(ppid=80, invocation_id="a" * 32))[0]
    assert reasons(machine_with(ppid=80)) == []
    assert reasons(machine_with(cgroup="/user.slice/user-0.slice/user@0.service/app.slice/app-x.scope")) == []


def test_what_a_unit_that_is_down_left() -> None:
    machine = healthy()
    machine.units["off.service"] = unit(
        "off.service", main_pid=0, active_state="inactive", control_group="/system.slice/off.service"
    )
    machine.processes[70] = process(70, cgroup="/system.slice/off.service")
    listen(machine, 70, "0.0.0.0:9000")
    (found,) = find_left_processes(read_facts(machine, 0))
    assert (found.subject, found.next) == ("off.service", "runbook doctor off.service")
    assert found.reason == "PID 70 (gateway) of an earlier invocation is still in its cgroup, and holds port 9000"


def test_a_unit_that_cannot_be_read_is_unseen() -> None:
    machine = healthy()
    machine.processes[70] = process(70, cgroup="/system.slice/off.service")

    def fail(name: str, *, max_age: float = 0.0) -> Any:
        raise HostError("it does not answer")

    facts = read_facts(machine, 0)
    machine.unit = fail  # type: ignore[method-assign]
    assert list(find_left_processes(facts)) == []
    assert facts.unseen == ["what is left in the cgroup of off.service: it does not answer"]
