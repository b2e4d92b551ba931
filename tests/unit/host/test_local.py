"""What this machine may remember of a judgement, and for how long: real processes, and a unit as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from runbook.host.facts import ActiveState, Unit
from runbook.host.kernel.sock_diag import SocketTable, list_listeners
from runbook.host.local import LocalHost
from runbook.model import SystemClock
from tests.unit.host.kernel.family import Family

LONG = 60.0


@pytest.fixture
def host(family: Family) -> Iterator[LocalHost]:
    """A host that was never on a bus: it knows one unit, whose main process is the family's parent."""
    made: LocalHost = object.__new__(LocalHost)
    made.scope = "system"
    made.clock = SystemClock()
    made._own_networks, made._owned = set(), {}
    running = {"active_state": ActiveState.ACTIVE, "main_pid": family.parent.pid, "invocation_id": "a" * 32}
    # Where a process may not be looked into, the kernel's word on which cgroup made the socket is enough.
    (listener,) = list_listeners(family.port)
    unit = Unit("family.service", control_group_id=listener.cgroup_id, **running)  # type: ignore[arg-type]
    known = {"unit": lambda _: unit, "unit_of_invocation": lambda _: None, "live_state": lambda _: None}
    made.systemd = SimpleNamespace(**known)  # type: ignore[assignment]
    made.loop = SimpleNamespace(record_sockets=lambda *_: None)  # type: ignore[assignment]
    with SocketTable() as table:
        made._sockets = table
        yield made


def holders(host: LocalHost, family: Family, max_age: float, unit: Unit | None = None) -> int:
    """Judge, and count the holders."""
    seen = host.judge_port(unit or host.systemd.unit("family.service"), family.port, max_age=max_age)
    assert seen.is_owned, seen.reason
    return len(seen.holders)


def test_who_joined_since_is_seen_only_by_a_look_at_all_processes(host: LocalHost, family: Family) -> None:
    assert holders(host, family, LONG) == 1
    family.bear()
    assert holders(host, family, LONG) == 1
    assert holders(host, family, 0.0) == 2
    assert holders(host, family, LONG) == 2


def test_a_judgement_grows_old(host: LocalHost, family: Family) -> None:
    assert holders(host, family, 0.0) == 1
    family.bear()
    assert holders(host, family, 1e-9) == 2


def test_a_holder_that_ended_is_a_change(host: LocalHost, family: Family) -> None:
    child = family.bear()
    assert holders(host, family, 0.0) == 2
    family.end(child)
    assert holders(host, family, LONG) == 1


def test_another_invocation_is_a_change(host: LocalHost, family: Family) -> None:
    assert holders(host, family, 0.0) == 1
    family.bear()
    known = host.systemd.unit("family.service")
    assert holders(host, family, LONG, replace(known, invocation_id="b" * 32)) == 2


def test_another_socket_is_a_change(host: LocalHost, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holders(host, family, 0.0) == 1
    family.bear()
    plain = host._sockets.list_listeners
    anew = lambda port: tuple(replace(one, cookie=one.cookie + 1) for one in plain(port))  # noqa: E731
    monkeypatch.setattr(host._sockets, "list_listeners", anew)
    assert holders(host, family, LONG) == 2


def test_what_is_not_owned_is_judged_each_time(
    host: LocalHost, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = replace(host.systemd.unit("family.service"), active_state=ActiveState.FAILED, main_pid=0)
    monkeypatch.setattr(host.systemd, "unit", lambda _: down)
    assert len(host.judge_port(down, family.port, max_age=LONG).holders) == 1
    family.bear()
    assert len(host.judge_port(down, family.port, max_age=LONG).holders) == 2
