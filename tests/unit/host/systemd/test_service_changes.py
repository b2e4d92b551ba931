"""Which services have changed since they were last listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from runbook.host.facts import unit_path
from runbook.host.systemd.manager import SystemdManager
from runbook.host.systemd.service_changes import SERVICE_INTERFACE, ServiceChanges


class FakeBus:
    """A connection that passes on what the test announces."""

    def __init__(self) -> None:
        self.connections = 1
        self.rules: list[tuple[Any, ...]] = []
        self.handlers: list[Callable[[str, Any], None]] = []

    def subscribe(self, path: str | None, interface: str, member: str, handler: Any, first: str) -> None:
        self.rules.append((path, member, first))
        self.handlers.append(handler)

    def announce(self, name: str) -> None:
        for handler in self.handlers:
            handler(unit_path(name), None)


class FakeManager:
    def __init__(self) -> None:
        self.bus = FakeBus()

    def list_services(self) -> list[str]:
        return ["db.service", "gw.service"]


def test_only_what_changed_since_the_last_call_is_listed() -> None:
    manager = FakeManager()
    changes = ServiceChanges(cast("SystemdManager", manager))
    assert changes.list_changed() == ["db.service", "gw.service"]
    assert changes.list_changed() == []
    for name in ("gw.service", "gw.service", "gone.service"):
        manager.bus.announce(name)
    assert changes.list_changed() == ["gw.service"]
    assert changes.list_changed() == []
    assert manager.bus.rules == [(None, "PropertiesChanged", SERVICE_INTERFACE)]


def test_after_a_new_connection_all_are_listed() -> None:
    """Announcements between the two connections are lost."""
    manager = FakeManager()
    changes = ServiceChanges(cast("SystemdManager", manager))
    changes.list_changed()
    manager.bus.connections = 2
    assert changes.list_changed() == ["db.service", "gw.service"]
    assert changes.list_changed() == []
