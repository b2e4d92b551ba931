"""The main processes of all services. The rest of the manager is tested on a bus, in tests/bus."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runbook.errors import BusLost, BusTimeout, HostError, NoSuchUnit
from runbook.host.facts import unit_path
from runbook.host.systemd.manager import MAIN_PIDS_TIMEOUT, SystemdManager
from tests.unit.fake_machine import FakeClock

MAINS = {"web.service": 70, "job.service": 0, "db.service": 80}


class FakeBus:
    """A bus on which each answer takes some seconds, or is an error."""

    def __init__(self, clock: FakeClock, seconds: float = 0.0, **errors: HostError) -> None:
        self.clock, self.seconds, self.errors = clock, seconds, errors
        self.timeouts: list[float] = []

    def call(self, *_: Any, timeout: float, **_options: Any) -> Any:
        self._wait("list", timeout)
        return ([(name,) for name in MAINS],)

    def read(self, path: str, interface: str, name: str, *, what: str, timeout: float) -> Any:
        assert (interface, name) == ("org.freedesktop.systemd1.Service", "MainPID")
        found = next(unit for unit in MAINS if unit_path(unit) == path)
        self._wait(found.partition(".")[0], timeout)
        return MAINS[found]

    def _wait(self, what: str, timeout: float) -> None:
        self.timeouts.append(timeout)
        self.clock.time += self.seconds
        if what in self.errors:
            raise self.errors[what]


def main_pids(seconds: float = 0.0, **errors: HostError) -> tuple[dict[int, str] | None, FakeBus]:
    clock = FakeClock()
    manager = SystemdManager.__new__(SystemdManager)
    manager._loop = SimpleNamespace(clock=clock)  # type: ignore[assignment]
    manager.bus = bus = FakeBus(clock, seconds, **errors)  # type: ignore[assignment]
    return manager.list_main_pids(), bus


def test_the_main_process_of_each_service() -> None:
    found, _ = main_pids()
    assert found is not None
    assert {pid: name for pid, name in found.items() if pid} == {70: "web.service", 80: "db.service"}


def test_a_service_that_was_unloaded_meanwhile_has_none() -> None:
    found, _ = main_pids(web=NoSuchUnit("gone"))
    assert found is not None
    assert 70 not in found
    assert found[80] == "db.service"


def test_all_answers_together_have_a_time_limit() -> None:
    found, bus = main_pids(MAIN_PIDS_TIMEOUT / 2)
    assert found is None
    assert bus.timeouts == [MAIN_PIDS_TIMEOUT, MAIN_PIDS_TIMEOUT / 2]


@pytest.mark.parametrize("errors", [{"list": BusTimeout("late")}, {"db": BusLost("lost")}, {"job": HostError("no")}])
def test_an_error_is_no_empty_list(errors: dict[str, HostError]) -> None:
    assert main_pids(0.0, **errors)[0] is None
