"""A process on another address of the same port number is no rival of the unit: it is named, and never killed."""

from __future__ import annotations

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, shell
from tests.machine.runs import runbook, unit_file

SCOPE = r"PID \d+ \(python3\), in run-\S+\.scope of user root"


def apart(unit: str, port: str, elsewhere: str) -> PortCase:
    """Return the case of a unit that has its port, while another process listens on another address."""
    return PortCase(unit, port, "owned", rf"held only by PID \d+.*; {elsewhere}", why=elsewhere)


def rival(unit: str, port: str, reason: str = SCOPE) -> PortCase:
    return PortCase(unit, port, "port-shared", rf"by {unit}\.service and by {reason}", "port-shared", "kill PID")


def strange(address: str, who: str = SCOPE) -> str:
    return rf"{who}, listens on \S*{address}:\d+, another address"


SHARED = rf"{SCOPE}, listens on udp:\S+, a multicast port, which is shared by design"

CASES = (
    apart("near", "9201", strange("127.0.0.2")),
    PortCase("near", "127.0.0.1:9201", "owned"),
    PortCase("near", "127.0.0.2:9201", "orphan-holds-port", SCOPE, "orphan-holds-port", "kill PID"),
    PortCase("near", "0.0.0.0:9201", "port-shared", SCOPE, "port-shared", "kill PID"),
    rival("wide", "9202"),
    rival("dual", "9203"),
    apart("six", "9204", strange(r"0\.0\.0\.0")),
    apart("four", "9205", strange(r"\[::\]")),
    apart("link", "9206", strange(r"\[fe80::1%d2\]")),
    rival("linked", "9207"),
    apart("device", "9208", strange(r"0\.0\.0\.0%d2")),
    rival("devices", "9209"),
    apart("resolver", "9210", strange(r"127\.0\.0\.53", r"PID \d+ \(python3\), in stub\.service")),
    apart("resolver", "udp:9210", strange(r"127\.0\.0\.53", r"PID \d+ \(python3\), in stub\.service")),
    # Of several sockets of one process, those in the way decide; the other addresses are not held against it.
    rival("several", "9211"),
    # A unit that is down: its socket unit, its log, or nothing shows where it would listen.
    PortCase("passed", "9212", "not-listening", strange("127.0.0.2"), why=strange("127.0.0.2")),
    PortCase(
        "silent",
        "9213",
        "orphan-holds-port",
        SCOPE,
        "refused-to-kill",
        r"on which addresses silent\.service would listen is not known.* write the port as 127\.0\.0\.2:9213;",
    ),
    # Unless it may well be there: the runbook or the unit names the address, or it runs the unit's program.
    PortCase("silent", "127.0.0.2:9213", "orphan-holds-port", SCOPE, "orphan-holds-port", "kill PID"),
    PortCase("alike", "9220", "orphan-holds-port", SCOPE, "orphan-holds-port", "kill PID"),
    PortCase("named", "9221", "orphan-holds-port", SCOPE, "orphan-holds-port", "kill PID"),
    PortCase("silent", "9222", "orphan-holds-port", SCOPE, "orphan-holds-port", "kill PID"),
    PortCase("silent", "9223", "orphan-holds-port", SCOPE, "orphan-holds-port", "kill PID"),
    PortCase("refused", "9214", "not-listening", strange("127.0.0.2"), why=strange("127.0.0.2")),
    PortCase("taken", "9215", "orphan-holds-port", SCOPE, "orphan-holds-port", r"kill PID \d+ \(python3\):"),
    # Its log is no proof of an address that it does not listen on: others may put words into it.
    apart("half", "9216", strange(r"\[::1\]")),
    # Multicast.
    apart("mdns", "udp:5353", SHARED),
    apart("group", "udp:9217", SHARED),
    rival("unicast", "udp:9218"),
    PortCase("quiet", "udp:9219", "not-listening", SHARED, why=SHARED),
)

IN_USE = "echo listen EADDRINUSE: address already in use"


