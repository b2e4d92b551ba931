"""The machine as it will be once the earlier steps of a fix are done: for a plan, and before the first of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.host.interface import HostView
from runbook.host.queries import Command
from runbook.model import Port, Verdict
from runbook.spec.step import Step


class PredictedHost:
    """A view of the machine in which the earlier steps of a fix are done, as far as that is sure.

    Who holds a port is asked of the machine as it is: a stop that has not happened ended nobody. Only another
    unit that an earlier step stops by its name is taken to let go of its ports.
    """

    enqueue_job: None  # Not a `Host`: `__getattr__` would make it one for the type checker.

    def __init__(self, view: HostView) -> None:
        self._view = view
        self._units: dict[str, Unit] = {}
        self._sure = True

    def __getattr__(self, name: str) -> Any:
        """Return what is read of the machine as it is. The view may be a whole `Host`, but only reads pass."""
        if name.startswith("_") or not hasattr(HostView, name):
            raise AttributeError(name)
        return getattr(self._view, name)

    def assume_done(self, step: Step[Any]) -> None:
        """Take a step as done."""
        for name in step.units():
            self._units[name] = step.predict(self.unit(name))
        # A command may make the user, or the folder, that a later one needs.
        self._sure = self._sure and not step.may_create_units

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        return self._units.get(name) or self._view.unit(name, max_age=max_age)

    def judge_port(self, unit: Unit, port: Port, *, max_age: float = 0.0) -> PortOwnership:
        owner = self._view.judge_port(self._view.unit(unit.name), port, max_age=max_age)
        down = [name for name, other in self._units.items() if name != unit.name and not other.is_running]
        # What such a unit left behind when it went down earlier will not go by stopping it once more.
        stopped = {name: other for name in down if (other := self._view.unit(name)).is_running}

        def goes(holder: Holder) -> bool:
            if holder.role is not Role.OTHER_UNIT or holder.unit not in stopped:
                return False
            other = stopped[holder.unit]
            # Another manager may have a unit of the very same name.
            ours = holder.is_user_unit(unit.of_user) == unit.of_user
            return ours and other.stop_kills(holder.process.pid, holder.process.ppid)

        left = tuple(holder for holder in owner.holders if not goes(holder))
        if len(left) == len(owner.holders) or owner.unseen:
            return owner
        if left:
            return replace(owner, holders=left)
        return PortOwnership(port, Verdict.NOT_LISTENING, f"no process listens on port {port} by then")

    def find_start_obstacle(self, command: Command) -> str:
        return self._view.find_start_obstacle(command) if self._sure else ""
