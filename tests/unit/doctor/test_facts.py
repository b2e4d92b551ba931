"""What the parts of a diagnosis ask the facts."""

from __future__ import annotations

import pytest

from runbook.checks.health import HealthChecker
from runbook.doctor.facts import UnitFacts
from runbook.doctor.ports import find_ports
from runbook.host.facts import ActiveState
from tests.unit.doctor.diagnosed import COMMAND, FAILED, gw, incident
from tests.unit.fake_machine import EARLIER, FakeMachine, listen, process


def facts_of(machine: FakeMachine) -> UnitFacts:
    unit = gw(machine)
    found = find_ports(machine, unit)
    ports = tuple(machine.judge_port(unit, one.port) for one in found)
    health = HealthChecker(machine, unit, [one.port for one in found], None, 0, once=True).check()
    return UnitFacts(machine, unit, 0, found, ports, health)


def test_a_rival_is_listed_once_whatever_it_holds() -> None:
    machine = incident(**FAILED)
    listen(machine, 74, "127.0.0.1:9090", first_inode=900)
    machine.units["gw.service"] = gw(machine)
    facts = facts_of(machine)
    assert [holder.process.pid for holder in facts.rivals] == [74]
    assert facts.held_ports(facts.rivals[0]) == "port 18789"
    assert facts.strays == facts.rivals


def test_leftovers_with_and_without_a_port() -> None:
    machine = incident(active_state=ActiveState.INACTIVE, main_pid=0)
    for pid in (80, 81):
        machine.processes[pid] = process(pid, invocation_id=EARLIER)
    listen(machine, 80, "127.0.0.1:18789")
    found = {one.process.pid: bool(one.sockets) for one in facts_of(machine).leftovers}
    assert found == {80: True, 81: False}


@pytest.mark.parametrize(
    ("command", "same"),
    [
        (COMMAND, True),
        (("/usr/bin/python3", "/opt/other/gateway", "serve"), True),
        (("/usr/bin/nginx", "-c", "/etc/gateway"), False),
        ((), False),
    ],
)
def test_the_program_of_the_unit(command: tuple[str, ...], same: bool) -> None:
    name = command[0].rpartition("/")[2] if command else "other"
    other = process(74, command=command, exe="/usr/bin/python3", name=name)
    assert facts_of(incident()).runs_same_program(other) is same


def test_a_port_is_refused_by_the_log_or_by_the_exit() -> None:
    machine = incident(**FAILED)
    facts = facts_of(machine)
    assert facts.is_refused(facts.rivals[0])
    machine.refused_ports.clear()
    facts = facts_of(machine)
    assert facts.is_refused(facts.rivals[0])
    assert facts.is_limit_reached
    machine = incident()
    machine.refused_ports.clear()
    facts = facts_of(machine)
    assert not facts.is_refused(facts.rivals[0])
    assert not facts.is_limit_reached


def test_an_interpreter_is_no_program_of_the_unit() -> None:
    machine = incident(start_arguments=("/usr/bin/python3", "-u", "/opt/app.py", "--port", "18789"))
    facts = facts_of(machine)
    other = process(74, name="python3", command=("/usr/bin/python3", "/opt/other.py"), exe="/usr/bin/python3.11")
    assert not facts.runs_same_program(other)
    same = process(74, name="python3", command=("/usr/bin/python3", "/opt/app.py"), exe="/usr/bin/python3.11")
    assert facts.runs_same_program(same)
    shell = facts_of(incident(start_arguments=("/bin/sh", "-c", "exec gateway")))
    assert not shell.runs_same_program(process(74, name="sh", command=("/bin/sh",), exe="/bin/dash"))
