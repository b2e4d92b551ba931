"""The owner of a port in cases that a cgroup alone does not decide, on a real systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook, unit_file

SERVER = """
import socket, sys, time
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
time.sleep(1e6)
"""


@pytest.fixture(autouse=True)
def _server(machine: Machine) -> Iterator[None]:
    """Write the server, and kill it at the end, also where it outlives its unit, as in a session's scope."""
    machine.write("/opt/server.py", SERVER)
    yield
    machine.run(["pkill", "-KILL", "-f", "/opt/server.py"], check=False)


def listening(machine: Machine, port: int) -> None:
    """Wait until the port is held."""
    until(lambda: machine.run(["ss", "-Hltn", f"sport = :{port}"]).stdout, f"port {port} to be held")


BOOK = """
    unit: {unit}
    port: {port}
    steps:
      - verify-port-owner: {{on-failure: continue}}
      - kill-orphan
"""


def test_the_services_of_a_slice_are_not_killed(machine: Machine, service: StartService) -> None:
    service("victim.service", unit_file("/usr/bin/python3 /opt/server.py 9001"))
    listening(machine, 9001)
    run = runbook(machine, "apply", BOOK.format(unit="system.slice", port=9001))
    assert (run.exit, run.step("kill-orphan")["verdict"]) == (1, "refused-to-kill")
    assert machine.show("victim.service", "ActiveState")["ActiveState"] == "active"


@pytest.mark.parametrize(
    "how",
    [
        {"start": "/bin/su - agentops -c 'exec python3 /opt/server.py 9002'"},
        {"start": "/usr/bin/python3 /opt/server.py 9002", "User": "agentops", "PAMName": "login"},
    ],
    ids=["su", "PAMName"],
)
def test_a_service_in_a_sessions_scope_is_a_live_service(
    machine: Machine, service: StartService, how: dict[str, str]
) -> None:
    """pam_systemd moves it there, but its main process is still that of systemd (systemd issue 6356)."""
    settings = dict(how)
    service("web.service", unit_file(settings.pop("start"), **settings))
    service("other.service", unit_file("/usr/bin/sleep infinity"))
    listening(machine, 9002)
    own = runbook(machine, "apply", BOOK.format(unit="web", port=9002))
    assert (own.exit, own.step("verify-port-owner")["verdict"]) == (0, "owned"), own.last
    assert own.step("kill-orphan")["verdict"] == "nothing-to-kill"
    other = runbook(machine, "apply", BOOK.format(unit="other", port=9002))
    assert (other.exit, other.step("kill-orphan")["verdict"]) == (1, "refused-to-kill"), other.last
    assert "web.service is a live service" in other.last["reason"]
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "active"


@pytest.fixture
def blue(machine: Machine) -> Iterator[None]:
    """Make a network namespace with a loopback interface."""
    machine.run(["ip", "netns", "add", "blue"])
    machine.run(["ip", "-n", "blue", "link", "set", "lo", "up"])
    yield
    machine.run(["ip", "netns", "del", "blue"])


@pytest.mark.usefixtures("blue")
def test_the_same_port_number_on_the_host_does_not_count(machine: Machine, service: StartService) -> None:
    """The unit enters its namespace by itself, without a setting."""
    service("web.service", unit_file("/usr/sbin/ip netns exec blue python3 /opt/server.py 9003"))
    stray = machine.popen(["systemd-run", "--quiet", "--scope", "python3", "/opt/server.py", "9003"])
    try:
        listening(machine, 9003)
        until(lambda: machine.run(["ip", "netns", "exec", "blue", "ss", "-Hltn"]).stdout, "the unit to listen")
        run = runbook(machine, "apply", BOOK.format(unit="web", port=9003))
        assert (run.exit, run.step("verify-port-owner")["verdict"]) == (0, "owned"), run.last
        assert run.step("kill-orphan")["verdict"] == "nothing-to-kill"
        assert stray.poll() is None
    finally:
        machine.run(["pkill", "-f", "server.py 9003"])
        stray.communicate(timeout=10)


def test_a_child_of_a_leftover_without_an_environment_is_a_leftover(machine: Machine, service: StartService) -> None:
    """KillMode=process leaves a supervisor without an environment, which forks the child after the restart."""
    supervisor = "import os, time\nwhile not os.path.exists('/run/go'): time.sleep(0.01)\n"
    supervisor += (
        "if os.fork() == 0: os.execv('/usr/bin/python3', ['python3', '/opt/server.py', '9004'])\ntime.sleep(1e6)"
    )
    machine.write("/opt/supervisor.py", supervisor)
    start = "/bin/sh -c 'env -i python3 /opt/supervisor.py & exec sleep infinity'"
    service("web.service", unit_file(start, KillMode="process"))
    until(lambda: machine.run(["pgrep", "-f", "/opt/supervisor.py"], check=False).stdout, "the supervisor")
    machine.run(["sed", "-i", "s/env -i.*& //", "/etc/systemd/system/web.service"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", "web.service"])
    try:
        machine.run(["touch", "/run/go"])
        listening(machine, 9004)
        run = runbook(machine, "check", "unit: web\nport: 9004\nsteps: [verify-port-owner]\n")
        assert (run.exit, run.step("verify-port-owner")["verdict"]) == (1, "leftover-holds-port"), run.last
    finally:
        machine.run(["rm", "/run/go"])


TAKER = """
import os, time
os.fork()
time.sleep(1e6)
"""


def test_a_leftover_with_the_socket_of_a_socket_unit_is_killed(machine: Machine, service: StartService) -> None:
    """A child that the service left holds the socket. It is killed, and the service is not."""
    machine.write("/opt/server.py", TAKER)
    machine.write("/etc/systemd/system/taker.socket", "[Socket]\nListenStream=127.0.0.1:8094\n")
    try:
        service("taker.service", unit_file("/usr/bin/python3 /opt/server.py", KillMode="process"))
        machine.run(["systemctl", "stop", "taker.service"])
        machine.run(["pkill", "-KILL", "-f", "/opt/server.py"], check=False)
        machine.run(["systemctl", "start", "taker.socket"])
        machine.run(["systemctl", "start", "taker.service"])
        until(lambda: len(_servers(machine)) == 2, "the service to have a child")
        (old,) = _servers(machine) - {machine.show("taker.service", "MainPID")["MainPID"]}
        machine.run(["systemctl", "restart", "taker.service"])
        until(lambda: len(_servers(machine)) == 3, "the service to have a child beside the leftover")

        run = runbook(
            machine,
            "apply",
            """
            unit: taker.socket
            port: 8094
            steps:
              - kill-orphan
              - verify-port-owner
            """,
        )
        assert run.verdicts == [("kill-orphan", "changed", "killed"), ("verify-port-owner", "ok", "owned")], run.last
        assert f"PID {old} (python3)" in run.step("kill-orphan")["reason"]
        assert old not in _servers(machine)
        assert len(_servers(machine)) == 2
    finally:
        machine.run(["systemctl", "stop", "taker.socket", "taker.service"], check=False)
        machine.run(["rm", "-f", "/etc/systemd/system/taker.socket"])


def _servers(machine: Machine) -> set[str]:
    return set(machine.run(["pgrep", "-f", "/opt/server.py"], check=False).stdout.split())
