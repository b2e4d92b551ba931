"""The manager, read once for each thing that a look asks."""

from __future__ import annotations

from runbook.host.facts import ActiveState, Unit
from runbook.host.ownership.manager_source import OnceReadManager

from .scene import unit


class Counting:
    """A manager that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def unit(self, name: str) -> Unit:
        self.asked.append(name)
        return unit(name=name)

    def read_loaded_state(self, name: str) -> ActiveState | None:
        self.asked.append(f"state of {name}")
        return None

    def find_unit_of_invocation(self, invocation: str) -> Unit | None:
        self.asked.append(invocation)
        return None

    def list_open_sockets(self) -> list[str]:
        self.asked.append("sockets")
        return ["web.socket"]

    def list_main_pids(self) -> dict[int, str]:
        self.asked.append("main processes")
        return {70: "web.service"}


def test_nothing_is_asked_twice() -> None:
    counting = Counting()
    manager = OnceReadManager(counting)
    for _ in range(3):
        assert manager.unit("gw.service").name == "gw.service"
        assert manager.read_loaded_state("gw.service") is None
        assert manager.find_unit_of_invocation("ab" * 16) is None
        assert manager.list_open_sockets() == ["web.socket"]
        assert manager.list_main_pids() == {70: "web.service"}
    assert counting.asked == ["gw.service", "state of gw.service", "ab" * 16, "sockets", "main processes"]
