"""Which services have changed, as systemd announces it: another invocation, state or main process, or a reload.

To read all services takes up to half a second; systemd announces each change of a property at once.
"""

from __future__ import annotations

from typing import Any

from runbook.host.facts import unit_path
from runbook.host.systemd.bus import PROPERTIES
from runbook.host.systemd.manager import SystemdManager

SERVICE_INTERFACE = "org.freedesktop.systemd1.Service"


class ServiceChanges:
    """The services that changed since they were last listed."""

    def __init__(self, systemd: SystemdManager) -> None:
        self._systemd = systemd
        self._paths: set[str] = set()  # the objects of the services that have changed
        self._connection = 0  # the number of the bus's connection at the last call; 0 before the first

    def list_changed(self) -> list[str]:
        """List the services that are not inactive and have changed since the last call; see `HostView`."""
        bus = self._systemd.bus
        if not self._connection:
            bus.subscribe(None, PROPERTIES, "PropertiesChanged", self._record, SERVICE_INTERFACE)
        # The bus keeps the order: what changed before this answer is announced before it.
        names = self._systemd.list_services()
        is_complete, self._connection = bus.connections == self._connection, bus.connections
        changed, self._paths = self._paths, set()
        return [name for name in names if unit_path(name) in changed] if is_complete else names

    def _record(self, path: str, _arguments: Any) -> None:
        self._paths.add(path)
