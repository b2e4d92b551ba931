"""Every socket that listens on the port counts: each family, each address, each network, and all of its holders."""

from __future__ import annotations

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.ownership.street import ACTOR, House, Street, ask, assert_said, shell
from tests.machine.runs import runbook, unit_file

SCOPE = r"PID \d+ \(python3\), in run-\S+\.scope of user root"
END = "kill PID"


def house(unit: str, port: str, verdict: str, reason: str = "", kill: str = "", why: str = "") -> House:
    """Fill in what follows: orphans may be ended, other units may not."""
    follows = {"port-shared": "port-shared", "orphan-holds-port": "orphan-holds-port"}
    return House(unit, port, verdict, reason, kill or follows.get(verdict, "nothing-to-kill"), why)


HOUSES = (
    # Families and addresses.
    house("dual", "9001", "owned"),
    house("dual", "127.0.0.1:9001", "owned"),
    house("idle", "127.0.0.1:9002", "orphan-holds-port", SCOPE, why=END),
    house("six", "9003", "port-shared", SCOPE, why=END),
    house("six", "127.0.0.1:9003", "orphan-holds-port", SCOPE, why=END),
    house("six", "[::1]:9003", "owned"),
    house("wide", "9004", "port-shared", SCOPE, why=END),
    house("wide", "127.0.0.1:9004", "port-shared", SCOPE, why=END),
    house("local", "9005", "port-shared", SCOPE, why=END),
    house("local", "127.0.0.1:9005", "owned"),
    house("local", "127.0.0.2:9005", "orphan-holds-port", SCOPE, why=END),
    # Several listeners, several holders.
    house(
        "left", "9006", "port-shared", r"by left\.service and by .*in right\.service", "refused-to-kill", "stop right"
    ),
    house("pool", "9007", "owned", r"only by pool\.service \(2 processes\)"),
    house("packets", "udp:9008", "port-shared", SCOPE, why=END),
    house("datagrams", "udp:9009", "owned"),
    house("master", "9010", "owned", r"\(2 processes\)"),
    house("giver", "9011", "port-shared", rf"by giver\.service and by {SCOPE}", why=END),
    house("idle", "9012", "orphan-holds-port", SCOPE, why=END),
    # Networks.
    house("private", "9013", "owned"),
    house("idle", "9013", "orphan-holds-port", SCOPE, why=END),
    house("private", "9014", "other-unit-holds-port", r"in joined\.service", "refused-to-kill", "stop joined"),
    house("joined", "9014", "owned"),
    house("named", "9015", "owned"),
    house("named", "9016", "orphan-holds-port", SCOPE, why=END),
    house("private", "9016", "not-listening"),
    # systemd itself.
    house("given", "9017", "owned", r"given\.service|held only by"),
    house("given.socket", "9017", "owned"),
    house("waits", "9018", "owned", r"systemd listens on port 9018 for waits\.service"),
    house("waits", "udp:9018", "owned"),
    house("each.socket", "9019", "owned"),
    house(
        "idle",
        "9018",
        "other-unit-holds-port",
        r"\(systemd\), for waits\.socket$",
        "refused-to-kill",
        "stop waits.sock",
    ),
    house("keeps", "9020", "owned", "held only by"),
    house("idle", "9020", "other-unit-holds-port", r"in keeps\.service", "refused-to-kill"),
    # Names.
    house("twin@a", "9021", "owned"),
    house("twin@b", "9021", "other-unit-holds-port", r"in twin@a\.service", "refused-to-kill", r"stop twin@a\.service"),
    house("nick", "9022", "owned"),
    house("nick", "9006", "other-unit-holds-port", r"left\.service.*right\.service", "refused-to-kill"),
    house("idle", "9022", "other-unit-holds-port", r"in real\.service", "refused-to-kill", r"stop real\.service"),
)

GREEN = ("ip", "netns", "exec", "green")


