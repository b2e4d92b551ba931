"""Reading all units of a manager."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from runbook.errors import BusLost, HostError
from runbook.host.facts import unit_path
from runbook.host.loop import Loop
from runbook.host.systemd import unit_list
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

    def list_properties(self, paths: Iterable[str], **_options: Any) -> Iterator[dict[str, Any]]:
        names = {unit_path(name): name for name in ("a.service", "gone.service", "data.mount")}
        for name in map(names.__getitem__, paths):
            if name != "gone.service":
                yield {"Id": name, "ActiveState": "failed", "LoadState": "loaded"}


def test_each_unit_is_read_once() -> None:
    bus: Any = FakeBus()
    found = list_units(bus, Deadline.after(SystemClock(), 1), of_user=True)
    assert [(unit.name, unit.of_user) for unit in found] == [("a.service", True), ("data.mount", True)]


@pytest.mark.parametrize(
    "properties",
    [
        {"Id": "x'; touch /tmp/pwned; true '.service"},
        {"Id": "x\ny.service"},
        {"Id": "-M root@.service " * 30},
        {"Id": "a.service", "Job": ""},
        {"Id": "a.service", "InvocationID": ["x"]},
    ],
    ids=["a command", "two lines", "long", "another type", "no bytes"],
)
def test_what_another_program_answers_in_the_place_of_a_users_manager_is_no_unit(
    properties: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forged(FakeBus):
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def list_properties(self, paths: Iterable[str], **_options: Any) -> Iterator[dict[str, Any]]:
            yield {"ActiveState": "failed", "LoadState": "loaded", **properties}

        def close(self) -> None:
            pass

    monkeypatch.setattr(unit_list, "Bus", Forged)
    loop: Any = SimpleNamespace(clock=SystemClock())
    with pytest.raises(HostError, match="does not answer as systemd does"):
        list_user_units(loop, 1000)


def test_a_manager_that_is_not_there() -> None:
    loop = Loop(look=lambda _: frozenset(), pidfd=lambda _: None)
    with pytest.raises(BusLost):
        list_user_units(loop, 4_000_000)
    loop.close()
