"""The machine as it will be after the earlier steps of a fix: for a plan, and for the check before a fix."""

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
    """A view of the machine in which the earlier steps of a fix are done, as far as the result is certain.

    The holders of a port are those of the present, because a stop that has not happened killed no process. Only
    another unit that an earlier step stops by name counts as having released its ports.
    """

    enqueue_job: None  # Not a `Host`: `__getattr__` would make it one for the type checker.

    def __init__(self, view: HostView) -> None:
        self._view = view
        self._units: dict[str, Unit] = {}
        self._sure = True

    def __getattr__(self, name: str) -> Any:
        """Return a method of the view. The view may be a whole `Host`, but only the methods of a HostView pass."""
        if name.startswith("_") or not hasattr(HostView, name):
            raise AttributeError(name)
        return getattr(self._view, name)

    def assume_done(self, step: Step[Any]) -> None:
        """Predict the state after a step."""
        for name in step.units():
            self._units[name] = step.predict(self.unit(name))
        # A command may create the user or the folder that a later command needs.
        self._sure = self._sure and not step.may_create_units

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        return self._units.get(name) or self._view.unit(name, max_age=max_age)

    def judge_port(
        self, unit: Unit, port: Port, *, max_age: float = 0.0, shared_with: tuple[str, ...] = ()
    ) -> PortOwnership:
        owner = self._view.judge_port(self._view.unit(unit.name), port, max_age=max_age, shared_with=shared_with)
        down = [name for name, other in self._units.items() if name != unit.name and not other.is_running]
        # If a unit is already down, another stop does not kill what it has left behind.
        stopped = {name: other for name in down if (other := self._view.unit(name)).is_running}

        def exits(holder: Holder) -> bool:
            if holder.role is not Role.OTHER_UNIT or holder.unit not in stopped:
                return False
            other = stopped[holder.unit]
            # Another manager may have a unit with the same name.
            ours = holder.is_user_unit(unit.of_user) == unit.of_user
            # A job of it in another cgroup runs on.
            reached = holder.in_its_service or holder.process.pid == other.main_pid
            return ours and reached and other.stop_kills(holder.process.pid, holder.process.ppid)

        left = tuple(holder for holder in owner.holders if not exits(holder))
        if len(left) == len(owner.holders) or owner.unseen:
            return owner
        if left:
            return replace(owner, holders=left)
        return PortOwnership(port, Verdict.NOT_LISTENING, f"no process listens on port {port} by then")

    def find_start_obstacle(self, command: Command) -> str:
        return self._view.find_start_obstacle(command) if self._sure else ""
