"""`verify-port-owner`: proves that the unit alone owns the port."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from runbook.checks.exit_reason import describe_stop_job
from runbook.checks.unread import REREAD_INTERVAL, UnreadSeries
from runbook.host.facts import LoadState, Unit
from runbook.host.holders import PortOwnership, Role
from runbook.host.interface import HostView
from runbook.model import Finding, Port, Verdict, Wake, fails, holds, not_yet
from runbook.spec.fields import PortList, PortOwners, UnitGlobList, UnitName
from runbook.spec.readers import PORT_OWNERS
from runbook.spec.runbook import Runbook
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Step


@dataclass
class VerifyPortOwnerState(StepState):
    """What a `verify-port-owner` keeps between two readings."""

    unread: UnreadSeries = field(default_factory=UnreadSeries)  # the readings that missed something


class VerifyPortOwner(Step[VerifyPortOwnerState]):
    """Prove that every socket that listens on the port belongs to the unit's current invocation.

    Several processes may share one socket: a main process with workers, or a wrapper with the server as its child. All
    of them belong to the unit. `owner: main-pid` is for a unit that must not do that. `owner` may also name another
    unit, or the kernel, for a port that the unit needs and does not own itself.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.OWNER_UNKNOWN
    rollback_role: ClassVar[RollbackRole] = RollbackRole.PROVE_OWNER

    unit: UnitName = Field(description="The unit that must own the port.")
    port: PortList = Field(description="The port, or a list of ports.")
    owner: PortOwners = Field(
        default={None: "unit"},
        description="`unit`: any process of the current invocation; `main-pid`: MainPID and no other; `kernel`: the "
        "kernel itself; or the name of another unit. A mapping gives an owner for each port.",
    )
    shared_with: UnitGlobList = Field(
        (), description="Units that may listen on the port, too: names, or globs such as `kresd@*.service`."
    )

    def validate_in(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        for port in self.owner:
            if port is not None and port not in self.port:
                yield "owner", f"`owner` names port {port}, which is not in `port`"

    def check(self, view: HostView, state: VerifyPortOwnerState) -> Finding:
        unit = view.unit(self.unit)
        facts: dict[str, Any] = {"ports": [], **unit.evidence()}
        found, unread = [], list[str]()
        for port in self.port:
            owner = view.unit(self._owner_of(port)) if self._owner_of(port) not in PORT_OWNERS else unit
            if owner.load_state is LoadState.NOT_FOUND and not owner.is_running:
                why = owner.describe_not_found(view.find_similar_unit(owner.name))
                return fails(Verdict.UNIT_NOT_FOUND, why, **facts)
            ownership = view.judge_port(owner, port, shared_with=self.shared_with)
            facts["ports"].append(ownership.evidence())
            unread += ownership.unread
            verdict, reason = self._judge(owner, port, ownership)
            uses = view.describe_port_uses(owner, port) if verdict is Verdict.NOT_LISTENING else ""
            found.append((owner, verdict, reason + uses))
        if failed := next((one for one in found if one[1] is not Verdict.OWNED), None):
            if state.unread.update(unread, view.clock.monotonic()):
                return not_yet(failed[1], failed[2], Wake(pending=True, within=REREAD_INTERVAL), **facts)
            return fails(failed[1], failed[2], **facts)
        owned = "; ".join(_join_ports(self.port, [reason for _, _, reason in found]))
        if ending := next(filter(None, (describe_stop_job(owner) for owner, _, _ in found)), ""):
            return fails(Verdict.UNIT_CHANGED, f"{ending}; {owned}", **facts)
        return holds(Verdict.OWNED, owned, **facts)

    def judge_timeout(self, view: HostView, state: VerifyPortOwnerState, last: Finding) -> Finding:
        return fails(last.verdict, last.reason, **last.evidence)  # A process could not be read in all that time.

    def _owner_of(self, port: Port) -> str:
        return self.owner.get(port) or self.owner.get(None, "unit")

    def _judge(self, unit: Unit, port: Port, ownership: PortOwnership) -> tuple[Verdict, str]:
        wanted = self._owner_of(port)
        if wanted == "kernel":
            return _judge_kernel(ownership)
        if ownership.is_owned and wanted == "main-pid":
            others = [h for h in ownership.holders if h.role is Role.CURRENT and h.process.pid != unit.main_pid]
            if others or not ownership.holders:
                who = ", ".join(str(holder.process) for holder in others) or "no process"
                why = f"port {port} is held by {who}, not by MainPID {unit.main_pid} alone"
                return Verdict.OWNER_MISMATCH, why
        who = f"{unit.name}: " if unit.name != self.unit else ""
        return ownership.verdict, f"{who}{ownership.reason}"


def _join_ports(ports: Sequence[Port], reasons: Sequence[str]) -> Iterator[str]:
    """Yield the reasons; those that are the same but for the port, once: "ports 80 and 443 are held only by …"."""
    alike: dict[str, list[str]] = {}
    for port, reason in zip(ports, reasons, strict=True):
        of_port = f"port {port} is "
        alike.setdefault(reason.removeprefix(of_port), []).extend([str(port)] if reason.startswith(of_port) else [])
    for reason, numbers in alike.items():
        *most, last = numbers or [""]
        one = f"port {last} is {reason}" if last else reason
        yield f"ports {', '.join(most)} and {last} are {reason}" if most else one


def _judge_kernel(ownership: PortOwnership) -> tuple[Verdict, str]:
    """Judge a port that the kernel itself must hold."""
    if ownership.is_kernels:
        return Verdict.OWNED, ownership.reason
    if ownership.is_owned:
        return Verdict.OWNER_MISMATCH, f"{ownership.reason}, not by the kernel itself"
    return ownership.verdict, ownership.reason
