"""`verify-port-owner`: proves that the unit alone owns the port."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from runbook.checks.exit_reason import describe_stop_job
from runbook.host.facts import LoadState, Unit
from runbook.host.holders import PortOwnership, Role
from runbook.host.interface import HostView
from runbook.model import Finding, Verdict, fails, holds
from runbook.spec.fields import PortList, UnitName
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Step


class VerifyPortOwner(Step[StepState]):
    """Prove that every socket that listens on the port belongs to the unit's current invocation.

    Several processes may share one socket: a main process with workers, or a wrapper with the server as its child. All
    of them belong to the unit. `owner: main-pid` is for a unit that must not do that.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.OWNER_UNKNOWN
    rollback_role: ClassVar[RollbackRole] = RollbackRole.PROVE_OWNER

    unit: UnitName = Field(description="The unit that must own the port.")
    port: PortList = Field(description="The port, or a list of ports.")
    owner: Literal["unit", "main-pid"] = Field(
        "unit", description="`unit`: any process of the current invocation; `main-pid`: MainPID and no other."
    )

    def check(self, view: HostView, state: StepState) -> Finding:
        unit = view.unit(self.unit)
        if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
            why = unit.describe_not_found(view.find_similar_unit(unit.name))
            return fails(Verdict.UNIT_NOT_FOUND, why, **unit.evidence())
        seen = [view.judge_port(unit, port) for port in self.port]
        facts = {"ports": [ownership.evidence() for ownership in seen], **unit.evidence()}
        for ownership in seen:
            verdict, reason = self._judge(unit, ownership)
            if verdict is not Verdict.OWNED:
                return fails(verdict, reason, **facts)
        owned = "; ".join(ownership.reason for ownership in seen)
        if ending := describe_stop_job(unit):
            return fails(Verdict.UNIT_CHANGED, f"{ending}; {owned}", **facts)
        return holds(Verdict.OWNED, owned, **facts)

    def _judge(self, unit: Unit, ownership: PortOwnership) -> tuple[Verdict, str]:
        if not ownership.is_owned or self.owner == "unit":
            return ownership.verdict, ownership.reason
        others = [h for h in ownership.holders if h.role is Role.CURRENT and h.process.pid != unit.main_pid]
        if others or not ownership.holders:
            who = ", ".join(str(holder.process) for holder in others) or "no process"
            why = f"port {ownership.port} is held by {who}, not by MainPID {unit.main_pid} alone"
            return Verdict.OWNER_MISMATCH, why
        return Verdict.OWNED, ownership.reason