def start_all(stage: Stage) -> None:
    stage.machine.run(["ip", "link", "add", "d1", "type", "veth", "peer", "name", "d2"])
    for name in ("d1", "d2"):
        stage.machine.run(["ip", "link", "set", name, "up"])
        stage.machine.run(["ip", "addr", "add", "fe80::1/64", "dev", name, "nodad"])
    stage.service("near.service", "listen=127.0.0.1:9201")
    stage.scope("listen=127.0.0.2:9201")
    stage.service("wide.service", "listen=0.0.0.0:9202,reuseport")
    stage.scope("listen=127.0.0.2:9202,reuseport")
    stage.service("dual.service", "listen=[::]:9203,reuseport")
    stage.scope("listen=127.0.0.2:9203,reuseport")
    stage.service("six.service", "listen=[::]:9204,v6only")
    stage.scope("listen=0.0.0.0:9204")
    stage.service("four.service", "listen=0.0.0.0:9205")
    stage.scope("listen=[::]:9205,v6only")
    stage.service("link.service", "listen=[fe80::1%%d1]:9206")
    stage.scope("listen=[fe80::1%d2]:9206")
    stage.service("linked.service", "listen=[fe80::1%%d1]:9207,reuseport")
    stage.scope("listen=[fe80::1%d1]:9207,reuseport")
    stage.service("device.service", "listen=0.0.0.0:9208,device=d1")
    stage.scope("listen=0.0.0.0:9208,device=d2")
    stage.service("devices.service", "listen=0.0.0.0:9209,reuseport")
    stage.scope("listen=0.0.0.0:9209,reuseport,device=d2")
    stage.service("resolver.service", "listen=127.0.0.1:9210 listen=127.0.0.1:9210,udp")
    stage.service("stub.service", "listen=127.0.0.53:9210 listen=127.0.0.53:9210,udp")
    stage.service("several.service", "listen=127.0.0.1:9211,reuseport")
    stage.scope("listen=127.0.0.1:9211,reuseport listen=127.0.0.2:9211")
    stage.write("passed.socket", "[Socket]\nListenStream=127.0.0.1:9212\n")
    stage.service("passed.service", "adopt")
    stage.scope("listen=127.0.0.2:9212")
    stage.service("silent.service", "/usr/bin/sleep 1h")
    stage.service("alike.service", "touch=/run/alike")
    stage.service("named.service", "/usr/bin/sleep 1h", Environment="BIND=127.0.0.2:9221")
    for where in ("127.0.0.2:9213", "127.0.0.2:9220", "127.0.0.2:9221", "127.0.0.1:9222", "[::]:9223,v6only"):
        stage.scope(f"listen={where}")
    for name, port in (("refused", 9214), ("taken", 9215)):
        stage.service(f"{name}.service", shell(f"{IN_USE} 127.0.0.1:{port}", "sleep 1h"))
        stage.scope(f"listen=127.0.0.2:{port}")
    stage.scope("listen=127.0.0.1:9215")
    stage.service("half.service", shell(f"{IN_USE} ::1:9216", "exec ACTOR listen=127.0.0.1:9216"))
    stage.scope("listen=[::1]:9216")
    stage.service("mdns.service", "listen=0.0.0.0:5353,udp,reuseaddr")
    stage.scope("listen=224.0.0.251:5353,udp,reuseaddr")
    stage.service("group.service", "listen=0.0.0.0:9217,udp,reuseaddr,join=239.1.2.3")
    stage.scope("listen=0.0.0.0:9217,udp,reuseaddr,join=239.1.2.3")
    stage.service("unicast.service", "listen=0.0.0.0:9218,udp,reuseaddr,join=239.1.2.3")
    stage.scope("listen=0.0.0.0:9218,udp,reuseaddr")
    stage.service("quiet.service", "/usr/bin/sleep 1h")
    stage.scope("listen=0.0.0.0:9219,udp,reuseaddr,join=239.1.2.3")
    units = (unit for unit in stage.units if not unit.startswith("passed"))
    stage.start(*units)
    stage.listening(*range(9201, 9217), *range(9220, 9224), "udp:9210", "udp:5353", "udp:9217", "udp:9218", "udp:9219")
    for port in (*range(9201, 9212), 9215, 9216):
        until(lambda port=port: _count(stage, port) > 1, f"both on {port}")  # type: ignore[misc]
    stage.judge(CASES)


def _count(stage: Stage, port: int) -> int:
    return len(stage.machine.run(["ss", "-Hltn", f"sport = :{port}"]).stdout.splitlines())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)


UPGRADE = """
    unit: stays
    port: 9230
    steps:
      - restart
      - remediate:
          check: [{wait-ready: {healthy-for: 0s}}, verify-port-owner]
          fix: [stop, kill-orphan, start]
"""
BY_HAND = """
    unit: stays
    port: 9230
    steps: [stop, kill-orphan, start, {wait-ready: {healthy-for: 0s}}]
"""


@pytest.mark.parametrize("started_before", [True, False])
def test_the_stranger_survives_and_the_service_is_not_stopped(
    stage: Stage, machine: Machine, service: StartService, started_before: bool
) -> None:
    """While the unit is down, its addresses are those on which it listened before."""
    stage.scope("listen=127.0.0.2:9230")
    stage.listening(9230)
    service("stays.service", unit_file(f"{ACTOR} listen=127.0.0.1:9230"))
    until(lambda: _count(stage, 9230) == 2, "both")
    run = runbook(machine, "apply", UPGRADE)
    assert run.step("remediate")["verdict"] == "holds", run.last
    if not started_before:
        machine.run(["systemctl", "stop", "stays.service"])
    run = runbook(machine, "apply", BY_HAND)
    assert run.step("kill-orphan")["verdict"] == "nothing-to-kill", run.last
    assert run.exit == 0, run.last
    assert _count(stage, 9230) == 2
    machine.run(["pkill", "-KILL", "-f", "127.0.0.2:9230"])


@pytest.mark.parametrize(("address", "verdict"), [("127.0.0.1", "ready"), ("127.0.0.2", "probe-failed")])
def test_an_answer_of_the_stranger_does_not_count(
    stage: Stage, machine: Machine, service: StartService, address: str, verdict: str
) -> None:
    serve = "/usr/bin/python3 -m http.server 9231 --bind"
    stage.begin(["systemd-run", "--quiet", "--scope", *serve.split(), "127.0.0.2"])
    service("serves.service", unit_file(f"{serve} 127.0.0.1"))
    until(lambda: _count(stage, 9231) == 2, "both")
    probe = f"{{http: {{url: 'http://{address}:9231/'}}}}"
    book = f"unit: serves\nport: 9231\nsteps: [{{wait-ready: {{timeout: 3s, healthy-for: 0s, probes: [{probe}]}}}}]\n"
    run = runbook(machine, "check", book)
    assert run.step("wait-ready")["verdict"] == verdict, run.last
    if verdict != "ready":
        assert "does not count: port 127.0.0.2:9231 is held by PID" in run.step("wait-ready")["reason"]
    machine.run(["pkill", "-KILL", "-f", "--", "--bind 127.0.0.2"])
