"""`reset-failed`: lets systemd start a unit again that it has given up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict, fails, holds, to_do
from runbook.spec.fields import Limit, UnitName
from runbook.spec.state import Memory
from runbook.spec.step import Step


@dataclass
class ResetMemory(Memory):
    """What stood there before it was cleared: nobody can read it afterwards."""

    cleared: bool = False
    result: str = ""
    restarts: int = 0


class ResetFailed(Step[ResetMemory]):
    """Clear the failed state and the start-limit counter of this one unit.

    systemd shows nobody the counter, so it is cleared even where nothing seems to be set
    (org.freedesktop.systemd1(5), ResetFailedUnit).
    """

    kind: ClassVar[str] = "reset-failed"
    takes: ClassVar[tuple[str, ...]] = ("unit",)
    needs: ClassVar[tuple[str, ...]] = ("unit",)
    remembers: ClassVar[type[Memory]] = ResetMemory
    fails_as: ClassVar[Verdict] = Verdict.JOB_FAILED
    settled: ClassVar[bool] = True

    unit: UnitName | None = Field(None, description="The unit whose failures are forgotten.")
    timeout: Limit | None = Field(10.0, description="How long one try may take.")

    def check(self, view: HostView, memory: ResetMemory) -> Finding:
        assert self.unit is not None
        unit = view.unit(self.unit)
        if unit.load_state is LoadState.NOT_FOUND and not unit.runs:
            return fails(Verdict.UNIT_NOT_FOUND, f"systemd knows no unit {unit.name}", **unit.evidence())
        if not memory.cleared:
            return to_do(Verdict.RESET, f"clear {_what(unit.n_restarts)} of {unit.name}", **unit.evidence())
        if unit.active_state is ActiveState.FAILED:
            return fails(Verdict.UNIT_FAILED, f"{unit.name} failed again at once", **unit.evidence())
        before = {"Result-before": memory.result, "NRestarts-before": memory.restarts}
        return holds(Verdict.RESET, f"{_what(memory.restarts)} cleared", **before)

    def apply(self, host: Host, memory: ResetMemory) -> None:
        assert self.unit is not None
        unit = host.unit(self.unit)
        memory.result, memory.restarts = unit.result, unit.n_restarts
        host.reset_failed(self.unit)
        memory.cleared = True
        memory.run.cleared[unit.name] = host.clock.now()

    def leaves(self, unit: Unit) -> Unit:
        return replace(unit, starts_cleared=True)


def _what(restarts: int) -> str:
    """Name what is cleared; NRestarts only where there is any."""
    return f"{restarts} restart{'' if restarts == 1 else 's'} and the start limit" if restarts else "the start limit"
