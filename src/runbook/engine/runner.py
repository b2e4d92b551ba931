"""A whole run: its steps in order, what a failure means for the rest, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runbook import template
from runbook.engine.attempt import attempt, refusal
from runbook.engine.events import Events
from runbook.engine.outcome import EXITS, Outcome, Try
from runbook.engine.remediation import remediate
from runbook.engine.retry import retried
from runbook.errors import EXIT_REMEDIATED, AccessDenied, HostError, Interrupted, NotBegun, RunbookError
from runbook.host.facts import LoadState
from runbook.host.ports import Host, Waiter
from runbook.model import Deadline, Impact, RunStatus, StepStatus, Verdict, Wake
from runbook.step import Runbook, RunState, Step


@dataclass(frozen=True)
class RunEnd:
    """How a run ended: for the exit status, and the last words."""

    status: RunStatus
    exit: int
    reason: str
    hint: str = ""


@dataclass
class Runner:
    """Carries a runbook out on a host. Everything it does and finds is an event."""

    runbook: Runbook
    host: Host
    waiter: Waiter
    events: Events
    state: RunState
    fail_on_remediation: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    changed: bool = False
    until: Deadline | None = None
    _acted: set[str] = field(default_factory=set)

    def run(self) -> RunEnd:
        """Carry it out to its end, whatever that is. Nothing but a mistake in this program is raised."""
        book = self.runbook
        if book.timeout is not None:
            self.until = Deadline.after(self.host.clock, book.timeout)
        try:
            self._see_units()
            self.events.emit(
                "run-started",
                name=book.title,
                file=book.path,
                unit=book.unit,
                steps=[{"id": step.id, "type": step.kind} for step in book.steps],
            )
            if book.rollback != "off":
                self.events.emit(
                    "notice", text="this version does not roll back: a run that fails leaves things as they are"
                )
            end = self._steps()
        except NotBegun as error:
            end = RunEnd(RunStatus.NOT_BEGUN, EXITS[RunStatus.NOT_BEGUN], error.message, error.hint)
        except Interrupted as error:
            end = RunEnd(RunStatus.INTERRUPTED, error.exit_status, f"{error.message}; {self._running_now()}")
        except HostError as error:
            end = self._end(RunStatus.FAILED, error.message)
        self.events.emit(
            "run-finished",
            status=str(end.status),
            exit=end.exit,
            reason=end.reason,
            **({"hint": end.hint} if end.hint else {}),
        )
        return end

    def _steps(self) -> RunEnd:
        broken = self._in_order(self.runbook.steps)
        # What always runs has its own time: the run's may be used up.
        self.until = None
        broken_always = self._in_order(self.runbook.always)
        if broken is not None and broken.left_alone:
            return self._end(RunStatus.STILL_STARTING, broken.reason)
        failed = broken or broken_always
        if failed is not None:
            return self._end(RunStatus.FAILED, f"{failed.id}: {failed.reason}")
        statuses = {outcome.status for outcome in self.outcomes.values()}
        for status in (StepStatus.REMEDIATED, StepStatus.CHANGED):
            if status in statuses:
                return self._end(RunStatus(str(status)), self._running_now())
        return self._end(RunStatus.OK, self._running_now())

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
        """Carry out one step with all its tries, and tell how it ended."""
        assert step.id is not None
        began = self.host.clock.monotonic()
        self._acted.discard(step.id)
        outcome = self._step(step, began)
        self.outcomes[step.id] = outcome
        self.changed = self.changed or outcome.status in (StepStatus.CHANGED, StepStatus.REMEDIATED)
        self.events.emit("step-finished", **outcome.data())
        return outcome

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
        self.events.emit("step-started", id=step.id, type=step.kind, name=step.title)
        outcome, tries = retried(step, lambda: self._once(step), self._sleep, self._retrying(step))
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
            tried = attempt(step, self.host, self.waiter, self.state, self.events, self.until)
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

    def _see_units(self) -> None:
        """Refuse to begin where a unit does not exist and no earlier step could bring it."""
        could_come = False
        for step in self.runbook.walk():
            could_come = could_come or step.brings_units
            for name in step.units():
                unit = self.host.unit(name)
                if step.impact_here() is Impact.MUTATING and self.host.runs_inside(unit):
                    raise NotBegun(
                        f"cannot begin: this program runs inside {unit.name}, and would be stopped with it",
                        hint="run it from outside: sudo systemd-run --scope runbook apply …",
                    )
                if unit.load_state is LoadState.NOT_FOUND and not unit.runs and not could_come:
                    raise NotBegun(
                        f"cannot begin: systemd knows no unit {unit.name}",
                        hint=f"systemctl list-unit-files '{unit.name.split('.')[0][:4]}*' lists what is near",
                    )

    def _running_now(self) -> str:
        """Say what runs at the end, for the last words."""
        if self.runbook.unit is None:
            return "all steps hold"
        try:
            unit = self.host.unit(self.runbook.unit)
        except HostError as error:
            return f"what runs now cannot be told: {error.message}"
        version = next(
            (
                str(o.evidence["to"])
                for o in reversed(self.outcomes.values())
                if o.verdict in (Verdict.UPDATED, Verdict.UP_TO_DATE)
            ),
            "",
        )
        runs = f"runs {version}" if version and unit.main_pid else f"is {unit.active_state} ({unit.sub_state})"
        pid = f", PID {unit.main_pid}" if unit.main_pid else ""
        ports = ", ".join(str(port) for port in self.runbook.port)
        return f"{unit.name} {runs}{pid}" + (f", port {ports}" if ports and unit.main_pid else "")
