"""What a holder of a port is, and what it is called in evidence."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.holders import Holder, Listener, PortOwnership, Role, address_of
from runbook.model import Port, Verdict
from tests.unit.fake_machine import process

SOCKET = Listener("tcp", "0.0.0.0", 80, inode=7)
USER = "/user.slice/user-1000.slice/user@1000.service"


def holder(role: Role = Role.ORPHAN, cgroup: str = "/system.slice/gw.service", **changes: Any) -> Holder:
    facts: dict[str, Any] = {"unit": "gw.service", "why": "it is a test", **changes}
    return Holder(process(100, cgroup=cgroup), role, sockets=(SOCKET,), **facts)


def test_a_socket_in_words() -> None:
    assert str(SOCKET) == "0.0.0.0:80"
    assert str(Listener("tcp", "::", 80, inode=8)) == "[::]:80"


@pytest.mark.parametrize(
    ("own", "only_v6", "wanted", "serves"),
    [
        ("127.0.0.1", False, "127.0.0.1", True),
        ("127.0.0.1", False, "127.0.0.2", False),
        ("127.0.0.1", False, "0.0.0.0", True),
        ("127.0.0.1", False, "::1", False),
        ("127.0.0.1", False, "::", True),
        ("0.0.0.0", False, "127.0.0.1", True),
        ("0.0.0.0", False, "::1", False),
        ("::", False, "127.0.0.1", True),
        ("::", False, "0.0.0.0", True),
        ("::", True, "127.0.0.1", False),
        ("::", True, "0.0.0.0", False),
        ("::", True, "::1", True),
        ("::1", False, "::1", True),
        ("::1", False, "127.0.0.1", False),
        ("::1", False, "::", True),
        ("::1", False, "0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", False, "127.0.0.1", True),
        ("::ffff:127.0.0.1", False, "::1", False),
        ("::ffff:0.0.0.0", False, "127.0.0.1", True),
        ("127.0.0.1", False, "::ffff:127.0.0.1", True),
    ],
)
def test_two_sockets_overlap_if_one_receives_what_is_sent_to_the_other(
    own: str, only_v6: bool, wanted: str, serves: bool
) -> None:
    listener = Listener("tcp", own, 80, 1, only_v6=only_v6)
    other = Listener("tcp", wanted, 80, 2)
    assert (listener.overlaps(other), other.overlaps(listener)) == (serves, serves)


@pytest.mark.parametrize(
    ("one", "other", "overlaps"), [("", "eth0", True), ("eth0", "eth0", True), ("eth0", "lo", False)]
)
def test_sockets_of_two_interfaces_do_not_overlap(one: str, other: str, overlaps: bool) -> None:
    first, second = (Listener("tcp", "fe80::1", 80, 1, interface=name) for name in (one, other))
    assert first.overlaps(second) is overlaps


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("udp:[fe80::1%eth0]:80", "fe80::1"),
        ("[fe80::1]:80%eth0", "fe80::1"),
        ("[::]:80", "::"),
        ("127.0.0.1:8080", ""),
        ("/run/gw.sock", ""),
        ("@abstract:80", ""),
        ("", ""),
    ],
)
def test_the_address_of_an_endpoint(endpoint: str, address: str) -> None:
    assert address_of(endpoint, 80) == address


def test_a_socket_is_shown_with_its_protocol_and_interface() -> None:
    assert str(Listener("udp", "::1", 53, 1)) == "udp:[::1]:53"
    assert str(Listener("tcp", "fe80::1", 53, 1, interface="eth0")) == "[fe80::1%eth0]:53"
    assert str(Listener("tcp", "0.0.0.0", 53, 1, interface="eth0")) == "0.0.0.0%eth0:53"


@pytest.mark.parametrize("role", Role)
def test_only_orphans_and_leftovers_may_be_killed(role: Role) -> None:
    assert holder(role).may_be_killed is (role in (Role.ORPHAN, Role.LEFTOVER))
    assert not holder(role, protection="it is a systemd manager").may_be_killed


def test_whose_manager_has_its_unit() -> None:
    inside = holder(cgroup=f"{USER}/app.slice/gw.service")
    assert (inside.is_user_unit(False), inside.is_user_unit(True)) == (True, True)
    # Moved to a session by PAM: our manager has the unit, so the answer is what ours is.
    moved = holder(cgroup="/user.slice/user-1000.slice/session-3.scope")
    assert (moved.is_user_unit(False), moved.is_user_unit(True)) == (False, True)
    manager = holder(cgroup=f"{USER}/init.scope", unit="user@1000.service")
    assert manager.in_manager_cgroup
    assert not manager.is_user_unit(True)


def test_evidence() -> None:
    owner = PortOwnership(Port(80), Verdict.OWNED, "", (SOCKET,), (holder(protection="because"),), (SOCKET,))
    found = owner.evidence()
    assert (found["listeners"], found["unseen"]) == (["0.0.0.0:80"], ["0.0.0.0:80"])
    assert (found["holders"][0]["pid"], found["holders"][0]["role"], found["holders"][0]["spared"]) == (
        100,
        "orphan",
        "because",
    )
    assert owner.is_owned
    assert owner.sockets == {7}
    assert "spared" not in holder().evidence()


def test_the_evidence_of_very_many_is_short() -> None:
    known = [Holder(process(pid), Role.CURRENT if pid < 3000 else Role.ORPHAN, "", "", ()) for pid in range(1000, 3010)]
    listeners = tuple(Listener("tcp", "127.0.0.1", 80, number) for number in range(1500))
    found = PortOwnership(Port(80), Verdict.PORT_SHARED, "", listeners, tuple(known)).evidence()
    assert [one["pid"] for one in found["holders"][:11]] == [*range(3000, 3010), 1000]
    assert (len(found["holders"]), len(found["listeners"])) == (1000, 1000)
    assert found["omitted"] == {"listeners": 500, "holders": 1010}
    long = Holder(process(7, command=("x" * 9000,)), Role.ORPHAN, "", "", ())
    assert len(long.evidence()["command"]) == 4099
