"""What a user without rights can do to the look of a run of root's: it stays short, small, and open to SIGTERM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.bounds.staging import Measured, hostile, measure
from tests.machine.conftest import StartService
from tests.machine.machine import Machine, least, until
from tests.machine.runs import Run, unit_file, write_runbook
from tests.machine.tree import USER

SERVER = "import socket, signal; s = socket.create_server(('127.0.0.1', 8080)); signal.pause()"
OWNER = "unit: web\nport: 8080\nsteps: [verify-port-owner]\n"
MEMORY = 100
"""MiB that a check may take."""


@pytest.fixture
def web(machine: Machine, service: StartService) -> Iterator[str]:
    """A service on 127.0.0.1:8080, and the runbook that asks who owns the port."""
    machine.write("/opt/web.py", SERVER)
    name = service("web.service", unit_file("/usr/bin/python3 -IS /opt/web.py"))
    until(lambda: machine.run(["ss", "-Hltn", "sport = :8080"]).stdout, "the service to listen")
    write_runbook(machine, OWNER)
    yield name
    machine.run(["rm", "/opt/web.py"])


def look_within_memory(machine: Machine) -> Run:
    """Run a check, which must need no more memory than that; how long it takes is a matter of the bench."""
    took = measure(machine)
    assert took.mib < MEMORY
    return took.run


@pytest.mark.parametrize("processes", [1, 500])
@pytest.mark.usefixtures("web")
def test_many_listeners(machine: Machine, processes: int) -> None:
    with hostile(machine, "listeners", "8080", "6000", str(processes)):
        run = look_within_memory(machine)
        (evidence,) = run.step("verify-port-owner")["evidence"]["ports"]
        # They listen on other addresses of the same port, so the unit owns its own.
        assert run.exit == 0
        assert len(evidence["bystanders"]) == processes
        assert all(len(holder["sockets"]) <= 1000 for holder in evidence["bystanders"])


@pytest.mark.parametrize("field", ["arg", "env"])
@pytest.mark.usefixtures("web")
def test_a_command_line_and_an_environment_of_2_gib(machine: Machine, field: str) -> None:
    with hostile(machine, "memory", field, "2", "8080"):
        run = look_within_memory(machine)
        (evidence,) = run.step("verify-port-owner")["evidence"]["ports"]
        assert max(len(holder["command"]) for holder in evidence["holders"]) < 5000


CROWDS = {
    "listeners": ("listeners", "8080", "19000"),
    "processes": ("listeners", "8080", "4000", "2000"),
    "tables": ("tables", "100", "19900"),
    "threads": ("threads", "1000", "1000"),
    "memory": ("memory", "arg", "2", "8080"),
    "changes": ("churn", "8080"),
}


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.usefixtures("web")
def test_sigterm_is_obeyed_within_a_second(machine: Machine, crowd: str) -> None:
    """At whatever moment it comes."""
    with hostile(machine, *CROWDS[crowd]):
        for moment in (0.4, 0.8, 1.6, 3.2):
            took: list[Measured] = []

            def end(moment: float = moment, took: list[Measured] = took) -> float:
                took.append(measure(machine, term=moment))
                return took[-1].since

            assert least(end, within=1) < 1, moment
            # Before it could install a handler, and after its end, the signal has no such effect.
            assert took[-1].run.exit in (143, -15, 0, 1)


@pytest.mark.usefixtures("web")
def test_a_look_that_takes_too_long_ends_without_an_owner(machine: Machine) -> None:
    """And says whose processes are to blame; the run that follows finds the owner again."""
    with hostile(machine, "tables", "400", "19900"):
        took = measure(machine)
        step = took.run.step("verify-port-owner")
        assert step["verdict"] == "owner-unknown"
        assert "which processes hold port 8080 cannot be determined: the open files of all processes" in step["reason"]
        assert f"of user {USER} had more than 256 each (ps -fu 1000 shows them)" in step["reason"]
        assert took.run.exit == 1
        assert took.mib < MEMORY
    assert measure(machine).run.step("verify-port-owner")["verdict"] == "owned"
