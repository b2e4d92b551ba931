"""How long a judgement may be used again: real processes, and a unit as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Listener
from runbook.host.kernel.sock_diag import SocketTable
from runbook.host.loop import Loop
from runbook.host.ownership.cache import OwnershipCache
from runbook.host.ownership.judge import PortJudge
from runbook.host.ownership.kernel_source import LocalKernel
from runbook.model import Port, SystemClock
from tests.unit.host.kernel.family import Family, list_listeners

LONG = 60.0


@dataclass
class OneUnit:
    """A manager that has one unit."""

    known: Unit

    def unit(self, _name: str) -> Unit:
        return self.known

    def read_loaded_state(self, _name: str) -> ActiveState | None:
        return None

    def find_unit_of_invocation(self, _invocation: str) -> Unit | None:
        return None

    def list_open_sockets(self) -> list[str]:
        return []

    def list_main_pids(self) -> dict[int, str]:
        return {}


class AnotherSocket(LocalKernel):
    """The kernel, after another socket has replaced the one that listened."""

    cookie = 0

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        return tuple(one._replace(cookie=one.cookie + self.cookie) for one in super().list_listeners(port))


@pytest.fixture
def manager(family: Family) -> OneUnit:
    """The family's parent is the main process."""
    # If a process may not be read, the cgroup in which its socket was created is enough.
    (listener,) = list_listeners(family.port)
    running = {"active_state": ActiveState.ACTIVE, "main_pid": family.parent.pid, "invocation_id": "a" * 32}
    return OneUnit(Unit("family.service", control_group_id=listener.cgroup_id, **running))  # type: ignore[arg-type]


@pytest.fixture
def kernel(loop: Loop) -> Iterator[AnotherSocket]:
    with SocketTable() as table:
        yield AnotherSocket(table, loop)


@pytest.fixture
def cache(manager: OneUnit, kernel: AnotherSocket) -> OwnershipCache:
    return OwnershipCache(
        lambda unit: PortJudge(unit, kernel, manager), manager, SystemClock(), lambda unit, sockets: None
    )


def holders(cache: OwnershipCache, family: Family, unit: Unit, max_age: float = LONG) -> int:
    """Judge, and count the holders."""
    seen = cache.judge_port(unit, family.port, max_age=max_age)
    assert seen.is_owned, seen.reason
    return len(seen.holders)


def test_a_process_that_was_handed_the_socket_since_is_found_only_without_the_cache(
    cache: OwnershipCache, family: Family, manager: OneUnit
) -> None:
    assert holders(cache, family, manager.known) == 1
    family.bear()
    assert holders(cache, family, manager.known) == 1
    assert holders(cache, family, manager.known, 0.0) == 2
    assert holders(cache, family, manager.known) == 2


def test_a_judgement_expires(cache: OwnershipCache, family: Family, manager: OneUnit) -> None:
    assert holders(cache, family, manager.known) == 1
    family.bear()
    assert holders(cache, family, manager.known, 1e-9) == 2


def test_a_holder_that_exited_is_a_change(cache: OwnershipCache, family: Family, manager: OneUnit) -> None:
    child = family.bear()
    assert holders(cache, family, manager.known) == 2
    family.end(child)
    assert holders(cache, family, manager.known) == 1


def test_another_invocation_is_a_change(cache: OwnershipCache, family: Family, manager: OneUnit) -> None:
    assert holders(cache, family, manager.known) == 1
    family.bear()
    assert holders(cache, family, replace(manager.known, invocation_id="b" * 32)) == 2


def test_another_socket_is_a_change(
    cache: OwnershipCache, family: Family, manager: OneUnit, kernel: AnotherSocket
) -> None:
    assert holders(cache, family, manager.known) == 1
    family.bear()
    kernel.cookie = 1
    assert holders(cache, family, manager.known) == 2


def test_a_port_that_is_not_owned_is_judged_each_time(cache: OwnershipCache, family: Family, manager: OneUnit) -> None:
    manager.known = down = replace(manager.known, active_state=ActiveState.FAILED, main_pid=0)
    assert len(cache.judge_port(down, family.port, max_age=LONG).holders) == 1
    family.bear()
    assert len(cache.judge_port(down, family.port, max_age=LONG).holders) == 2
