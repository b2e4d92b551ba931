"""What a run would find and do, from the live state: the dry run, and `runbook check`. Nothing here can write.

The host is a HostView; there is no record, no lock, no scope. A later step may be answered differently once an
earlier one has acted: then, and only then, its impact is `undetermined`, and the earlier step is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runbook import template
from runbook.checks.start_limit import PATIENCE, StartsLeft, limited, starts_left
from runbook.engine.execution.attempt import glance
from runbook.engine.execution.events import Events
from runbook.engine.execution.outcome import EXITS, Outcome
from runbook.engine.execution.predicted_host import Foreseen
from runbook.engine.preflight import begin
from runbook.engine.runner import RunEnd
from runbook.engine.summary import advice
from runbook.errors import HostError, Interrupted, NotBegun, RunbookError
from runbook.host.facts import Unit
from runbook.host.interface import HostView, Waiter
from runbook.model import Deadline, Finding, Impact, RunStatus, State, StepStatus, Verdict, Wake
from runbook.records.lock import LockHolder, names_of
from runbook.spec.state import RunState
from runbook.spec.step import Remedy, Runbook, Step
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
    notices: tuple[str, ...] = ()
    locked: Callable[[Iterable[str]], Sequence[LockHolder]] = lambda _units: ()
    """Tells who has the locks of units, known by systemd's own names."""
    earlier: list[Step[Any]] = field(default_factory=list)
    would_change: bool = False
    ends_at: str = ""
    holders: Sequence[LockHolder] = ()

    def plan(self) -> RunEnd:
        """Tell for each step what it would find and do. The exit status is 0 when the plan could be made."""
        try:
            self._now()
            self._locked()
            self._doubts()
            for step in (*self.runbook.steps, *self.runbook.always):
                self._plan(step)
        except Interrupted as error:
            return self._planned(RunEnd(RunStatus.INTERRUPTED, error.exit_status, error.message))
        except NotBegun as error:
            return self._planned(RunEnd(RunStatus.NOT_BEGUN, error.exit_status, error.message, error.hint))
        ends = f"; a run would end at {self.ends_at}" if self.ends_at else ""
        return self._planned(RunEnd(RunStatus.OK, 0, f"nothing was changed{ends}"))

    def check(self) -> RunEnd:
        """Look at every reading step once, now. The exit status is 0 if all hold and 1 if one does not."""
        wrong = []
        looked = 0
        try:
            self._now()
            for step in self._reading():
                outcome = self._checked(step)
                looked += outcome.status is not StepStatus.SKIPPED
                self.events.emit("step-finished", **outcome.data(), **({"name": step.name} if step.name else {}))
                wrong += [outcome] if outcome.failed else []
        except Interrupted as error:
            return self._finished(RunEnd(RunStatus.INTERRUPTED, error.exit_status, error.message))
        except NotBegun as error:
            return self._finished(RunEnd(RunStatus.NOT_BEGUN, error.exit_status, error.message, error.hint))
        if wrong:
            return self._finished(self._wrong(wrong[0]))
        return self._finished(RunEnd(RunStatus.OK, 0, "everything holds" if looked else "no step of it merely reads"))

    def _wrong(self, outcome: Outcome) -> RunEnd:
        """End a check at the first step that does not hold, with what to do next."""
        step = next((step for step in self.runbook.walk() if step.id == outcome.id), None)
        return RunEnd(
            RunStatus.FAILED,
            EXITS[RunStatus.FAILED],
            f"{outcome.id}: {outcome.reason}",
            hint=advice(self.view, outcome, step, self.runbook),
            step=outcome.id,
            verdict=str(outcome.verdict or ""),
        )

    def _planned(self, end: RunEnd) -> RunEnd:
        locked = {"locked-by": [holder.data() for holder in self.holders]} if self.holders else {}
        self.events.emit("plan-finished", **{"would-change": self.would_change}, **end.data(), **locked)
        return end

    def _finished(self, end: RunEnd) -> RunEnd:
        self.events.emit("run-finished", **end.data())
        return end

    def _now(self) -> None:
        """Say what both witnesses see before anything is planned."""
        book = self.runbook
        seen: dict[str, Any] = {"name": book.title, "file": book.path, "unit": book.unit}
        if book.unit is not None:
            unit = self.view.unit(book.unit)
            seen["systemd"] = {**unit.evidence(), "LoadState": str(unit.load_state), "says": unit.describe()}
            if (left := self._starts_left(unit)) is not None:
                seen["starts"] = {**left.evidence(), "says": str(left)}
            seen["ports"] = [
                {**owner.evidence(), "verdict": str(owner.verdict), "reason": owner.reason}
                for owner in (self.view.ownership(unit, port) for port in book.port)
            ]
        self.events.emit("observed", **seen)
        for text in self.notices:
            self.events.emit("notice", text=text)

    def _starts_left(self, unit: Unit) -> StartsLeft | None:
        """Count the starts of the unit; nothing where there was one at most, and nobody needs the number."""
        if not limited(unit):
            return None
        deadline = Deadline.after(self.view.clock, PATIENCE)
        number, asked = self.state.new_question(), self.view.clock.now()
        while not deadline.passed:
            known, left = starts_left(self.view, unit, number, asked, self.state)
            if known:
                return left if left and left.used > 1 else None
            self.waiter.wait(Wake(pending=True), deadline)
        return None

    def _locked(self) -> None:
        """Say who has the locks that a run would need."""
        self.holders = self.locked(names_of(self.view, self.runbook.unit_names()))
        for holder in self.holders:
            self.events.emit("notice", text=f"{holder.unit} is locked by {holder}; a run could not begin now")

    def _doubts(self) -> None:
        """Say what is doubtful, and what would keep the run from beginning. The plan is made all the same."""
        try:
            for doubt in begin(self.view, self.runbook):
                self.events.emit("notice", text=doubt)
        except NotBegun as error:
            self.events.emit("notice", text=f"{error.message}; {error.hint}")

    def _reading(self) -> list[Step[Any]]:
        """Give what merely reads, of what a run that finds nothing wrong would come by: no fix, no roll back."""
        found: list[Step[Any]] = []
        for step in (*self.runbook.steps, *self.runbook.always):
            remedy = step.remedy()
            # What a remediation runs only sometimes, its checks do as well.
            checks = remedy.checks if remedy else (step,)
            found += [check if check.when else check.model_copy(update={"when": step.when}) for check in checks]
        return [step for step in found if step.impact_here() is Impact.READ_ONLY]

    def _checked(self, step: Step[Any]) -> Outcome:
        assert step.id is not None
        began = self.view.clock.monotonic()
        try:
            if step.when is not None and not template.expression(step.when).value(self._scope):
                return Outcome(step.id, step.kind, StepStatus.SKIPPED, None, f"runs only when {step.when}")
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
        fixes = self._glance_fixes(remedy) if wrong else []
        refused = next((f for fix, f in fixes if f.state is State.FAILS and fix.on_failure == "abort"), None)
        because = self._because(step)
        if wrong is None:
            summary = Finding(State.HOLDS, Verdict.HOLDS, "every check holds now")
        elif refused is not None:
            summary = Finding(State.FAILS, wrong[1].verdict, f"could not fix: {refused.reason}")
        else:
            summary = Finding(State.TO_DO, wrong[1].verdict, f"would fix: {wrong[1].reason}")
        acts = Impact.MUTATING if summary.state is State.TO_DO else Impact.NONE
        impact = Impact.UNDETERMINED if because else acts
        self._tell(step, summary, impact, because)
        for check, finding in findings:
            self._tell(check, finding, Impact.READ_ONLY, self._because(check))
        if impact is Impact.NONE:
            self._tell_idle(remedy, fixes)
            return
        for fix, finding in fixes or self._glance_fixes(remedy):
            acts_here = finding.state is State.TO_DO or (fix.settled and self._runs(fix) is not False)
            one = Impact.READ_ONLY if fix.impact_here() is Impact.READ_ONLY else impact if acts_here else Impact.NONE
            self._tell(fix, finding, one, because if one is Impact.UNDETERMINED else [])
        self.earlier = [*self.earlier, step]

    def _glance_fixes(self, remedy: Remedy) -> list[tuple[Step[Any], Finding]]:
        """Look at each fix as if those before it were done."""
        foreseen = Foreseen(self.view)
        found = []
        for fix in remedy.fixes:
            found.append((fix, self._glance(fix, foreseen)))
            if self._runs(fix):
                foreseen.after(fix)
        return found

    def _runs(self, step: Step[Any]) -> bool | None:
        """Whether a step's `when` holds; None where earlier steps decide, or it cannot be told."""
        if step.when is None:
            return True
        try:
            value = template.expression(step.when).value(self._scope)
        except RunbookError:
            return None
        return None if value is None else bool(value)

    def _tell_idle(self, remedy: Remedy, fixes: list[tuple[Step[Any], Finding]]) -> None:
        """Tell of fixes that would not be begun: for none is needed, or one is bound to be refused."""
        held = Finding(State.HOLDS, Verdict.HOLDS, "not needed: every check holds")
        idle = Finding(State.HOLDS, Verdict.HOLDS, "would not be begun")
        known = {fix.id: finding for fix, finding in fixes if finding.state is State.FAILS}
        for fix in remedy.fixes:
            self._tell(fix, known.get(fix.id, idle if fixes else held), Impact.NONE, [])

    @property
    def _scope(self) -> Scope:
        """What templates know in a plan: no step has run, and what only a run can tell stays as it is."""
        foretold = {str(step.id): step.foretold() for step in self.runbook.walk()}
        return self.runbook.names.during(self.state.id, foretold, partial=True)

    def _glance(self, step: Step[Any], view: HostView | None = None) -> Finding:
        if self._runs(step) is False:
            return Finding(State.HOLDS, Verdict.HOLDS, f"would be skipped: `when` is false ({step.when})")
        try:
            if step.when is not None:
                template.expression(step.when).value(self._scope)  # What is wrong with it is this step's failure.
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
        if finding.state is State.FAILS and impact is not Impact.READ_ONLY and not step.remedy():
            does = "would fail: "
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
            **({"name": step.name} if step.name else {}),
            **({"undetermined-by": because} if because else {}),
        )
        ends = finding.state is State.FAILS and not because and step.on_failure == "abort" and "." not in str(step.id)
        self.ends_at = self.ends_at or (str(step.id) if ends else "")


def _units(step: Step[Any]) -> set[str]:
    return {unit for one in step.walk() for unit in one.units()}
