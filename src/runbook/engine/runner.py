"""A whole run: its steps in order, what a failure means for the rest, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runbook import template
from runbook.engine.execution.attempt import attempt, refusal
from runbook.engine.execution.events import Events
from runbook.engine.execution.outcome import EXITS, Outcome, Try
from runbook.engine.execution.replay import Done
from runbook.engine.execution.retry import retried
from runbook.engine.preflight import begin, gone_along, leave, needing
from runbook.engine.remediation import remediate
from runbook.engine.rollback import Undone, roll_back
from runbook.engine.rollback_plan import waking
from runbook.engine.summary import advice, again, bring_up, last_words, left_behind, running_now
from runbook.errors import EXIT_REMEDIATED, AccessDenied, HostError, Interrupted, NotBegun, RunbookError
from runbook.host.interface import SAME_MOMENT, Host, Waiter
from runbook.model import Deadline, Event, RunStatus, StepStatus, Wake
from runbook.records.store import boot_id, booted
from runbook.spec.state import RunState
from runbook.spec.step import Runbook, Step


@dataclass(frozen=True)
class RunEnd:
    """How a run ended: for the exit status, and the last words."""

    status: RunStatus
    exit: int
    reason: str
    hint: str = ""
    step: str = ""
    verdict: str = ""
    after: Mapping[str, str] | None = None
    back: str = ""
    now: str = ""
    log: str = ""

    def data(self) -> dict[str, Any]:
        """Give it as `run-finished` carries it: what is not known is left out."""
        always = {"status": str(self.status), "exit": self.exit, "reason": self.reason}
        more = {"step": self.step, "verdict": self.verdict, "after": self.after, "back": self.back}
        more |= {"now": self.now, "hint": self.hint, "log": self.log}
        return {**always, **{name: fact for name, fact in more.items() if fact}}


@dataclass
class Runner:
    """Carries a runbook out on a host. Everything it does and finds is an event."""

    runbook: Runbook
    host: Host
    waiter: Waiter
    events: Events
    state: RunState
    fail_on_remediation: bool = False
    notices: tuple[str, ...] = ()
    done: Done = field(default_factory=Done)
    """What earlier parts of this run have done: empty unless it is gone on with."""
    before: tuple[Event, ...] = ()
    """The events of those parts."""
    on_begun: Callable[[], Iterable[str]] = tuple
    """Called once it is sure that the run begins; gives what there is to say of that."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    changed: bool = False
    until: Deadline | None = None
    _acted: set[str] = field(default_factory=set)
    _began: float = 0.0
    _current: str = ""
    _was_up: bool = False
    _needing: dict[str, str] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _remembered: dict[str, Any] = field(default_factory=dict)

    def run(self) -> RunEnd:
        """Carry it out to its end, whatever that is.

        Raises Interrupted before it has begun, and NotBegun where it cannot be gone on with at this moment: then
        nothing was touched, and its record stays as it was.
        """
        self._began = self.host.clock.now()
        if self.runbook.timeout is not None:
            self.until = Deadline.after(self.host.clock, self.runbook.timeout)
        begun = False
        try:
            self._begin()
            begun = True
            end = self._steps()
        except NotBegun as error:
            if self.before:
                raise
            end = RunEnd(RunStatus.NOT_BEGUN, EXITS[RunStatus.NOT_BEGUN], error.message, error.hint)
        except Interrupted as error:
            if not begun:
                raise
            end = self._interrupted(error)
        except HostError as error:
            end = replace(self._end(RunStatus.FAILED, error.message), now=self._left_behind())
        if end.status not in (RunStatus.NOT_BEGUN, RunStatus.INTERRUPTED):
            for text in gone_along(self.host, self._needing):
                self.events.emit("notice", text=text)
        self.events.emit("run-finished", **end.data())
        return end

    @property
    def _scope_name(self) -> str:
        """Name the scope of this part of the run: what earlier ones left behind may keep theirs."""
        parts = sum(event.event in ("run-started", "run-resumed") for event in self.before)
        return f"{self.state.id}-{parts + 1}" if parts else self.state.id

    def _begin(self) -> None:
        """Say what is to be done, once all that this rests on was seen. Raises NotBegun: nothing was touched."""
        book = self.runbook
        try:
            doubts = begin(self.host, book)
            left = leave(self.host, self.waiter, book, self._scope_name)
            self._ids = {name: self.host.unit(name, recent=SAME_MOMENT).name for name in book.unit_names()}
            self._take_over()
            self._needing = needing(self.host, book)
            self._was_up = book.unit is not None and self.host.unit(book.unit, recent=SAME_MOMENT).runs
        except HostError as error:
            raise NotBegun(error.message, hint=error.hint) from error
        self.events.emit(
            "run-resumed" if self.before else "run-started",
            name=book.title,
            file=book.path,
            unit=book.unit,
            units=sorted(set(self._ids.values())),
            steps=[{"id": step.id, "type": step.kind} for step in book.steps],
            booted=round(booted(self.host.clock.now()), 3),
            **({"boot": boot_id()} if self.before else {}),
            **({"left": left.place} if left.place else {}),
            **({"waking": up} if (up := waking(self.host, book)) and not self.before else {}),
            **({"rollback": self.done.rollback["failed"]} if self.done.rollback is not None else {}),
        )
        for text in filter(None, (*self.notices, left.doubt, *doubts, *self.on_begun())):
            self.events.emit("notice", text=text)

    def _steps(self) -> RunEnd:
        broken = self._broken_before() or self._in_order(self.runbook.steps)
        # What always runs has its own time, and so has a roll back: the run's may be used up.
        self.until = None
        undone = None if broken is None or broken.left_alone else roll_back(self, self.runbook, broken)
        broken_always = self._in_order(self.runbook.always)
        if broken is not None and broken.left_alone:
            return self._broken(RunStatus.STILL_STARTING, broken, broken.reason)
        if broken is not None and undone is not None:
            return self._rolled_back(broken, undone, broken_always)
        failed = broken or broken_always
        if failed is not None:
            return self._broken(RunStatus.FAILED, failed, f"{failed.id}: {failed.reason}")
        statuses = {outcome.status for outcome in self.outcomes.values()}
        if StepStatus.REMEDIATED in statuses:
            return self._end(RunStatus.REMEDIATED, self._running_now())
        passed_over = [o.id for o in self.outcomes.values() if o.failed and "." not in o.id]
        but = f"; but {', '.join(passed_over)} failed, and the run went on" if passed_over else ""
        status = RunStatus.CHANGED if StepStatus.CHANGED in statuses else RunStatus.OK
        return self._end(status, self._running_now() + but)

    def _rolled_back(self, broken: Outcome, undone: Undone, broken_always: Outcome | None) -> RunEnd:
        """End a run that failed at a step and was rolled back, or was to be."""
        reason = f"{broken.id}: {broken.reason}; {undone.reason}"
        at = undone.broken or broken_always
        first = {"step": broken.id, "verdict": str(broken.verdict or "")}
        if at is None:
            end = self._end(RunStatus.ROLLED_BACK, reason)
            end = replace(end, step=first["step"], verdict=first["verdict"])
        else:
            status = RunStatus.STILL_STARTING if at.left_alone else RunStatus.FAILED
            end = self._broken(status, at, reason, undone.steps)
            end = replace(end, after=first if at.id != broken.id else None)
        return replace(end, back=undone.told, now=self._left_behind(*undone.steps))

    def _take_over(self) -> None:
        """Know what earlier parts of this run did, as if this one had done it."""
        self.outcomes.update(self.done.finished)
        self.changed = self.done.changed
        self.state.restore(self.done.state)

    def _broken_before(self) -> Outcome | None:
        """Give the step that an earlier part of this run failed at, if it had begun to roll back."""
        return self.outcomes.get(self.done.rollback["failed"]) if self.done.rollback is not None else None

    @property
    def _acts(self) -> bool:
        """Whether the step that is under way had begun to act."""
        told = ("step-started", "step-acting", "step-finished")
        last = next((event.event for event in reversed(self.events.seen) if event.event in told), "")
        return last == "step-acting"

    def _interrupted(self, error: Interrupted) -> RunEnd:
        where = f" at {self._current}" if self._current else ""
        stopped = ", which was stopped half way" if self._acts else ""
        if error.goes_on:
            stopped = f", which may go on: {error.goes_on}"
        always = "; the `always` steps were not run" if self.runbook.always else ""
        up = self._bring_up()
        return RunEnd(
            RunStatus.INTERRUPTED,
            error.exit_status,
            f"{error.message}{where}{stopped}{always}",
            step=self._current,
            now=self._left_behind(),
            hint=f"{again(self.state.id)} goes on from there" + (f"; {up} until then" if up else ""),
        )

    def _broken(self, status: RunStatus, outcome: Outcome, reason: str, besides: Sequence[Step[Any]] = ()) -> RunEnd:
        """End the run at a step that did not hold, of the runbook or `besides`: what it leaves, and what to do next."""
        step = next((step for step in (*self.runbook.walk(), *besides) if step.id == outcome.id), None)
        printed = self.state.outputs / f"{outcome.id}.log" if self.state.outputs else None
        return replace(
            self._end(status, reason),
            step=outcome.id,
            verdict=str(outcome.verdict or ""),
            now=self._left_behind(*([step] if step is not None else [])),
            hint=advice(self.host, outcome, step, self.runbook, self._recorded) or self._bring_up(),
            log=str(printed) if printed and printed.is_file() and printed.stat().st_size else "",
        )

    @property
    def _recorded(self) -> str:
        """The id under which this run can be gone on with."""
        return self.state.id if self.state.outputs is not None else ""

    def _bring_up(self) -> str:
        return bring_up(self.host, self.runbook) if self._was_up else ""

    def _running_now(self) -> str:
        return running_now(self.host, self.runbook, self.outcomes.values())

    def _left_behind(self, *steps: Step[Any]) -> str:
        return left_behind(self.host, self.runbook, *steps)

    def _end(self, status: RunStatus, reason: str) -> RunEnd:
        exit_status = EXITS[status]
        if status is RunStatus.REMEDIATED and self.fail_on_remediation:
            exit_status = EXIT_REMEDIATED
        return RunEnd(status, exit_status, reason)

    def _in_order(self, steps: Sequence[Step[Any]]) -> Outcome | None:
        """Carry steps out one after the other; give the one that ended it, if one did."""
        for step in steps:
            outcome = self.step(step)
            if outcome.left_alone or (outcome.failed and step.on_failure == "abort"):
                return outcome
        return None

    def step(self, step: Step[Any]) -> Outcome:
        """Carry out one step with all its tries, and tell how it ended; one that ended in an earlier part is kept."""
        assert step.id is not None
        if kept := self.done.kept(step):
            self.outcomes[step.id] = kept
            self.events.emit("step-kept", **kept.data())
            return kept
        if why := self.done.taken.pop(step.id, ""):
            self.events.emit("notice", text=f"{why}, so {step.id}, which had ended, is carried out again")
        began = self.host.clock.monotonic()
        if step.id in self.done.touched:
            self._acted.add(step.id)  # It may have done its work, and been cut short before that was seen.
        else:
            self._acted.discard(step.id)
        self._current = step.id
        outcome = self._step(step, began)
        earlier = self.done.finished.get(step.id)
        if earlier is not None and earlier.status is StepStatus.REMEDIATED and outcome.status is StepStatus.OK:
            # A rescue stays one, also where it is looked at again.
            outcome = replace(outcome, status=earlier.status, verdict=earlier.verdict, reason=earlier.reason)
        self.outcomes[step.id] = outcome
        self.changed = self.changed or outcome.status in (StepStatus.CHANGED, StepStatus.REMEDIATED)
        goes_on = {"continues": True} if outcome.failed and step.on_failure == "continue" else {}
        named = {"name": step.name} if step.name else {}
        self.events.emit("step-finished", **outcome.data(), **named, **goes_on, **self._remembers())
        return outcome

    def _remembers(self) -> dict[str, Any]:
        """Give what the run as a whole remembers by now, where that has changed."""
        before, self._remembered = self._remembered, self.state.kept()
        return {"remembers": self._remembered} if self._remembered != before else {}

    def _step(self, step: Step[Any], began: float) -> Outcome:
        name = str(step.id)
        results = {one: outcome.told() for one, outcome in self.outcomes.items()}
        scope = self.runbook.names.during(self.state.id, results)
        try:
            if step.when is not None and not template.holds(step.when, scope):
                return Outcome(name, step.kind, StepStatus.SKIPPED, None, f"`when` is false: {step.when}")
            step = template.fill(step, scope)
        except RunbookError as error:
            return Outcome(name, step.kind, StepStatus.FAILED, step.fails_as, error.message)
        units = [self._ids.get(one, one) for one in step.units()]
        self.events.emit("step-started", id=step.id, type=step.kind, name=step.title, units=units)
        outcome, tries = retried(step, lambda: self._once(step), self._sleep, self._retrying(step))
        if outcome.status is StepStatus.FAILED:
            try:
                said = last_words(self.host, self.waiter, self.state, step, outcome.verdict, self._began)
            except Interrupted:
                # The step had ended by then, and whoever reads the events must know how.
                self.events.emit("step-finished", **outcome.data())
                raise
            outcome = replace(outcome, evidence={**outcome.evidence, **said})
        return replace(outcome, attempts=tries, seconds=self.host.clock.monotonic() - began)

    def prepared(self, step: Step[Any]) -> Step[Any] | None:
        """Give a step with its templates filled as far as is known; None if its `when` is false or not known.

        Raises RunbookError for a template that cannot be filled.
        """
        results = {one: outcome.told() for one, outcome in self.outcomes.items()}
        scope = self.runbook.names.during(self.state.id, results, partial=True)
        if step.when is not None and not template.expression(step.when).value(scope):
            return None
        return template.fill(step, scope)

    def _once(self, step: Step[Any]) -> Outcome:
        """Try a step once, whether it acts itself or holds the steps that do."""
        before = self.until
        if (remedy := step.remedy()) is None:
            return self._try(step)
        if step.timeout is not None:
            self.until = Deadline.after(self.host.clock, step.timeout)
            if before is not None and before.at < self.until.at:
                self.until = before
        try:
            return remediate(self, step, remedy)
        finally:
            self.until = before

    def _try(self, step: Step[Any]) -> Outcome:
        try:
            cut = self.done.cut(str(step.id))
            tried = attempt(step, self.host, self.waiter, self.state, self.events, self.until, cut)
        except AccessDenied as error:
            if not self.changed:
                hint = error.hint or "run it as root, or with --user for your own units"
                raise NotBegun(error.message, hint=hint) from error
            tried = Try(refusal(step, error), acted=False)
        if tried.acted:
            self.changed = True
            self._acted.add(str(step.id))
        finding = tried.finding
        status = tried.status
        if status is StepStatus.OK and str(step.id) in self._acted:
            status = StepStatus.CHANGED  # An earlier try did it, and could not see that it had.
        return Outcome(
            str(step.id),
            step.kind,
            status,
            finding.verdict,
            finding.reason,
            evidence=finding.evidence,
            left_alone=tried.left_alone,
        )

    def _sleep(self, seconds: float) -> None:
        deadline = Deadline.after(self.host.clock, seconds)
        while not deadline.passed:
            self.waiter.wait(Wake(within=deadline.left), deadline)

    def _retrying(self, step: Step[Any]) -> Any:
        def told(number: int, outcome: Outcome, pause: float) -> None:
            self.events.emit(
                "step-retrying",
                id=step.id,
                type=step.kind,
                attempt=number,
                pause=pause,
                verdict=str(outcome.verdict),
                reason=outcome.reason,
            )

        return told
