"""A port on which no process listens, and which is taken all the same: the reason names what keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file

USER = """
import socket, time
server = socket.create_server(("127.0.0.1", 9400))
def connect(port, kind=socket.SOCK_STREAM, reuse=0):
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    made.bind(("127.0.0.1", port))
    made.connect(("127.0.0.1", 9400))
    return made
client, packets = connect(9401), connect(9403, socket.SOCK_DGRAM)
bound = socket.socket()
bound.bind(("127.0.0.1", 9402))
closed = connect(9404)
accepted = [server.accept(), server.accept()]
closed.close()
accepted[1][0].close()
time.sleep(3600)
"""
SERVER = """
import socket, time
made = socket.socket(socket.AF_INET, socket.SOCK_{kind})
made.bind(("127.0.0.1", {port}))
print("ready", flush=True)
time.sleep(3600)
"""
TAKEN = "; but the port is taken, which may keep binds.service from listening: "
WHO = TAKEN + r"PID \d+ \(python3\), in run-\S+\.scope of user root, is"
CASES = (
    ("9401", rf"{WHO} connected from 127\.0\.0\.1:9401 to 127\.0\.0\.1:9400; add it to net\.ipv4\.ip_local_reserved_p"),
    ("9402", rf"{WHO} bound to 127\.0\.0\.1:9402$"),
    ("udp:9403", rf"{WHO} connected from udp:127\.0\.0\.1:9403 to 127\.0\.0\.1:9400$"),
    (
        "9404",
        r"logged that its address is in use: a connection that is being closed \(TIME_WAIT\) may keep port 9404 for",
    ),
)


@pytest.fixture(scope="module")
def _user(machine: Machine) -> Iterator[None]:
    argv = ["systemd-run", "--quiet", "--scope", "python3", "-c", USER]
    with machine.popen(argv):
        until(lambda: machine.run(["ss", "-Htan", "sport = :9404"]).stdout, "the closed connection")
        yield
        machine.run(["pkill", "-KILL", "-f", "create_server"])


def test_nothing(machine: Machine) -> None:
    """A port that is free has no such clause."""
    run = runbook(machine, "check", "steps: [{verify-port-owner: {unit: dbus, port: 9409}}]\n")
    assert run.step("verify-port-owner")["reason"] == "no process listens on port 9409"


@pytest.mark.usefixtures("_user")
@pytest.mark.parametrize(("port", "reason"), CASES)
def test_the_reason_names_what_keeps_the_port(machine: Machine, unit: InstallUnit, port: str, reason: str) -> None:
    """The unit cannot bind its port, and is restarted again and again, or gives up."""
    kind, _, number = port.rpartition(":")
    script = SERVER.format(kind="DGRAM" if kind == "udp" else "STREAM", port=number)
    machine.write("/srv/binds.py", script if kind == "udp" else script.replace("print", "made.listen()\nprint"))
    unit("binds.service", unit_file("/usr/bin/python3 /srv/binds.py"))
    machine.run(["systemctl", "start", "binds.service"])
    run = runbook(machine, "apply", _book(port))
    for step in ("wait-ready", "verify-port-owner", "kill-orphan"):
        assert _reason(run, step, reason), run.step(step)
    assert run.step("wait-ready")["verdict"] == "unit-failed"
    assert run.step("verify-port-owner")["verdict"] == "not-listening"
    assert run.step("kill-orphan")["verdict"] == "nothing-to-kill"
    machine.run(["systemctl", "reset-failed", "binds.service"])


def _book(port: str) -> str:
    return f"""
    unit: binds
    port: "{port}"
    steps:
      - wait-ready: {{timeout: 10s, healthy-for: 2s, on-failure: continue}}
      - verify-port-owner: {{on-failure: continue}}
      - kill-orphan
    """


def _reason(run: Run, step: str, reason: str) -> bool:
    text = run.step(step)["reason"]
    return bool(re.search(reason, text))
