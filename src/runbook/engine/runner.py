"""A whole run: its steps in order, what a failure means for the rest, and how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runbook.engine.changed_services import judge_ended_step
from runbook.engine.closed_sockets import find_closed_sockets, list_open_sockets
from runbook.engine.execution.attempt import TRACE, attempt, make_internal_failure
from runbook.engine.execution.outcome import EXIT_STATUSES, Outcome
from runbook.engine.execution.replay import CHANGED_SERVICES, ResumeState
from runbook.engine.execution.retry import run_with_retries
from runbook.engine.execution.stream import EventStream
from runbook.engine.internal_error import describe_internal_error
from runbook.engine.next_command import describe_fix
from runbook.engine.preflight import Preflight, find_stopped_dependents, make_downgrade_refusal
from runbook.engine.remediation import HandedFailure, Remediation, find_invocations, let_remediations_decide
from runbook.engine.rollback_units import find_active_triggers
from runbook.engine.stopped_services import describe_stopped_services
from runbook.engine.summary import (
    COMMAND_VERDICTS,
    describe_interruption,
    describe_running,
    describe_start,
    describe_state_left,
    describe_version_left,
    find_advice,
    read_journal_tail,
)
from runbook.errors import EXIT_REMEDIATED, HostError, Interrupted, NotBegun, RunbookError
from runbook.events import (
    Notice,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFinished,
    StepKept,
    StepStarted,
)
from runbook.host.interface import SHARED_READ_AGE, Host, Waiter
from runbook.model import Deadline, RunStatus, StepStatus
from runbook.records.store import boot_id, boot_time
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import DOWNGRADE, Step
from runbook.template import text as template
from runbook.template.namespace import TemplateNamespace

if TYPE_CHECKING:
    from runbook.engine.rollback import Rollback


@dataclass
class Runner:
    """Carries a runbook out on a host. Everything it does and finds is an event."""

    runbook: Runbook
    host: Host
    waiter: Waiter
    events: EventStream
    state: RunState
    fail_on_remediation: bool = False
    notices: tuple[str, ...] = ()
    resume_state: ResumeState = field(default_factory=ResumeState)  # what earlier parts did; empty for a new run
    fix_command: str = ""  # the command that does the same and fixes what it finds, if the runbook does not
    on_started: Callable[[], Iterable[str]] = tuple  # called when the run certainly begins; returns notices
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # by the ids of the steps
    changed: bool = False  # something was changed
    deadline: Deadline | None = None  # of the steps that are carried out now
    _acted_steps: set[str] = field(default_factory=set)
    _started_at: float = 0.0
    _current: str = ""  # the id of the step that is carried out
    _open_sockets: frozenset[str] = frozenset()  # the socket units of its services that were up before
    _last_state: dict[str, Any] = field(default_factory=dict)  # the state of the run, as it was recorded last

    @cached_property
    def _preflight(self) -> Preflight:
        return Preflight(self.host, self.waiter, self.runbook)

    def run(self) -> RunFinished:
        """Carry the runbook out, and return how the run ended.

        Raises Interrupted before it began, and NotBegun if it cannot be resumed at this moment: then nothing
        was changed, and its record stays as it was.
        """
        self._started_at = self.host.clock.now()
        if self.runbook.timeout is not None:
            self.deadline = Deadline.after(self.host.clock, self.runbook.timeout)
        has_begun = False
        try:
            self._begin()
            has_begun = True
            end = self._steps()
        except NotBegun as error:
            if self.resume_state.parts:
                raise
            end = replace(self._end(RunStatus.NOT_BEGUN, error.message), hint=error.hint)
        except Interrupted as error:
            if not has_begun:
                raise
            end = self._end_interrupted(error)
        except HostError as error:
            end = replace(self._end(RunStatus.FAILED, error.message), now=self._describe_left())
        except RunbookError:
            raise
        except Exception as error:  # Outside of every step: a bug, or no memory is left.
            end = replace(self._end(RunStatus.FAILED, describe_internal_error(error)), hint=self._report_hint)
        if end.status not in (RunStatus.NOT_BEGUN, RunStatus.INTERRUPTED):
            self._report_dependents()
        if self.runbook.notify or self.runbook.machine_notify:
            self._notify(end)
        self.events.emit(end)
        return end

    def _notify(self, end: RunFinished) -> None:
        with contextlib.suppress(Exception):  # The last event must be written, whatever happens here.
            from runbook.engine.notify import Notifier  # noqa: PLC0415 - Only a run with `notify` needs it.

            tell = Notifier(self.runbook, self.host, self.waiter, self.events, self.state, self.resume_state)
            tell.notify(end, self._make_namespace())

    def _report_dependents(self) -> None:
        with contextlib.suppress(Exception):  # The last event must be written, whatever this finds.
            closed = find_closed_sockets(self.host, self.runbook, self._open_sockets)
            dependents = {name: why for name, why in self._preflight.dependents.items() if name not in closed}
            for text in (*find_stopped_dependents(self.host, dependents), *closed.values()):
                self.events.emit(Notice(text=text))

    def _begin(self) -> None:
        """Check what must hold before anything is changed, and report the beginning. Raises NotBegun."""
        book, earlier = self.runbook, self.resume_state
        resumed = earlier.parts > 0
        # Processes of an earlier part of this run may still be in the scope of that part.
        scope, namespace = f"{self.state.id}-{earlier.parts + 1}", self._make_namespace(partial=True)
        self._preflight.run(scope if resumed else self.state.id, None if resumed else (self.state, namespace))
        self._open_sockets = list_open_sockets(self.host, book)
        for name, ports in self.state.ports.items():
            with contextlib.suppress(HostError):
                self.host.remember_addresses(self.host.unit(name, max_age=SHARED_READ_AGE), ports)
        if not resumed:
            self._preflight.refuse_downgrades(self.state, namespace)
        self.outcomes.update(earlier.finished)
        self.changed = earlier.changed
        self.state.load(earlier.run_state)
        begin_event = RunResumed if resumed else RunStarted
        self.events.emit(
            begin_event(
                name=book.title,
                file=book.path,
                unit=book.unit,
                units=sorted(set(self._preflight.canonical_names.values())),
                steps=[{"id": step.step_id, "type": step.type_name} for step in book.steps],
                booted=round(boot_time(self.host.clock.now()), 3),
                boot=boot_id() if resumed else None,
                left=self._preflight.left_unit,
                waking=(None if resumed else find_active_triggers(self.host, book)) or None,
                rollback=earlier.rollback_cause,
                lines=book.lines or None,
            )
        )
        for text in (*self.notices, *self._preflight.warnings, *self.on_started()):
            self.events.emit(Notice(text=text))
        if book.rollback != "off":
            with contextlib.suppress(HostError):
                self.host.list_changed_services()  # From here on systemd's announcements of changes are recorded.

    def _steps(self) -> RunFinished:
        # An earlier part of this run may have begun a rollback.
        cause = self.outcomes.get(self.resume_state.rollback_cause or "")
        broken = cause or self.run_in_order(self.runbook.steps)
        # A rollback and the `always` steps have their own time limits, because that of the run may be used up.
        self.deadline = None
        rollback = None if broken is None or broken.still_starting else self._roll_back(broken)
        broken_always = self.run_in_order(self.runbook.always)
        if broken is not None and broken.still_starting:
            return self._end_failed(RunStatus.STILL_STARTING, broken, broken.reason)
        if rollback is not None and rollback.reason:
            return self._end_rolled_back(rollback, broken_always)
        failed = broken or broken_always
        if failed is not None:
            return self._end_failed(RunStatus.FAILED, failed, f"{failed.id}: {failed.reason}")
        statuses = {outcome.status for outcome in self.outcomes.values()}
        running = self._describe(lambda: describe_running(self.host, self.runbook, self.outcomes.values()))
        if StepStatus.REMEDIATED in statuses:
            return self._end(RunStatus.REMEDIATED, running)
        passed_over = [o.id for o in self.outcomes.values() if o.failed and "." not in o.id]
        but = f"; but {', '.join(passed_over)} failed, and the run went on" if passed_over else ""
        status = RunStatus.CHANGED if StepStatus.CHANGED in statuses else RunStatus.OK
        return self._end(status, running + but)

    def _roll_back(self, broken: Outcome) -> Rollback:
        from runbook.engine.rollback import Rollback  # noqa: PLC0415 - Only a run that failed needs it.

        rollback = Rollback(self, self.runbook, broken)
        rollback.run_if_wanted()
        return rollback

    def _end_rolled_back(self, rollback: Rollback, broken_always: Outcome | None) -> RunFinished:
        """Return the end of a run that failed at a step, after its rollback."""
        broken = rollback.failure
        reason = f"{broken.id}: {broken.reason}; {rollback.reason}"
        at = rollback.failed_step or broken_always
        first = {"step": broken.id, "verdict": str(broken.verdict or "")}
        if at is None:
            end = self._end_failed(RunStatus.ROLLED_BACK, broken, reason)
        else:
            status = RunStatus.STILL_STARTING if at.still_starting else RunStatus.FAILED
            end = self._end_failed(status, at, reason, rollback.steps)
            end = replace(end, after=first if at.id != broken.id else None, hint=rollback.hint or end.hint)
        return replace(end, cause=broken.reason, back=rollback.updates_now, now=self._describe_left(*rollback.steps))

    def _end_interrupted(self, error: Interrupted) -> RunFinished:
        book, emitted, up = self.runbook, self.events.emitted, self._describe_start()
        version = describe_version_left(book, self._current, emitted, self.outcomes.values())
        return RunFinished(
            status=RunStatus.INTERRUPTED,
            exit=error.exit_status,
            reason=describe_interruption(book, self._current, emitted, error),
            step=self._current,
            now="; ".join(filter(None, (self._describe_left(), version))),
            hint=f"runbook resume {self.state.id} goes on from there" + (f"; {up} until then" if up else ""),
        )

    def _end_failed(
        self, status: RunStatus, outcome: Outcome, reason: str, besides: Sequence[Step[Any]] = ()
    ) -> RunFinished:
        """Return the end of a run that failed at a step of the runbook or of `besides`."""
        step = next((step for step in (*self.runbook.walk(), *besides) if step.id == outcome.id), None)
        outputs = self.state.outputs
        run = self.state.id if outputs else ""  # Without a record, it cannot be resumed.
        log = outputs / f"{outcome.id}.log" if outputs else None
        return replace(
            self._end(status, reason),
            step=outcome.id,
            verdict=str(outcome.verdict or ""),
            now=self._describe_left(*([step] if step is not None else [])),
            hint=self._advise(outcome, step, run, rolled_back=status is RunStatus.ROLLED_BACK),
            log=str(log) if log and log.is_file() and log.stat().st_size else "",
        )

    @property
    def _report_hint(self) -> str:
        """What to do about an error of this program."""
        return f"this is an error of runbook itself: report it with the output of runbook show {self.state.id}"

    def _advise(self, outcome: Outcome, step: Step[Any] | None, run: str, *, rolled_back: bool) -> str:
        if TRACE in outcome.evidence:
            return self._report_hint
        if rolled_back:
            return f"runbook show {self.state.id} has the evidence; correct the cause, then run this again"
        advice = describe_fix(outcome, self.fix_command, self.runbook) if self.fix_command else ""
        advice = advice or self._describe(lambda: find_advice(self.host, self.waiter, outcome, step, self.runbook, run))
        adds = outcome.verdict in COMMAND_VERDICTS and "systemctl" not in advice
        start = self._describe_start() if adds or not advice else ""
        return "; ".join(filter(None, (advice, start)))

    def _describe_left(self, *steps: Step[Any]) -> str:
        return self._describe(lambda: describe_state_left(self.host, self.runbook, *steps))

    def _describe(self, describe: Callable[[], str]) -> str:
        """Return a description for the last event, which must be written even if this program has an error in it."""
        try:
            return describe()
        except RunbookError:
            raise
        except Exception as error:
            return f"what runs now is not known: {describe_internal_error(error)}"

    def _describe_start(self) -> str:
        return self._describe(lambda: describe_start(self.host, self.runbook)) if self._preflight.was_up else ""

    def _end(self, status: RunStatus, reason: str) -> RunFinished:
        told_apart = status is RunStatus.REMEDIATED and self.fail_on_remediation
        return RunFinished(status=status, exit=EXIT_REMEDIATED if told_apart else EXIT_STATUSES[status], reason=reason)

    def run_in_order(self, steps: Iterable[Step[Any]]) -> Outcome | None:
        failure: HandedFailure | None = None
        given = tuple(steps)
        for step, written in zip(let_remediations_decide(given), given, strict=True):
            known = self.resume_state.is_new(str(step.id))
            before = find_invocations(self.host, step) if step is not written and known else {}
            outcome = self.step(step)
            if outcome.still_starting or (outcome.failed and step.on_failure == "abort"):
                return outcome
            if failure is not None and failure.is_unfixed(self.host, outcome):
                return failure.outcome
            failure = HandedFailure(outcome, before) if outcome.failed and step is not written else None
        return None

    def step(self, step: Step[Any]) -> Outcome:
        try:
            return self._carry_out(step)
        except RunbookError:
            raise
        except Exception as error:  # Outside of every attempt: a bug, or no memory is left.
            outcome = self.outcomes[step.step_id] = make_internal_failure(step, error)
            self.events.emit(StepFinished(**outcome.facts()))
            return outcome

    def _carry_out(self, step: Step[Any]) -> Outcome:
        assert step.id is not None
        if kept := self.resume_state.find_kept_outcome(step):
            self.outcomes[step.id] = kept
            self.events.emit(StepKept(**kept.facts()))
            return kept
        if why := self.resume_state.undone_by_boot.pop(step.id, ""):
            self.events.emit(Notice(text=f"{why}, so {step.id}, which had ended, is carried out again"))
        self._acted_steps.discard(step.id)
        if step.id in self.resume_state.ever_acted:
            self._acted_steps.add(step.id)  # It may have done its work before it was interrupted.
        self._current = step.id
        outcome = self._step(step)
        earlier = self.resume_state.finished.get(step.id)
        if earlier is not None and earlier.status is StepStatus.REMEDIATED and outcome.status is StepStatus.OK:
            # A remediation is reported as such, even if a later part of the run only confirms it.
            outcome = replace(outcome, status=earlier.status, verdict=earlier.verdict, reason=earlier.reason)
        self.outcomes[step.id] = outcome
        self.changed = self.changed or outcome.status in (StepStatus.CHANGED, StepStatus.REMEDIATED)
        goes_on = outcome.failed and step.on_failure == "continue"
        before, self._last_state = self._last_state, self.state.dump()
        remembers = self._last_state if self._last_state != before else None
        self.events.emit(StepFinished(**outcome.facts(), name=step.name or "", continues=goes_on, remembers=remembers))
        return outcome

    def _make_namespace(self, *, partial: bool = False) -> TemplateNamespace:
        results = {name: outcome.template_facts() for name, outcome in self.outcomes.items()}
        return self.runbook.namespace.for_run(self.state.id, results, partial=partial)

    def _step(self, step: Step[Any]) -> Outcome:
        name, began, namespace = step.step_id, self.host.clock.monotonic(), self._make_namespace()
        try:
            if step.when is not None and not template.is_true(step.when, namespace):
                return Outcome(name, step.type_name, StepStatus.SKIPPED, None, f"`when` is false: {step.when}")
            step = template.fill(step, namespace)
        except RunbookError as error:
            return Outcome(name, step.type_name, StepStatus.FAILED, step.failure_verdict, error.message)
        units = [self._preflight.canonical_names.get(one, one) for one in step.units()]
        self.events.emit(StepStarted(id=name, type=step.type_name, name=step.title, units=units))
        up = self._list_services(step)
        outcome, tries = run_with_retries(step, lambda: self._run_once(step), self.waiter, self.events)
        try:
            for text in describe_stopped_services(self.host, step, self._preflight.canonical_names.values(), up):
                self.events.emit(Notice(text=text))
            outcome = self._add_findings(step, outcome)
        except Interrupted:
            # The step had ended: its outcome must be in the record.
            not_known = {CHANGED_SERVICES: None} if self.runbook.rollback != "off" else {}
            self.events.emit(StepFinished(**replace(outcome, evidence={**outcome.evidence, **not_known}).facts()))
            raise
        return replace(outcome, attempts=tries, seconds=self.host.clock.monotonic() - began)

    def _add_findings(self, step: Step[Any], outcome: Outcome) -> Outcome:
        """Add to the evidence which services a step changed, and what the unit of a failed one wrote."""
        found: dict[str, Any] = judge_ended_step(self, self.runbook, step)
        if outcome.status is StepStatus.FAILED and TRACE not in outcome.evidence:
            found |= read_journal_tail(self.host, self.waiter, self.state, step, outcome.verdict, self._started_at)
        return replace(outcome, evidence={**outcome.evidence, **found})

    def _list_services(self, step: Step[Any]) -> tuple[str, ...]:
        """List the services that are not inactive before a command, which may stop some of them."""
        try:
            return self.host.list_services() if step.may_create_units and not step.only_reads() else ()
        except HostError:
            return ()

    def prepare(self, step: Step[Any]) -> Step[Any] | None:
        namespace = self._make_namespace(partial=True)
        if step.when is not None and not template.parse_expression(step.when).value(namespace):
            return None
        return template.fill(step, namespace)

    def _run_once(self, step: Step[Any]) -> Outcome:
        """Attempt a step once: the step itself, or the steps that it holds."""
        if (remedy := step.remedy()) is None:
            return self._attempt(step)
        before = self.deadline
        if step.timeout is not None:
            self.deadline = Deadline.after(self.host.clock, step.timeout).no_later_than(before)
        try:
            return Remediation(self, step, remedy).run()
        finally:
            self.deadline = before

    def _attempt(self, step: Step[Any]) -> Outcome:
        name = step.step_id
        partial, until = self.resume_state.take_partial(name), self.deadline
        outcome = attempt(step, self.host, self.waiter, self.state, self.events, until, partial, self.changed)
        if outcome.failed and outcome.evidence.get(DOWNGRADE) and not self.changed:
            raise make_downgrade_refusal(name, outcome.reason)
        if outcome.acted:
            self.changed = True
            self._acted_steps.add(name)
        if outcome.status is StepStatus.OK and name in self._acted_steps:
            # An earlier attempt made the change, and failed before it found that.
            return replace(outcome, status=StepStatus.CHANGED)
        return outcome
