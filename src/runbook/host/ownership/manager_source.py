"""The manager as the judgement's source, read once however many processes hold the port."""

from __future__ import annotations

from functools import cache

from runbook.host.ownership.sources import ManagerSource


class OnceReadManager:
    """A `ManagerSource` that keeps its answers, for one look."""

    def __init__(self, manager: ManagerSource) -> None:
        self.unit = cache(manager.unit)
        self.read_loaded_state = cache(manager.read_loaded_state)
        self.find_unit_of_invocation = cache(manager.find_unit_of_invocation)
        self.list_open_sockets = cache(manager.list_open_sockets)
        self.list_main_pids = cache(manager.list_main_pids)
