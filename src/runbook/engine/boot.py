"""What a boot takes of what a run had done: files outlast it, a unit that was started or stopped need not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runbook.engine.done import Done
from runbook.host.facts import DOWN
from runbook.host.ports import HostView
from runbook.model import StepStatus
from runbook.step import Step


def taken(view: HostView, steps: Iterable[Step[Any]], done: Done, boot: str) -> dict[str, str]:
    """Say, for steps that ended on an earlier boot, what of it this one has taken. Raises HostError.

    All that was done counts, and all that was begun: where one step started a unit and a later one stopped it, it is to
    be down. What failed, or was passed over by the operator, is not done again, but what it was to leave counts too.
    """
    known = {str(step.id): step for step in steps}
    held = {name for name, outcome in done.finished.items() if outcome.status in (StepStatus.OK, StepStatus.CHANGED)}
    tried = {name for name, outcome in done.finished.items() if outcome.failed} | done.passed_over
    names = [name for name in done.finished if name in held | tried]
    begun = [known[name] for name in (*names, *(done.acted - done.finished.keys())) if name in known]
    found: dict[str, str] = {}
    for at, step in enumerate(begun):
        name = str(step.id)
        if name in held and done.boots.get(name, boot) != boot and done.kept(step):
            said = [why for unit in step.units() if (why := _taken(view, unit, begun[at:]))]
            found |= {name: "; ".join(said)} if said else {}
    return found


def _taken(view: HostView, name: str, steps: list[Step[Any]]) -> str:
    """Say that a unit is not what the first of these steps made of it, and what all of them leave."""
    unit = view.unit(name)
    made = steps[0].leaves(unit)
    left = made
    for step in steps[1:]:
        if unit.name in {view.unit(one).name for one in step.units()}:
            left = step.leaves(left)
    is_down, was_down, should = (one.active_state in DOWN for one in (unit, made, left))
    if is_down == was_down or was_down != should:
        return ""
    if is_down and unit.inactive_enter_monotonic:
        return ""  # It has run since then, and failed, or somebody stopped it: for the checks to judge.
    return f"{unit.name} is {unit.describe()} since the machine was booted"
