"""The machine as it will be once the earlier steps of a fix are done: for a plan, and before the first of them."""

from __future__ import annotations

from typing import Any

from runbook.host.facts import PortOwnership, Unit
from runbook.host.ports import HostView, ReadOnlyHost
from runbook.host.tasks import Command
from runbook.model import Port
from runbook.step import Step


class Foreseen(ReadOnlyHost):
    """A view of the machine in which the earlier steps of a fix are done, as far as that is sure.

    Who holds a port is asked of the machine as it is: a stop that has not happened ended nobody.
    """

    def __init__(self, view: HostView) -> None:
        super().__init__(view)
        self._view = view
        self._units: dict[str, Unit] = {}
        self.unit = self._unit
        self.ownership = self._ownership
        self._sure = True
        self.hindrance = self._hindrance

    def after(self, step: Step[Any]) -> None:
        """Take a step as done."""
        for name in step.units():
            self._units[name] = step.leaves(self.unit(name))
        # A command may make the user, or the folder, that a later one needs.
        self._sure = self._sure and not step.brings_units

    def _unit(self, name: str) -> Unit:
        return self._units.get(name) or self._view.unit(name)

    def _ownership(self, unit: Unit, port: Port) -> PortOwnership:
        return self._view.ownership(self._view.unit(unit.name), port)

    def _hindrance(self, command: Command) -> str:
        return self._view.hindrance(command) if self._sure else ""
