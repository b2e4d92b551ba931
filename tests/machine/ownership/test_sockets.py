"""All sockets that listen on a port count: each family, address and network namespace, and all their holders."""

from __future__ import annotations

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, ask, assert_verdict, shell
from tests.machine.runs import runbook, unit_file

SCOPE = r"PID \d+ \(python3\), in run-\S+\.scope of user root"
END = "kill PID"


def case(unit: str, port: str, verdict: str, reason: str = "", kill: str = "", why: str = "") -> PortCase:
    """Return a case with the verdict of kill-orphan: orphans may be killed, other units may not."""
    follows = {"port-shared": "port-shared", "orphan-holds-port": "orphan-holds-port"}
    return PortCase(unit, port, verdict, reason, kill or follows.get(verdict, "nothing-to-kill"), why)


CASES = (
    # Families and addresses.
    case("dual", "9001", "owned"),
    case("dual", "127.0.0.1:9001", "owned"),
    case("idle", "127.0.0.1:9002", "orphan-holds-port", SCOPE, why=END),
    case("six", "9003", "owned", rf"; {SCOPE}, listens on 0\.0\.0\.0:9003, another address$"),
    case("six", "127.0.0.1:9003", "orphan-holds-port", SCOPE, why=END),
    case("six", "[::1]:9003", "owned"),
    case("wide", "9004", "port-shared", SCOPE, why=END),
    case("wide", "127.0.0.1:9004", "port-shared", SCOPE, why=END),
    case("local", "9005", "owned", rf"; {SCOPE}, listens on 127\.0\.0\.2:9005, another address$"),
    case("local", "127.0.0.1:9005", "owned"),
    case("local", "127.0.0.2:9005", "orphan-holds-port", SCOPE, why=END),
    # Several listeners, several holders.
    case(
        "left", "9006", "port-shared", r"by left\.service and by .*in right\.service", "refused-to-kill", "stop right"
    ),
    case("pool", "9007", "owned", r"only by pool\.service \(2 processes\)"),
    case("packets", "udp:9008", "port-shared", SCOPE, why=END),
    case("datagrams", "udp:9009", "owned"),
    case("master", "9010", "owned", r"\(2 processes\)"),
    case("giver", "9011", "port-shared", rf"by giver\.service and by {SCOPE}", why=END),
    case("idle", "9012", "orphan-holds-port", SCOPE, why=END),
    # Networks.
    case("private", "9013", "owned"),
    case("idle", "9013", "orphan-holds-port", SCOPE, why=END),
    case("private", "9014", "other-unit-holds-port", r"in joined\.service", "refused-to-kill", "stop joined"),
    case("joined", "9014", "owned"),
    case("named", "9015", "owned"),
    case("named", "9016", "orphan-holds-port", SCOPE, why=END),
    case("private", "9016", "not-listening"),
    # systemd itself.
    case("given", "9017", "owned", r"given\.service|held only by"),
    case("given.socket", "9017", "owned"),
    case("waits", "9018", "owned", r"systemd listens on port 9018 for waits\.service"),
    case("waits", "udp:9018", "owned"),
    case("each.socket", "9019", "owned"),
    case(
        "idle",
        "9018",
        "other-unit-holds-port",
        r"\(systemd\), for waits\.socket$",
        "refused-to-kill",
        "stop waits.sock",
    ),
    case("keeps", "9020", "owned", "held only by"),
    case("idle", "9020", "other-unit-holds-port", r"in keeps\.service", "refused-to-kill"),
    # Names.
    case("twin@a", "9021", "owned"),
    case("twin@b", "9021", "other-unit-holds-port", r"in twin@a\.service", "refused-to-kill", r"stop twin@a\.service"),
    case("nick", "9022", "owned"),
    case("nick", "9006", "other-unit-holds-port", r"left\.service.*right\.service", "refused-to-kill"),
    case("idle", "9022", "other-unit-holds-port", r"in real\.service", "refused-to-kill", r"stop real\.service"),
)

GREEN = ("ip", "netns", "exec", "green")


