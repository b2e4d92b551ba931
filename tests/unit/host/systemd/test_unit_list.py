"""Reading all units of a manager."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.errors import BusLost, NoSuchUnit
from runbook.host.facts import unit_path
from runbook.host.loop import Loop
from runbook.host.systemd.unit_list import list_units, list_user_units
from runbook.model import Deadline, SystemClock


class FakeBus:
    """A manager with a service, a failed mount, and a service that is unloaded between the two calls."""

    def call(self, _path: str, _interface: str, method: str, arguments: Any, **_options: Any) -> Any:
        assert method == "ListUnitsByPatterns"
        _, (states, patterns) = arguments
        assert "inactive" not in states
        names = ["a.service", "gone.service"] if patterns else ["a.service", "data.mount"]
        return ([(name, "") for name in names],)

    def properties(self, path: str, **_options: Any) -> dict[str, Any]:
        if path == unit_path("gone.service"):
            raise NoSuchUnit("it is gone")
        name = next(one for one in ("a.service", "data.mount") if unit_path(one) == path)
        return {"Id": name, "ActiveState": "failed", "LoadState": "loaded"}


def test_each_unit_is_read_once() -> None:
    bus: Any = FakeBus()
    found = list_units(bus, Deadline.after(SystemClock(), 1), of_user=True)
    assert [(unit.name, unit.of_user) for unit in found] == [("a.service", True), ("data.mount", True)]


def test_a_manager_that_is_not_there() -> None:
    loop = Loop(look=lambda _: frozenset(), pidfd=lambda _: None)
    with pytest.raises(BusLost):
        list_user_units(loop, 4_000_000)
    loop.close()
