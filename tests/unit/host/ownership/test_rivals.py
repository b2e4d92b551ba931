"""Which sockets of a port number are in the unit's way."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.holders import Listener, Role
from runbook.host.ownership.judge import PortJudge
from runbook.host.ownership.rivals import ELSEWHERE, MULTICAST
from runbook.model import Port, Verdict
from tests.unit.fake_machine import FakeMachine

from .scene import SESSION, listener, process, unit

PORT = Port(80)
SOCKET_UNIT = unit("gw.socket", triggers=("gw.service",), listen=(("Stream", "127.0.0.1:80"),))
NEAR, FAR = listener("127.0.0.1"), listener("127.0.0.2", inode=8)


def judged(mine: list[Listener], theirs: list[Listener], port: Port = PORT, cgroup: str = SESSION, **facts: Any) -> Any:
    """Judge a port of a unit with PID 100, beside PID 74."""
    on = FakeMachine(
        units={"gw.service": unit(), **facts.pop("units", {})},
        processes={100: process(100), 74: process(74, started=1.0, cgroup=cgroup)},
        sockets={100: mine, 74: theirs},
        **facts,
    )
    return PortJudge(on.units["gw.service"], on, on, addresses=on).judge_port(port)


@pytest.mark.parametrize(
    ("mine", "theirs", "facts", "verdict"),
    [
        # The unit listens.
        ([NEAR], [FAR], {}, Verdict.OWNED),
        ([NEAR], [listener(inode=8)], {}, Verdict.PORT_SHARED),
        ([NEAR], [FAR, listener("127.0.0.1", inode=9)], {}, Verdict.PORT_SHARED),
        ([NEAR], [FAR, NEAR], {}, Verdict.PORT_SHARED),
        ([NEAR], [FAR], {"refused": ("127.0.0.2",)}, Verdict.OWNED),
        ([NEAR], [FAR], {"refused": ("",), "earlier": ("127.0.0.2",)}, Verdict.OWNED),
        # It does not.
        ([], [FAR], {}, Verdict.ORPHAN_HOLDS_PORT),
        ([], [FAR], {"earlier": ("127.0.0.1",)}, Verdict.NOT_LISTENING),
        ([], [FAR], {"earlier": ("127.0.0.2",)}, Verdict.ORPHAN_HOLDS_PORT),
        ([], [FAR], {"refused": ("127.0.0.1",)}, Verdict.NOT_LISTENING),
        ([], [FAR], {"refused": ("127.0.0.2",), "earlier": ("127.0.0.1",)}, Verdict.NOT_LISTENING),
        ([], [FAR], {"refused": ("127.0.0.2", "127.0.0.1")}, Verdict.ORPHAN_HOLDS_PORT),
        ([], [FAR], {"refused": ("",)}, Verdict.ORPHAN_HOLDS_PORT),
        ([], [FAR], {"refused": ("", "127.0.0.1")}, Verdict.ORPHAN_HOLDS_PORT),
        ([], [FAR, NEAR], {"refused": ("", "127.0.0.1")}, Verdict.ORPHAN_HOLDS_PORT),
        # Its socket unit, which is down.
        ([], [FAR], {"units": {"gw.socket": SOCKET_UNIT}}, Verdict.NOT_LISTENING),
    ],
)
def test_the_verdict_beside_an_orphan(
    mine: list[Listener], theirs: list[Listener], facts: dict[str, Any], verdict: Verdict
) -> None:
    assert judged(mine, theirs, **facts).verdict is verdict


@pytest.mark.parametrize(
    ("sockets", "ppid", "facts", "spared"),
    [
        ([NEAR, FAR], 1, {}, True),
        ([NEAR, FAR], 1, {"refused": ("",)}, True),
        ([NEAR, FAR], 1, {"earlier": ("127.0.0.1", "127.0.0.2")}, False),
        ([NEAR, FAR], 74, {}, False),  # A worker listens on another address than its parent.
        ([NEAR, listener("127.0.0.1", inode=8)], 1, {}, False),
        ([listener("0.0.0.0"), FAR], 1, {}, False),
    ],
)
def test_of_orphans_on_several_addresses_none_is_killed_if_the_unit_s_is_not_known(
    sockets: list[Listener], ppid: int, facts: dict[str, Any], spared: bool
) -> None:
    on = FakeMachine(
        units={"gw.service": unit()},
        processes={100: process(100), 74: process(74, cgroup=SESSION), 75: process(75, cgroup=SESSION, ppid=ppid)},
        sockets={74: sockets[:1], 75: sockets[1:]},
        **facts,
    )
    found = PortJudge(on.units["gw.service"], on, on, addresses=on).judge_port(PORT)
    assert found.verdict is Verdict.ORPHAN_HOLDS_PORT
    reasons = [one.protection for one in found.holders]
    assert all("on which addresses gw.service would listen is not known" in why for why in reasons) is spared, reasons
    assert any(reasons) is spared, reasons


GATEWAY = {"start_arguments": ("/usr/bin/node", "/opt/gateway-2.0/server.js", "--port", "80")}


@pytest.mark.parametrize(
    ("address", "facts", "command", "spared"),
    [
        ("10.0.0.5", GATEWAY, "other --port 80", True),
        ("::2", GATEWAY, "/usr/bin/node --port 80 /opt/mailer/index.js", True),
        ("10.0.0.5", {**GATEWAY, "environment": ("BIND=10.0.0.6", "BACK=10:20:30")}, "other", True),
        # Where the unit may well listen.
        ("127.0.0.1", GATEWAY, "other", False),
        ("::ffff:127.0.0.1", GATEWAY, "other", False),
        ("::1", GATEWAY, "other", False),
        ("0.0.0.0", GATEWAY, "other", False),
        ("::", GATEWAY, "other", False),
        ("10.0.0.5", {**GATEWAY, "environment": ("BIND=[fe80::1]:80 10.0.0.5:80",)}, "other", False),
        ("10.0.0.5", {"start_arguments": ("/usr/bin/gw", "--bind=10.0.0.5:80", "1.2.3")}, "other", False),
        # What the unit runs, perhaps another version of it, or with a title of its own.
        ("10.0.0.5", GATEWAY, "/usr/bin/nodejs /opt/gateway-1.0/server.js --port 80", False),
        ("10.0.0.5", {"start_arguments": ("/usr/sbin/nginx", "-g", "daemon off;")}, "nginx: master process", False),
        ("10.0.0.5", {"start_arguments": ("/opt/gateway-2.0",)}, "/opt/gateway-1.0", False),
        ("10.0.0.5", {}, "other", False),
    ],
)
def test_an_orphan_of_another_program_on_an_unusual_address_is_spared(
    address: str, facts: dict[str, Any], command: str, spared: bool
) -> None:
    """If it is not known where the unit would listen."""
    words = tuple(command.split())
    orphan = process(74, cgroup=SESSION, command=words, name=words[0].rpartition("/")[2], exe=words[0])
    on = FakeMachine(
        units={"gw.service": unit(main_pid=0, **facts)}, processes={74: orphan}, sockets={74: [listener(address)]}
    )
    (holder,) = PortJudge(on.units["gw.service"], on, on, addresses=on).judge_port(PORT).holders
    assert (holder.role, holder.may_be_killed) == (Role.ORPHAN, not spared)
    assert ("write the port as" in holder.protection) is spared


@pytest.mark.parametrize(
    ("address", "verdict"),
    [("127.0.0.1", Verdict.OWNED), ("0.0.0.0", Verdict.PORT_SHARED), ("127.0.0.2", Verdict.ORPHAN_HOLDS_PORT)],
)
def test_the_address_that_the_runbook_names_counts(address: str, verdict: Verdict) -> None:
    assert judged([NEAR], [FAR], Port(80, address=address)).verdict is verdict


def test_a_leftover_is_a_rival_on_whichever_address() -> None:
    assert judged([NEAR], [FAR], cgroup="/system.slice/gw.service").verdict is Verdict.PORT_SHARED


def test_a_bystander_is_named_and_is_no_foreign_holder() -> None:
    found = judged([NEAR], [FAR])
    assert found.reason == (
        f"port 80 is held only by PID 100; PID 74 (gateway), in session-9.scope of user root, "
        f"listens on 127.0.0.2:80, {ELSEWHERE}"
    )
    assert (found.foreign_holders, found.listeners, found.apart) == ((), (NEAR,), (FAR,))
    assert [one["pid"] for one in found.evidence()["bystanders"]] == [74]
    (rival,) = judged([NEAR], [NEAR, FAR]).foreign_holders
    assert rival.sockets == (NEAR,)


def test_a_socket_whose_holder_cannot_be_found_is_no_obstacle_on_another_address() -> None:
    on = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)}, sockets={100: [NEAR], 9: [FAR]})
    found = PortJudge(on.units["gw.service"], on, on).judge_port(PORT)
    assert (found.verdict, found.unseen) == (Verdict.OWNED, ())
    assert found.reason.endswith("; another process listens on 127.0.0.2:80, another address")


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        ("224.0.0.251", "224.0.0.251", Verdict.OWNED),
        ("0.0.0.0", "224.0.0.251", Verdict.PORT_SHARED),
        (None, "224.0.0.251", Verdict.NOT_LISTENING),
    ],
)
def test_a_multicast_port_is_shared_by_design(mine: str | None, theirs: str, verdict: Verdict) -> None:
    """All sockets on the address must be of multicast: otherwise one takes what was sent to another."""
    own = [Listener("udp", mine, 80, 7)] if mine else []
    found = judged(own, [Listener("udp", theirs, 80, 8)], Port(80, "udp"))
    assert found.verdict is verdict
    assert found.reason.endswith(MULTICAST) is (verdict is not Verdict.PORT_SHARED)
