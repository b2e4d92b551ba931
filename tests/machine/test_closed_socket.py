"""A socket unit that an orphan kept from opening, after a fix that starts only the service behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.ending.staging import actor, cleared, listening, scope
from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file

SERVER = """
import os, socket
passed = socket.socket(fileno=3) if os.environ.get("LISTEN_FDS") else None
listener = passed or socket.create_server(("127.0.0.1", 9480))
while True:
    listener.accept()[0].close()
"""


def fix(machine: Machine, *fixes: str) -> Run:
    """Apply a runbook that remediates the service."""
    steps = f"check: [wait-ready: {{healthy-for: 500ms}}, verify-port-owner], fix: [{', '.join(fixes)}]"
    return runbook(machine, "apply", f"unit: gate\nport: 9480\nsteps:\n  - restart\n  - remediate: {{{steps}}}\n")


def notices(run: Run) -> list[str]:
    return [event["text"] for event in run.of("notice") if "gate.socket" in event["text"]]


def state(machine: Machine) -> str:
    return machine.show("gate.socket", "ActiveState")["ActiveState"]


@pytest.fixture
def gate(machine: Machine, service: StartService) -> Iterator[Machine]:
    """Install a service and its socket unit. An orphan holds the port, so the socket unit has failed to open."""
    machine.write("/opt/gate.py", SERVER)
    machine.write("/etc/systemd/system/gate.socket", "[Socket]\nListenStream=9480\n")
    with cleared(machine, "gate.socket", "orphan.scope"):
        scope(machine, "orphan.scope", actor("server", 9480))
        listening(machine, {9480})
        service("gate.service", unit_file("/usr/bin/python3 /opt/gate.py"))
        until(lambda: machine.show("gate.service", "ActiveState")["ActiveState"] == "failed", "the service to fail")
        machine.run(["systemctl", "start", "gate.socket"], check=False)
        assert state(machine) == "failed"
        yield machine
        machine.run(["systemctl", "stop", "gate.service", "gate.socket"])
    machine.run(["rm", "-f", "/etc/systemd/system/gate.socket", "/opt/gate.py"])


def test_a_socket_that_stays_closed_is_named_with_the_commands_that_open_it(gate: Machine) -> None:
    run = fix(gate, "stop", "kill-orphan", "start")
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert state(gate) == "failed"
    assert notices(run) == [
        "gate.socket is failed, Result resources, while gate.service runs and listens on 127.0.0.1:9480 by itself; "
        "gate.socket would listen on [::]:9480; systemd opens it only while the service is down: "
        "systemctl stop gate.service, then systemctl start gate.socket gate.service; in the runbook, a `start` of "
        "gate.socket before that of gate.service does this"
    ]
    # The commands suffice.
    gate.run(["systemctl", "stop", "gate.service"])
    gate.run(["systemctl", "start", "gate.socket", "gate.service"])
    until(lambda: len(holders(gate, 9480)) == 2, "systemd and the service to have the socket")
    assert state(gate) == "active"


def test_a_runbook_that_starts_the_socket_first(gate: Machine) -> None:
    run = fix(gate, "stop", "kill-orphan", "{start: {unit: gate.socket}}", "start")
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert (state(gate), notices(run)) == ("active", [])
    assert 1 in {holder.pid for holder in holders(gate, 9480)}
