"""`reset-failed`: lets systemd start a unit again after its start limit was reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict, fails, holds, to_do
from runbook.spec.fields import PositiveSpan, UnitName
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Step


@dataclass
class ResetFailedState(StepState):
    """What was cleared: afterwards it cannot be read any more."""

    cleared: bool = False
    result: str = ""
    restarts: int = 0


class ResetFailed(Step[ResetFailedState]):
    """Clear the failed state and the start-limit counter of this one unit.

    systemd does not show the counter, so it is cleared even if nothing seems to be set (org.freedesktop.systemd1(5),
    ResetFailedUnit).
    """

    always_acts: ClassVar[bool] = True
    rollback_role: ClassVar[RollbackRole] = RollbackRole.CLEAR_LIMIT

    unit: UnitName = Field(description="The unit whose failed state is cleared.")
    timeout: PositiveSpan | None = Field(10.0, description="How long one try may take.")

    def check(self, view: HostView, state: ResetFailedState) -> Finding:
        unit = view.unit(self.unit)
        if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
            why = unit.describe_not_found(view.find_similar_unit(unit.name))
            return fails(Verdict.UNIT_NOT_FOUND, why, **unit.evidence())
        if not state.cleared:
            return to_do(Verdict.RESET, f"clear {_describe_cleared(unit.n_restarts)} of {unit.name}", **unit.evidence())
        if unit.active_state is ActiveState.FAILED:
            return fails(Verdict.UNIT_FAILED, f"{unit.name} failed again at once", **unit.evidence())
        before = {"Result-before": state.result, "NRestarts-before": state.restarts}
        return holds(Verdict.RESET, f"{_describe_cleared(state.restarts)} cleared", **before)

    def apply(self, host: Host, state: ResetFailedState) -> None:
        unit = host.unit(self.unit)
        state.result, state.restarts = unit.result, unit.n_restarts
        host.reset_failed(self.unit)
        state.cleared = True
        state.run.cleared[unit.name] = host.clock.now()

    def predict(self, unit: Unit) -> Unit:
        return replace(unit, start_limit_cleared=True)


def _describe_cleared(restarts: int) -> str:
    """Return what is cleared; NRestarts only if there is any."""
    counter = "the start-limit counter"
    return f"{restarts} restart{'' if restarts == 1 else 's'} and {counter}" if restarts else counter
