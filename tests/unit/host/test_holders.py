"""What a holder of a port is, and what it is called in evidence."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.holders import Holder, Listener, PortOwnership, Role
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
