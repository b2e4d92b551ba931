"""What a run would find and do, from the live state: the dry run, and `runbook check`. Nothing here can write.

The host is a HostView; there is no record, no lock, no scope. A later step may be answered differently once an
earlier one has acted: then, and only then, its impact is `undetermined`, and the earlier step is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runbook import template
from runbook.engine.events import Events
from runbook.engine.foreseen import Foreseen
from runbook.engine.glance import glance
from runbook.engine.outcome import EXITS, Outcome
from runbook.engine.runner import RunEnd
from runbook.errors import HostError, Interrupted, NotBegun, RunbookError
from runbook.host.ports import HostView, Waiter
from runbook.model import Finding, Impact, RunStatus, State, StepStatus, Verdict
from runbook.step import Remedy, Runbook, RunState, Step
from runbook.template import Scope

BRINGS = (Verdict.UNIT_NOT_FOUND,)
"""What an earlier command may change even where it touches another unit: it may bring the unit."""


@dataclass
class Planner:
    """Looks at every step of a runbook, as things stand."""

    runbook: Runbook
    view: HostView
    waiter: Waiter
    events: Events
    state: RunState
    earlier: list[Step[Any]] = field(default_factory=list)
    would_change: bool = False

    def plan(self) -> RunEnd:
        """Tell for each step what it would find and do. The exit status is 0 when the plan could be made."""
        try:
            self._now()
            for step in (*self.runbook.steps, *self.runbook.always):
                self._plan(step)
        except Interrupted as error:
            return self._planned(RunEnd(RunStatus.INTERRUPTED, error.exit_status, error.message))
        except NotBegun as error:
            return self._planned(RunEnd(RunStatus.NOT_BEGUN, error.exit_status, error.message, error.hint))
        return self._planned(RunEnd(RunStatus.OK, 0, "nothing was changed"))

    def check(self) -> RunEnd:
        """Look at every reading step once, now. The exit status is 0 if all hold and 1 if one does not."""
        wrong = []
        looked = 0
        try:
            self._now()
            for step in self.runbook.walk():
                if step.impact_here() is Impact.READ_ONLY:
                    outcome = self._checked(step)
                    looked += 1
                    self.events.emit("step-finished", **outcome.data())
                    wrong += [outcome] if outcome.failed else []
        except Interrupted as error:
            return self._finished(RunEnd(RunStatus.INTERRUPTED, error.exit_status, error.message))
        except NotBegun as error:
            return self._finished(RunEnd(RunStatus.NOT_BEGUN, error.exit_status, error.message, error.hint))
        if wrong:
            reason = f"{wrong[0].id}: {wrong[0].reason}"
            return self._finished(RunEnd(RunStatus.FAILED, EXITS[RunStatus.FAILED], reason))
        return self._finished(RunEnd(RunStatus.OK, 0, "everything holds" if looked else "no step of it merely reads"))

    def _planned(self, end: RunEnd) -> RunEnd:
        facts = {"hint": end.hint} if end.hint else {}
        self.events.emit(
            "plan-finished",
            **{"would-change": self.would_change},
            exit=end.exit,
            status=str(end.status),
            reason=end.reason,
            **facts,
        )
        return end

    def _finished(self, end: RunEnd) -> RunEnd:
        facts = {"hint": end.hint} if end.hint else {}
        self.events.emit("run-finished", status=str(end.status), exit=end.exit, reason=end.reason, **facts)
        return end

    def _now(self) -> None:
        """Say what both witnesses see before anything is planned."""
        book = self.runbook
        seen: dict[str, Any] = {"name": book.title, "file": book.path, "unit": book.unit}
        if book.unit is not None:
            unit = self.view.unit(book.unit)
            seen["systemd"] = {**unit.evidence(), "LoadState": str(unit.load_state), "says": unit.describe()}
            seen["ports"] = [
                {**owner.evidence(), "verdict": str(owner.verdict), "reason": owner.reason}
                for owner in (self.view.ownership(unit, port) for port in book.port)
            ]
        self.events.emit("observed", **seen)

    def _checked(self, step: Step[Any]) -> Outcome:
        assert step.id is not None
        began = self.view.clock.monotonic()
        try:
            step = template.fill(step, self._scope)
            finding = glance(step, self.view, self.waiter, self.state)
        except HostError:
            raise
        except RunbookError as error:
            finding = Finding(State.FAILS, step.fails_as, error.message)
        status = StepStatus.OK if finding.state is State.HOLDS else StepStatus.FAILED
        seconds = self.view.clock.monotonic() - began
        assert step.id is not None
        return Outcome(step.id, step.kind, status, finding.verdict, finding.reason, 1, seconds, finding.evidence)

    def _plan(self, step: Step[Any]) -> None:
        if step.when is not None and not self._wanted(step, step.when):
            return
        remedy = step.remedy()
        if remedy is not None:
            self._plan_remedy(step, remedy)
            return
        finding = self._glance(step)
        impact, because = self._impact(step, finding)
        self._tell(step, finding, impact, because)
        if impact in (Impact.MUTATING, Impact.UNDETERMINED):
            self.earlier.append(step)

    def _wanted(self, step: Step[Any], when: str) -> bool:
        """Tell a step that would be skipped, or whose `when` is up to earlier steps, and whether to look further."""
        condition = template.expression(when)
        try:
            if condition.value(self._scope) is None:
                later = dict.fromkeys(".".join(r.path[:-1]) for r in condition.references if r.root == "steps")
                finding = Finding(State.NOT_YET, step.fails_as, f"runs only when {when}")
                self._tell(step, finding, Impact.UNDETERMINED, list(later))
                self.earlier.append(step)
                return False
            if template.holds(when, self._scope):
                return True
            self.events.emit(
                "step-planned",
                id=step.id,
                type=step.kind,
                impact=str(Impact.NONE),
                verdict=None,
                reason=f"would be skipped: `when` is false ({when})",
                evidence={},
            )
        except RunbookError as error:
            self._tell(step, Finding(State.FAILS, step.fails_as, error.message), Impact.NONE, [])
        return False

    def _plan_remedy(self, step: Step[Any], remedy: Remedy) -> None:
        findings = [(check, self._glance(check)) for check in remedy.checks]
        wrong = next(((c, f) for c, f in findings if f.state is not State.HOLDS), None)
        because = self._because(step)
        if wrong is None:
            verdict, reason = Verdict.HOLDS, "every check holds now"
            impact = Impact.UNDETERMINED if because else Impact.NONE
        else:
            verdict, reason = wrong[1].verdict, f"would fix: {wrong[1].reason}"
            impact = Impact.UNDETERMINED if because else Impact.MUTATING
        summary = Finding(State.TO_DO if wrong else State.HOLDS, verdict, reason)
        self._tell(step, summary, impact, because)
        for check, finding in findings:
            self._tell(check, finding, Impact.READ_ONLY, self._because(check))
        if impact is Impact.NONE:
            for fix in remedy.fixes:
                self._tell(fix, Finding(State.HOLDS, Verdict.HOLDS, "not needed: every check holds"), Impact.NONE, [])
            return
        before = list(self.earlier)
        foreseen = Foreseen(self.view)
        for fix in remedy.fixes:
            finding = self._glance(fix, foreseen)
            acts = finding.state is State.TO_DO or fix.settled
            one = Impact.READ_ONLY if fix.impact_here() is Impact.READ_ONLY else impact if acts else Impact.NONE
            self._tell(fix, finding, one, because if one is Impact.UNDETERMINED else [])
            foreseen.after(fix)
        self.earlier = [*before, step]

    @property
    def _scope(self) -> Scope:
        """What templates know in a plan: no step has run, and what asks for one stays as it is."""
        return self.runbook.names.during(self.state.id, {}, partial=True)

    def _glance(self, step: Step[Any], view: HostView | None = None) -> Finding:
        try:
            return glance(template.fill(step, self._scope), view or self.view, self.waiter, self.state)
        except NotBegun:
            raise
        except RunbookError as error:
            return Finding(State.FAILS, step.fails_as, error.message)

    def _impact(self, step: Step[Any], finding: Finding) -> tuple[Impact, list[str]]:
        because = self._because(step)
        if step.impact_here() is Impact.READ_ONLY:
            return Impact.READ_ONLY, because
        missing = finding.verdict in BRINGS and any(earlier.brings_units for earlier in self.earlier)
        # Of a step that is sure to act only what keeps it from acting is up to the earlier ones.
        if because and (missing or not step.settled or finding.state is State.FAILS):
            return Impact.UNDETERMINED, because
        return (Impact.MUTATING if finding.state is State.TO_DO else Impact.NONE), []

    def _because(self, step: Step[Any]) -> list[str]:
        """Give the ids of the earlier steps of this plan that can change the answer."""
        units = _units(step)
        return [str(e.id) for e in self.earlier if e.brings_units or units & _units(e)]

    def _tell(self, step: Step[Any], finding: Finding, impact: Impact, because: list[str]) -> None:
        does = "would " if finding.state is State.TO_DO and not finding.reason.startswith("would ") else ""
        reason = f"{does}{finding.reason}"
        self.would_change = self.would_change or impact is Impact.MUTATING
        self.events.emit(
            "step-planned",
            id=step.id,
            type=step.kind,
            impact=str(impact),
            verdict=str(finding.verdict),
            reason=reason,
            evidence=dict(finding.evidence),
            **({"undetermined-by": because} if because else {}),
        )


def _units(step: Step[Any]) -> set[str]:
    return {unit for one in step.walk() for unit in one.units()}