def move_in(street: Street) -> None:
    street.machine.run(["ip", "netns", "add", "green"])
    street.service("dual.service", "listen=[::]:9001")
    street.scope("listen=[::]:9002")
    street.service("six.service", "listen=[::]:9003,v6only")
    street.scope("listen=0.0.0.0:9003")
    street.service("wide.service", "listen=0.0.0.0:9004,reuseport")
    street.scope("listen=127.0.0.1:9004,reuseport")
    street.service("local.service", "listen=127.0.0.1:9005")
    street.scope("listen=127.0.0.2:9005")
    street.service("left.service", "listen=0.0.0.0:9006,reuseport")
    street.service("right.service", "listen=0.0.0.0:9006,reuseport")
    street.service("pool.service", "listen=0.0.0.0:9007,reuseport listen=0.0.0.0:9007,reuseport fork")
    street.service("packets.service", "listen=0.0.0.0:9008,udp,reuseport")
    street.scope("listen=0.0.0.0:9008,udp,reuseport")
    street.service("datagrams.service", "listen=0.0.0.0:9009,udp,reuseport listen=0.0.0.0:9009,udp,reuseport")
    street.service("master.service", "listen=0.0.0.0:9010 fork")
    street.scope("receive=/run/taker touch=/run/taken")
    street.service("giver.service", "listen=0.0.0.0:9011 await=/run/taker send=/run/taker")
    street.scope("thread listen=0.0.0.0:9012")
    street.service("private.service", "listen=0.0.0.0:9013", PrivateNetwork="yes")
    street.scope("listen=0.0.0.0:9013")
    street.service(
        "joined.service",
        "listen=0.0.0.0:9014",
        PrivateNetwork="yes",
        Unit_JoinsNamespaceOf="private.service",
        Unit_After="private.service",  # started first, it would make a namespace of its own
    )
    street.service("named.service", "listen=0.0.0.0:9015", NetworkNamespacePath="/run/netns/green")
    street.begin(["systemd-run", "--quiet", "--scope", *GREEN, *ACTOR.split(), "listen=0.0.0.0:9016"])
    street.write("given.socket", "[Socket]\nListenStream=9017\n")
    street.service("given.service", "adopt fork")
    street.write("waits.socket", "[Socket]\nListenStream=9018\nListenDatagram=9018\n")
    street.service("waits.service", "adopt")
    street.write("each.socket", "[Socket]\nListenStream=9019\nAccept=yes\n")
    street.service("each@.service", "adopt")
    street.service("keeps.service", "listen=0.0.0.0:9020 store ready", Type="notify", FileDescriptorStoreMax="4")
    street.service("twin@.service", "listen=0.0.0.0:9021", Type="exec")
    street.service("real.service", "listen=0.0.0.0:9022")
    street.machine.run(["ln", "-s", "real.service", "/etc/systemd/system/nick.service"])
    sockets = ("given.socket", "waits.socket", "each.socket")
    plain = (unit for unit in street.units if "@" not in unit and unit not in ("waits.service", *sockets))
    street.start(*sockets, *plain, "twin@a.service", "nick.service")
    street.listening(*(9001 + n for n in range(7)), "udp:9008", "udp:9009", *range(9010, 9014), *range(9017, 9023))
    until(lambda: len(street.machine.run([*GREEN, "ss", "-Hltn"]).stdout.splitlines()) == 2, "those in the namespace")
    until(
        lambda: not street.machine.run(["test", "-e", "/run/taken"], check=False).returncode, "the socket to be taken"
    )
    until(lambda: street.holders(9007) == street.holders(9010) == 2, "the workers")
    until(lambda: _inside(street, "private", 9013) and _inside(street, "joined", 9014), "the private network")
    street.judge(HOUSES)


def _inside(street: Street, unit: str, port: int) -> str:
    pid = street.machine.show(f"{unit}.service", "MainPID")["MainPID"]
    return street.machine.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-Hltn", f"sport = :{port}"]).stdout


@pytest.mark.parametrize("house", HOUSES, ids=str)
def test_whose_it_is(street: Street, house: House) -> None:
    street.assert_said(house)


def test_the_evidence_names_every_holder(street: Street) -> None:
    """For each: its cgroup, unit, invocation, parent, start, user, program and command line."""
    (port,) = street.said["check"]["giver-9011"]["evidence"]["ports"]
    ours, stranger = sorted(port["holders"], key=lambda holder: str(holder["role"]))
    shown = street.machine.show("giver.service", "MainPID", "InvocationID", "ControlGroup")
    assert (ours["pid"], ours["role"], ours["unit"]) == (int(shown["MainPID"]), "current", "giver.service")
    assert (ours["invocation"], ours["cgroup"]) == (shown["InvocationID"], shown["ControlGroup"])
    assert (ours["parent"], ours["user"]) == (1, "root")
    assert ours["exe"].startswith("/usr/bin/python3")
    assert "listen=0.0.0.0:9011" in ours["command"]
    assert ours["started"] > 0
    assert (stranger["role"], stranger["sockets"]) == ("orphan", ["0.0.0.0:9011"])


KEPT = House("keep", "9030", "owned", "held only by")
KEEP = House("keep", "9030", "owned", r"systemd listens on port 9030 for keep\.service")


def test_what_systemd_keeps_while_the_unit_starts_anew(machine: Machine, service: StartService) -> None:
    """Its file descriptor store: in ExecStartPre= nobody but PID 1 has the socket, and that is no stranger."""
    again = "if test -e /run/kept; then until test -e /run/go; do sleep 0.05; done; fi"
    first = "test -e /run/kept && exec ACTOR adopt ready; touch /run/kept; exec ACTOR listen=0.0.0.0:9030 store ready"
    settings = {"Type": "notify", "FileDescriptorStoreMax": "4", "ExecStartPre": shell(again)}
    service("keep.service", unit_file(shell(first), **settings))
    machine.run(["systemctl", "restart", "--no-block", "keep.service"])
    until(lambda: machine.show("keep.service", "SubState")["SubState"] == "start-pre", "the start in between")
    assert_said(ask(machine, "check", "verify-port-owner", [KEEP])[str(KEEP)], KEEP)
    assert ask(machine, "plan", "kill-orphan", [KEEP])[str(KEEP)]["verdict"] == "nothing-to-kill"
    ready = runbook(machine, "check", "unit: keep\nport: 9030\nsteps: [wait-ready]\n")
    assert ready.step("wait-ready")["verdict"] == "still-starting", ready.last
    machine.run(["touch", "/run/go"])
    until(lambda: machine.show("keep.service", "SubState")["SubState"] == "running", "the new invocation")
    assert_said(ask(machine, "check", "verify-port-owner", [KEEP])[str(KEEP)], KEPT)