def start_all(stage: Stage) -> None:
    stage.machine.run(["ip", "netns", "add", "green"])
    stage.service("dual.service", "listen=[::]:9001")
    stage.scope("listen=[::]:9002")
    stage.service("six.service", "listen=[::]:9003,v6only")
    stage.scope("listen=0.0.0.0:9003")
    stage.service("wide.service", "listen=0.0.0.0:9004,reuseport")
    stage.scope("listen=127.0.0.1:9004,reuseport")
    stage.service("local.service", "listen=127.0.0.1:9005")
    stage.scope("listen=127.0.0.2:9005")
    stage.service("left.service", "listen=0.0.0.0:9006,reuseport")
    stage.service("right.service", "listen=0.0.0.0:9006,reuseport")
    stage.service("pool.service", "listen=0.0.0.0:9007,reuseport listen=0.0.0.0:9007,reuseport fork")
    stage.service("packets.service", "listen=0.0.0.0:9008,udp,reuseport")
    stage.scope("listen=0.0.0.0:9008,udp,reuseport")
    stage.service("datagrams.service", "listen=0.0.0.0:9009,udp,reuseport listen=0.0.0.0:9009,udp,reuseport")
    stage.service("master.service", "listen=0.0.0.0:9010 fork")
    stage.scope("receive=/run/taker touch=/run/taken")
    stage.service("giver.service", "listen=0.0.0.0:9011 await=/run/taker send=/run/taker")
    stage.scope("thread listen=0.0.0.0:9012")
    stage.service("private.service", "listen=0.0.0.0:9013", PrivateNetwork="yes")
    stage.scope("listen=0.0.0.0:9013")
    stage.service(
        "joined.service",
        "listen=0.0.0.0:9014",
        PrivateNetwork="yes",
        Unit_JoinsNamespaceOf="private.service",
        Unit_After="private.service",  # if it started first, it would make its own namespace
    )
    stage.service("named.service", "listen=0.0.0.0:9015", NetworkNamespacePath="/run/netns/green")
    stage.begin(["systemd-run", "--quiet", "--scope", *GREEN, *ACTOR.split(), "listen=0.0.0.0:9016"])
    stage.write("given.socket", "[Socket]\nListenStream=9017\n")
    stage.service("given.service", "adopt fork")
    stage.write("waits.socket", "[Socket]\nListenStream=9018\nListenDatagram=9018\n")
    stage.service("waits.service", "adopt")
    stage.write("each.socket", "[Socket]\nListenStream=9019\nAccept=yes\n")
    stage.service("each@.service", "adopt")
    stage.service("keeps.service", "listen=0.0.0.0:9020 store ready", Type="notify", FileDescriptorStoreMax="4")
    stage.service("twin@.service", "listen=0.0.0.0:9021", Type="exec")
    stage.service("real.service", "listen=0.0.0.0:9022")
    stage.machine.run(["ln", "-s", "real.service", "/etc/systemd/system/nick.service"])
    sockets = ("given.socket", "waits.socket", "each.socket")
    plain = (unit for unit in stage.units if "@" not in unit and unit not in ("waits.service", *sockets))
    stage.start(*sockets, *plain, "twin@a.service", "nick.service")
    stage.listening(*(9001 + n for n in range(7)), "udp:9008", "udp:9009", *range(9010, 9014), *range(9017, 9023))
    until(lambda: len(stage.machine.run([*GREEN, "ss", "-Hltn"]).stdout.splitlines()) == 2, "those in the namespace")
    until(lambda: not stage.machine.run(["test", "-e", "/run/taken"], check=False).returncode, "the socket to be taken")
    until(lambda: stage.holders(9007) == stage.holders(9010) == 2, "the workers")
    until(lambda: _inside(stage, "private", 9013) and _inside(stage, "joined", 9014), "the private network")
    stage.judge(CASES)


def _inside(stage: Stage, unit: str, port: int) -> str:
    pid = stage.machine.show(f"{unit}.service", "MainPID")["MainPID"]
    return stage.machine.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-Hltn", f"sport = :{port}"]).stdout


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)


def test_the_evidence_has_all_holders(stage: Stage) -> None:
    """Each has its cgroup, unit, invocation, parent, start, user, program and command line."""
    (port,) = stage.found["check"]["giver-9011"]["evidence"]["ports"]
    ours, orphan = sorted(port["holders"], key=lambda holder: str(holder["role"]))
    shown = stage.machine.show("giver.service", "MainPID", "InvocationID", "ControlGroup")
    assert (ours["pid"], ours["role"], ours["unit"]) == (int(shown["MainPID"]), "current", "giver.service")
    assert (ours["invocation"], ours["cgroup"]) == (shown["InvocationID"], shown["ControlGroup"])
    assert (ours["parent"], ours["user"]) == (1, "root")
    assert ours["exe"].startswith("/usr/bin/python3")
    assert "listen=0.0.0.0:9011" in ours["command"]
    assert ours["started"] > 0
    assert (orphan["role"], orphan["sockets"]) == ("orphan", ["0.0.0.0:9011"])


KEPT = PortCase("keep", "9030", "owned", "held only by")
KEEP = PortCase("keep", "9030", "owned", r"systemd listens on port 9030 for keep\.service")


def test_a_stored_socket_belongs_to_the_unit_during_a_restart(machine: Machine, service: StartService) -> None:
    """During ExecStartPre= only PID 1 holds the socket, in the unit's file descriptor store."""
    again = "if test -e /run/kept; then until test -e /run/go; do sleep 0.05; done; fi"
    first = "test -e /run/kept && exec ACTOR adopt ready; touch /run/kept; exec ACTOR listen=0.0.0.0:9030 store ready"
    settings = {"Type": "notify", "FileDescriptorStoreMax": "4", "ExecStartPre": shell(again)}
    service("keep.service", unit_file(shell(first), **settings))
    machine.run(["systemctl", "restart", "--no-block", "keep.service"])
    until(lambda: machine.show("keep.service", "SubState")["SubState"] == "start-pre", "the start in between")
    assert_verdict(ask(machine, "check", "verify-port-owner", [KEEP])[str(KEEP)], KEEP)
    assert ask(machine, "plan", "kill-orphan", [KEEP])[str(KEEP)]["verdict"] == "nothing-to-kill"
    ready = runbook(machine, "check", "unit: keep\nport: 9030\nsteps: [wait-ready]\n")
    assert ready.step("wait-ready")["verdict"] == "still-starting", ready.last
    machine.run(["touch", "/run/go"])
    until(lambda: machine.show("keep.service", "SubState")["SubState"] == "running", "the new invocation")
    assert_verdict(ask(machine, "check", "verify-port-owner", [KEEP])[str(KEEP)], KEPT)
