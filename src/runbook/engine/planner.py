"""What a run would find and do, from the live state: the dry run, and `runbook check`. It changes nothing.

The host is a HostView; there is no record, no lock, no scope. If an earlier step can change what a later one finds,
and only then, the impact of the later one is `undetermined`, and the earlier step is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runbook.checks.start_limit import STARTS_QUERY_TIMEOUT, StartBudget, has_start_limit, query_start_budget
from runbook.engine.execution.attempt import check_once
from runbook.engine.execution.outcome import EXIT_STATUSES, Outcome
from runbook.engine.execution.predicted_host import PredictedHost
from runbook.engine.execution.stream import EventStream
from runbook.engine.next_command import describe_missing_rights, describe_remediation
from runbook.engine.preflight import check_units_exist, describe_side_effects
from runbook.engine.remediation import let_remediations_decide
from runbook.engine.summary import find_advice, read_journal_tail
from runbook.errors import Interrupted, NotBegun, RunbookError
from runbook.events import Notice, Observed, PlanFinished, RunFinished, StepFinished, StepPlanned
from runbook.host.facts import Unit
from runbook.host.interface import HostView, Waiter
from runbook.model import Deadline, Finding, FindingState, Impact, RunStatus, StepStatus, Verdict, Wake, fails, holds
from runbook.records.lock import LockHolder, find_canonical_names
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import Remedy, ReplacesVersion, Step
from runbook.template import text as template
from runbook.template.namespace import TemplateNamespace

EXPECTED_VERDICTS = (Verdict.VERSION_MISMATCH, Verdict.OLD_CODE_SERVING, Verdict.PROBE_FAILED, Verdict.COMMAND_FAILED)
"""Verdicts of a check that only mean that the steps before it are still to be done: an update, a restart."""

CHECKS_LATER = "would check then, and fix only if a check fails"  # what a remediation after such steps does
UNFIXED_VERDICTS = (Verdict.STILL_STARTING, Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED, Verdict.UNIT_MASKED)
"""Verdicts of a check for which a remediation begins no fix."""

STRAY_VERDICTS = (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT)
"""Verdicts of a port whose holder a fix must kill."""


@dataclass
class Planner:
    """Checks every step of a runbook once, and changes nothing."""

    runbook: Runbook
    view: HostView
    waiter: Waiter
    events: EventStream
    state: RunState
    notices: tuple[str, ...] = ()
    options: Sequence[str] = ()  # `--set` and `--user` as given, for the commands in hints
    find_lock_holders: Callable[[Iterable[str]], Sequence[LockHolder]] = lambda _units: ()  # by canonical names
    changing_steps: list[Step[Any]] = field(default_factory=list)  # those that would, or may, change something
    would_change: bool = False
    results: dict[str, dict[str, str]] = field(default_factory=dict)  # facts of the steps that have run in the plan
    doubts: dict[str, list[str]] = field(default_factory=dict)  # the steps that can change these facts, by id
    ends_at: str = ""  # the id of the step at which a run would end
    holders: Sequence[LockHolder] = ()  # of the locks that a run would need

    def plan(self) -> PlanFinished:
        """Report for each step what it would find and do. The exit status is 0 if the plan could be made."""
        try:
            self._emit_observation()
            self._emit_obstacles()
            for steps in (self.runbook.steps, self.runbook.always):
                for step in let_remediations_decide(steps):
                    self._plan(step)
            ends = f"; a run would end at {self.ends_at}" if self.ends_at else ""
            facts: dict[str, Any] = {"status": RunStatus.OK, "exit": 0, "reason": f"nothing was changed{ends}"}
        except (Interrupted, NotBegun) as error:
            facts = _end_facts(error)
        locked_by = tuple(holder.data() for holder in self.holders)
        end = PlanFinished(would_change=self.would_change, locked_by=locked_by, **facts)
        self.events.emit(end)
        return end

    def check(self) -> RunFinished:
        """Check every step that only reads, once. The exit status is 0 if all hold, else 1."""
        try:
            self._emit_observation()
            end = self._check_steps()
        except (Interrupted, NotBegun) as error:
            end = RunFinished(**_end_facts(error))
        self.events.emit(end)
        return end

    def _check_steps(self) -> RunFinished:
        outcomes = []
        for step in self._read_only_steps():
            outcomes.append(outcome := self._check_step(step))
            self.results[outcome.id] = outcome.template_facts()
            self.events.emit(StepFinished(**outcome.facts(), name=step.name or ""))
        if failures := [outcome for outcome in outcomes if outcome.failed]:
            return self._end_failed(failures)
        checks = any(outcome.status is not StepStatus.SKIPPED for outcome in outcomes)
        return RunFinished(status=RunStatus.OK, exit=0, reason="everything holds" if checks else "no step only reads")

    def _end_failed(self, failures: Sequence[Outcome]) -> RunFinished:
        """Return the end of a check at the first step that does not hold, with what to do next."""
        outcome = failures[0]
        step = next((step for step in self.runbook.walk() if step.id == outcome.id), None)
        return RunFinished(
            status=RunStatus.FAILED,
            exit=EXIT_STATUSES[RunStatus.FAILED],
            reason=f"{outcome.id}: {outcome.reason}",
            step=outcome.id,
            verdict=str(outcome.verdict or ""),
            hint=describe_missing_rights(failures, self.runbook, self.options)
            or self._find_fix(failures)
            or find_advice(self.view, self.waiter, outcome, step, self.runbook),
        )

    def _find_fix(self, failures: Sequence[Outcome]) -> str:
        """Return the command that fixes what a check of a remediation found; empty if its fix would not help."""
        for step in (*self.runbook.steps, *self.runbook.always):
            remedy = step.remedy()
            checks = {check.step_id for check in remedy.checks} if remedy is not None else set()
            failure = next((outcome for outcome in failures if outcome.id in checks), None)
            if remedy is None or failure is None or failure.verdict in UNFIXED_VERDICTS:
                continue
            fixes = self._check_fixes_once(remedy)
            if refusal := next((f for fix, f in fixes if _is_refused(fix, f)), None):
                return f"runbook remediate would not fix this: {refusal.reason}"
            frees = (*STRAY_VERDICTS, Verdict.COMMAND_DONE)
            helps = any(finding.state is FindingState.TO_DO and finding.verdict in frees for _, finding in fixes)
            if helps or failure.verdict not in STRAY_VERDICTS:
                return describe_remediation(self.runbook, remedy, self.options)
        return ""

    def _emit_observation(self) -> None:
        """Report what systemd and the kernel report of the runbook's unit and ports."""
        book = self.runbook
        observation = Observed(name=book.title, file=book.path, unit=book.unit, lines=book.lines or None)
        if book.unit is not None:
            unit = self.view.unit(book.unit)
            budget = self._find_start_budget(unit)
            owners = [self.view.judge_port(unit, port) for port in book.port]
            observation = replace(
                observation,
                systemd={**unit.evidence(), "LoadState": str(unit.load_state), "says": unit.describe()},
                starts={**budget.evidence(), "says": str(budget)} if budget is not None else None,
                ports=[{**one.evidence(), "verdict": str(one.verdict), "reason": one.reason} for one in owners],
            )
        self.events.emit(observation)
        for text in self.notices:
            self.events.emit(Notice(text=text))

    def _find_start_budget(self, unit: Unit) -> StartBudget | None:
        """Return how many starts the unit has left; None if there was at most one, and the number does not matter."""
        if not has_start_limit(unit):
            return None
        deadline = Deadline.after(self.view.clock, STARTS_QUERY_TIMEOUT)
        number, asked_at = self.state.next_query_id(), self.view.clock.now()
        while not deadline.expired:
            if answer := query_start_budget(self.view, unit, number, asked_at, self.state):
                return answer.value if answer.value and answer.value.used > 1 else None
            self.waiter.wait(Wake(pending=True), deadline)
        return None

    def _emit_obstacles(self) -> None:
        """Report doubts, and what would prevent a run from beginning. The plan is made anyway."""
        self.holders = self.find_lock_holders(find_canonical_names(self.view, self.runbook.unit_names()))
        notices = [f"{holder.unit} is locked by {holder}; a run could not begin now" for holder in self.holders]
        try:
            notices += check_units_exist(self.view, self.runbook, self._check_once)
            notices += describe_side_effects(self.view, self.runbook)
        except NotBegun as error:
            notices.append(f"{error.message}; {error.hint}")
        for text in notices:
            self.events.emit(Notice(text=text))

    def _read_only_steps(self) -> list[Step[Any]]:
        """Return the steps that only read, without those that a successful run does not carry out: fixes, rollback."""
        steps: list[Step[Any]] = []
        for step in (*self.runbook.steps, *self.runbook.always):
            remedy = step.remedy()
            # If a remediation has a `when`, its checks depend on that too.
            checks = remedy.checks if remedy else (step,)
            steps += [check if check.when else check.model_copy(update={"when": step.when}) for check in checks]
        return [step for step in steps if step.only_reads()]

    def _check_step(self, step: Step[Any]) -> Outcome:
        name, start = step.step_id, self.view.clock.monotonic()
        try:
            is_skipped = step.when is not None and not template.parse_expression(step.when).value(self._namespace)
        except RunbookError:
            is_skipped = False  # The check reports the mistake.
        if is_skipped:
            return Outcome(name, step.type_name, StepStatus.SKIPPED, None, f"runs only when {step.when}")
        finding = self._check_once(step)
        status = StepStatus.OK if finding.state is FindingState.HOLDS else StepStatus.FAILED
        facts = dict(finding.evidence)
        if status is StepStatus.FAILED:
            facts |= read_journal_tail(self.view, self.waiter, self.state, step, finding.verdict, None)
        seconds = self.view.clock.monotonic() - start
        return Outcome(name, step.type_name, status, finding.verdict, finding.reason, 1, seconds, facts)

    def _plan(self, step: Step[Any]) -> None:
        if step.when is not None and not self._plan_condition(step, step.when):
            return
        if (remedy := step.remedy()) is not None:
            self._plan_remedy(step, remedy)
            return
        finding = self._check_once(step)
        impact, because = self._impact(step, finding)
        if impact is not Impact.READ_ONLY and (doubts := self._find_doubts(step)):
            impact, because = Impact.UNDETERMINED, [*dict.fromkeys((*because, *doubts))]
        self._note_result(step, finding, impact)
        self._emit_plan(step, finding, impact, because)
        if impact in (Impact.MUTATING, Impact.UNDETERMINED):
            self.changing_steps.append(step)

    def _plan_condition(self, step: Step[Any], when: str) -> bool:
        """Evaluate a `when`. Report the step and return False if it is false, wrong, or depends on earlier steps."""
        condition = template.parse_expression(when)
        try:
            if condition.value(self._namespace) is None:
                later = dict.fromkeys(".".join(r.path[:-1]) for r in condition.references if r.root == "steps")
                finding = Finding(FindingState.NOT_YET, step.failure_verdict, f"runs only when {when}")
                self._emit_plan(step, finding, Impact.UNDETERMINED, list(later))
                self.changing_steps.append(step)
                return False
            if template.is_true(when, self._namespace):
                return True
            self._skip(step, when)
        except RunbookError as error:
            self._emit_plan(step, fails(step.failure_verdict, error.message), Impact.NONE, [])
        return False

    def _skip(self, step: Step[Any], when: str) -> None:
        """Report a step whose `when` is false; an earlier step may still make it true."""
        doubts, status = self._find_doubts(step), StepStatus.SKIPPED
        impact = Impact.UNDETERMINED if doubts and not step.only_reads() else Impact.NONE
        reason = f"would be skipped: `when` is false ({when})"
        self.results[step.step_id] = Outcome(step.step_id, step.type_name, status, None, reason).template_facts()
        self.doubts[step.step_id] = doubts
        self.events.emit(
            StepPlanned(
                id=step.step_id,
                type=step.type_name,
                impact=impact,
                verdict=None,
                reason=reason,
                evidence={},
                undetermined_by=tuple(doubts),
            )
        )
        if impact is Impact.UNDETERMINED:
            self.changing_steps.append(step)

    def _find_doubts(self, step: Step[Any]) -> list[str]:
        """Return the steps that can change the results that the `when` of a step uses."""
        names = template.parse_expression(step.when).references if step.when is not None else ()
        ids = dict.fromkeys(".".join(name.path[:-1]) for name in names if name.root == "steps")
        return list(dict.fromkeys(doubt for one in ids for doubt in self.doubts.get(one, ())))

    def _note_result(self, step: Step[Any], finding: Finding, impact: Impact) -> None:
        """Keep the result of a step that has just run, or that has nothing to do, for the `when` of later ones."""
        has_ended = finding.state in (FindingState.HOLDS, FindingState.FAILS)
        if has_ended and (step.only_reads() or (impact is Impact.NONE and finding.state is FindingState.HOLDS)):
            self.results[step.step_id] = Outcome.of_attempt(step, finding, acted=False).template_facts()
            self.doubts[step.step_id] = [earlier.step_id for earlier in self.changing_steps]

    def _plan_remedy(self, step: Step[Any], remedy: Remedy) -> None:
        findings = [(check, self._check_once(check)) for check in remedy.checks]
        failure = next((finding for _, finding in findings if finding.state is not FindingState.HOLDS), None)
        fixes = self._check_fixes_once(remedy) if failure else []
        refusal = next((f for fix, f in fixes if _is_refused(fix, f)), None)
        because = self._find_earlier_changes(step)
        is_expected = all(f.state is FindingState.HOLDS or f.verdict in EXPECTED_VERDICTS for _, f in findings)
        if because and is_expected:
            verdict = failure.verdict if failure is not None else Verdict.HOLDS
            summary = Finding(FindingState.HOLDS, verdict, CHECKS_LATER)
        elif failure is None:
            summary = Finding(FindingState.HOLDS, Verdict.HOLDS, "every check holds now; nothing to fix")
        elif refusal is not None:
            summary = Finding(FindingState.FAILS, failure.verdict, f"could not fix: {refusal.reason}")
        else:
            summary = Finding(FindingState.TO_DO, failure.verdict, f"would fix: {failure.reason}")
        acts = Impact.MUTATING if summary.state is FindingState.TO_DO else Impact.NONE
        impact = Impact.UNDETERMINED if because else acts
        self._emit_plan(step, summary, impact, because)
        if impact is Impact.NONE and summary.state is FindingState.HOLDS:
            self._note_result(step, summary, impact)
        for check, finding in findings:
            self._note_result(check, finding, Impact.READ_ONLY)
            self._emit_plan(check, finding, Impact.READ_ONLY, self._find_earlier_changes(check))
        if impact is Impact.NONE:
            self._emit_idle_fixes(remedy, fixes)
            return
        for fix, finding in fixes or self._check_fixes_once(remedy):
            acts_here = finding.state is FindingState.TO_DO or (fix.always_acts and self._would_run(fix) is not False)
            one = Impact.READ_ONLY if fix.only_reads() else impact if acts_here else Impact.NONE
            self._emit_plan(fix, finding, one, because if one is Impact.UNDETERMINED else [])
        self.changing_steps = [*self.changing_steps, step]

    def _check_fixes_once(self, remedy: Remedy) -> list[tuple[Step[Any], Finding]]:
        """Check each fix as if those before it were done."""
        host = PredictedHost(self.view)
        findings = []
        for fix in remedy.fixes:
            findings.append((fix, self._check_once(fix, host)))
            if self._would_run(fix):
                host.assume_done(fix)
        return findings

    def _would_run(self, step: Step[Any]) -> bool | None:
        """Return the value of a step's `when`; None if it depends on earlier steps, or is wrong."""
        if step.when is None:
            return True
        try:
            value = template.parse_expression(step.when).value(self._namespace)
        except RunbookError:
            return None
        return None if value is None else bool(value)

    def _emit_idle_fixes(self, remedy: Remedy, fixes: list[tuple[Step[Any], Finding]]) -> None:
        """Report fixes that would not begin, because none is needed or one would certainly be refused."""
        idle = holds(Verdict.HOLDS, "would not be begun" if fixes else "not needed: every check holds")
        failures = {fix.id: finding for fix, finding in fixes if finding.state is FindingState.FAILS}
        for fix in remedy.fixes:
            self._emit_plan(fix, failures.get(fix.id, idle), Impact.NONE, [])

    @property
    def _namespace(self) -> TemplateNamespace:
        """The values for templates in a plan: a template that needs the result of a step that acts stays unfilled."""
        versions = {
            step.step_id: {"to": step.known_to} if isinstance(step, ReplacesVersion) and step.known_to else {}
            for step in self.runbook.walk()
        }
        return self.runbook.namespace.for_run(self.state.id, {**versions, **self.results}, partial=True)

    def _check_once(self, step: Step[Any], view: HostView | None = None) -> Finding:
        """Return what a step finds. A mistake in a template is a failure of the step."""
        try:
            runs = step.when is None or template.parse_expression(step.when).value(self._namespace)
            if runs is not None and not runs:
                return holds(Verdict.HOLDS, f"would be skipped: `when` is false ({step.when})")
            filled = template.fill(step, self._namespace)
            return check_once(filled, view or self.view, self.waiter, self.state, self.events)
        except (Interrupted, NotBegun):
            raise
        except RunbookError as error:
            return fails(step.failure_verdict, error.message)

    def _impact(self, step: Step[Any], finding: Finding) -> tuple[Impact, list[str]]:
        because = self._find_earlier_changes(step)
        if step.only_reads():
            return Impact.READ_ONLY, because
        is_missing = finding.verdict is Verdict.UNIT_NOT_FOUND
        may_appear = is_missing and any(earlier.may_create_units for earlier in self.changing_steps)
        # A step that always acts is undetermined only if something prevents it that an earlier step can change.
        if because and (may_appear or not step.always_acts or finding.state is FindingState.FAILS):
            return Impact.UNDETERMINED, because
        return (Impact.MUTATING if finding.state is FindingState.TO_DO else Impact.NONE), []

    def _find_earlier_changes(self, step: Step[Any]) -> list[str]:
        """Return the ids of the earlier steps of this plan that can change what this one finds."""
        units = _units(step)
        return [e.step_id for e in self.changing_steps if e.may_create_units or units & _units(e)]

    def _emit_plan(self, step: Step[Any], finding: Finding, impact: Impact, because: list[str]) -> None:
        does = "would " if finding.state is FindingState.TO_DO and not finding.reason.startswith("would ") else ""
        if finding.state is FindingState.FAILS and impact is not Impact.READ_ONLY and not step.remedy():
            does = "would fail: "
        self.would_change = self.would_change or impact is Impact.MUTATING
        self.events.emit(
            StepPlanned(
                id=step.step_id,
                type=step.type_name,
                impact=impact,
                verdict=finding.verdict,
                reason=f"{does}{finding.reason}",
                evidence=finding.evidence,
                name=step.name or "",
                undetermined_by=tuple(because),
            )
        )
        is_nested = "." in step.step_id
        if finding.state is FindingState.FAILS and not because and step.on_failure == "abort" and not is_nested:
            self.ends_at = self.ends_at or step.step_id


def _end_facts(error: Interrupted | NotBegun) -> dict[str, Any]:
    """Return the fields of the end of a plan or check that an error has ended."""
    status = RunStatus.INTERRUPTED if isinstance(error, Interrupted) else RunStatus.NOT_BEGUN
    return {"status": status, "exit": error.exit_status, "reason": error.message, "hint": error.hint}


def _is_refused(fix: Step[Any], finding: Finding) -> bool:
    """True if a fix would certainly fail, and end the remediation."""
    return finding.state is FindingState.FAILS and fix.on_failure == "abort"


def _units(step: Step[Any]) -> set[str]:
    return {unit for one in step.walk() for unit in one.units()}
