"""`update`: brings new code in, and sees that it is the version that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import Field

from runbook.actions.command_step import CommandStep, CommandStepState, make_failure
from runbook.actions.quiesce import Quiesce, is_started_later
from runbook.checks.versions import VERSION, describe_missing_version, describe_unmatchable, parse_version_answer
from runbook.errors import BusLost, HostError
from runbook.host.interface import Host, HostView
from runbook.host.queries import Answer, Command, CommandResult, Query
from runbook.model import Finding, FindingState, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Boolean, CommandField, Pattern, PositiveSpan, UnitName
from runbook.spec.state import StepState
from runbook.spec.step import ReplacesVersion, Runbook, Step
from runbook.template import Template, TemplateError, fill_own
from runbook.util.wording import brief_command

VERSION_TIMEOUT = 60.0
"""How long a `version` command may take; a large Node program needs several seconds on a small machine."""


@dataclass
class UpdateState(CommandStepState):
    """Whether the command has ended, the version that was there before it, and what is held stopped meanwhile.

    `refusal` says why it could not go on, once it holds something.
    """

    command_ended: bool = False
    previous_version: str | None = None
    quiesce: Quiesce = field(default_factory=Quiesce)
    refusal: str = ""


class Update(ReplacesVersion[UpdateState], CommandStep[UpdateState]):
    """Run the update's command in a transient unit of its own; afterwards the version must be `to`.

    Neither the stop of the service nor a lost login can end it half way. Where the version is `to` already,
    nothing is run. With `stop-first` the unit is held stopped while the command runs, and what would start it too.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.UPDATE_FAILED

    version: CommandField = Field(..., description="The command that prints the version which is installed.")
    pattern: Pattern = Field(VERSION, description="What of the output of `version` is the version.")
    unit: UnitName | None = Field(None, description="The unit that `stop-first` holds stopped.")
    stop_first: Boolean = Field(
        False, description="Hold the unit, and what would start it, stopped while the command runs."
    )
    timeout: PositiveSpan | None = Field(900.0, description="How long one try may take.")

    def validate_in(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if runbook.rollback == "auto" and "to" not in _find_names(self.run):
            # It is undone by its own command, with the earlier version as `to`.
            yield (
                "run",
                "`rollback: auto` undoes an update by its own command, so its `run` must use `${{ to }}`",
            )
        if never := self._unmatchable:
            yield ("to", never)
        if self.stop_first and self.unit is None:
            yield ("stop-first", "stop-first needs `unit`, here or at the top of the file")
        elif self.stop_first and not is_started_later(self, self.unit, runbook):
            yield (
                "stop-first",
                f"stop-first leaves {self.unit} down after the update; add a `start` or `restart` of it behind",
            )

    def units(self) -> tuple[str, ...]:
        return (self.unit,) if self.stop_first and self.unit is not None else ()

    def make_command(self, state: StepState, limit: float) -> Command:
        before = state.previous_version if isinstance(state, UpdateState) else None
        return super(Update, fill_own(self, **{"from": before or ""})).make_command(state, limit)

    def check_startable(self, view: HostView, state: StepState) -> Finding | None:
        # Which version was there is not asked yet, and whether the command can be started does not hang on it.
        return super(Update, fill_own(self, **{"from": "0"})).check_startable(view, state)

    def resume(self, view: HostView, state: UpdateState, *, stopped: bool) -> str:
        unknown = super().resume(view, state, stopped=stopped)
        if state.job is None and stopped:
            state.command_ended, state.quiesce, state.refusal = False, Quiesce(), ""
        # What was about to be done then was to stop the unit: the command had not been begun.
        return "" if state.quiesce.next_move == "stop" else unknown

    def undo(self, evidence: Mapping[str, Any]) -> Step[Any] | None:
        before = evidence.get("from")
        return self.model_copy(update={"to": before, "when": None}) if before else None

    def check(self, view: HostView, state: UpdateState) -> Finding:
        finding = self._check_update(view, state)
        if not self.stop_first:
            return finding
        if finding.state in (FindingState.HOLDS, FindingState.FAILS):
            return state.quiesce.check_released(view, finding)
        return state.quiesce.check_quiesced(view, self._unit, finding, began=state.job is not None)

    def apply(self, host: Host, state: UpdateState) -> None:
        try:
            if not (self.stop_first and state.quiesce.apply(host, self._unit, state.run)):
                self.start_command(host, state)
        except BusLost:
            raise
        except (HostError, TemplateError) as error:
            if state.job is not None or not state.quiesce.stop_jobs:
                raise
            state.refusal = error.message  # What is held by now is let go first.

    def judge_timeout(self, view: HostView, state: UpdateState, last: Finding) -> Finding:
        late = super().judge_timeout(view, state, last)
        if state.job is None:
            why = f"{brief_command(self.run)} was not begun within {self.time_limit(view):g}s: {last.reason}"
            late = replace(late, reason=why)
        return state.quiesce.add_summary(view, late)

    def cancel(self, host: Host, state: UpdateState) -> None:
        try:
            super().cancel(host, state)
        finally:
            if state.quiesce.is_active and not state.quiesce.released:
                state.quiesce.release(host, state.run, failed=True)

    @property
    def _unit(self) -> str:
        assert self.unit is not None
        return self.unit

    @property
    def _unmatchable(self) -> str:
        """Why `to` can never be found, as far as it is known."""
        return describe_unmatchable(self.to, self.pattern) if self.known_to else ""

    def _check_update(self, view: HostView, state: UpdateState) -> Finding:
        """Say where the update itself stands, whatever is held stopped for it."""
        if state.job is None:
            return self._check_before(view, state)
        if not state.command_ended:
            if view.job(state.job) is None:
                return self.await_command(state)
            state.command_ended = True
            state.query_id = state.run.next_query_id()
        result = view.read_command_result(state.job)
        answer = self._query_version(view, state)
        if answer is None:
            return self._await_version()
        return self._judge_after(state, answer) if result.succeeded else self._judge_failure(state, result, answer)

    def _check_before(self, view: HostView, state: UpdateState) -> Finding:
        state.refusal = state.refusal or state.quiesce.find_stop_refusal(view) or self._unmatchable
        if state.refusal:
            return fails(Verdict.UPDATE_FAILED, state.refusal, to=self.to, **{"from": state.previous_version})
        if hindered := self.check_startable(view, state):
            return hindered
        answer = self._query_version(view, state)
        return self._judge_before(state, answer) if answer else self._await_version()

    def _query_version(self, view: HostView, state: UpdateState) -> Answer[str] | None:
        """Ask for the installed version; None while the answer is not there."""
        command = state.run.make_command(
            self.version, timeout=VERSION_TIMEOUT, user=self.user, cwd=self.cwd, env=self.env
        )
        return view.query(Query(command, id=state.query_id, timeout=VERSION_TIMEOUT))

    def _await_version(self) -> Finding:
        return not_yet(Verdict.VERSION_MISMATCH, f"asking {brief_command(self.version)}", Wake(pending=True))

    def _describe_missing_version(self, answer: Answer[str]) -> str:
        return describe_missing_version(brief_command(self.version), answer, secret=self.secret)

    def _judge_before(self, state: UpdateState, answer: Answer[str]) -> Finding:
        found = parse_version_answer(answer, self.pattern)
        if found == self.to and state.previous_version not in (None, found):
            # A part of this try that was cut short had brought it in.
            return holds(
                Verdict.UPDATED, f"{state.previous_version} -> {found}", to=self.to, **{"from": state.previous_version}
            )
        state.previous_version = found
        fill_own(self.run, **{"from": found or ""})  # What cannot be put in is refused before anything is stopped.
        facts = {"from": found, "to": self.to}
        if found == self.to:
            return holds(Verdict.UP_TO_DATE, f"{found} is installed already", **facts)
        now = (
            f"{found} is installed" if found else f"no version is installed ({self._describe_missing_version(answer)})"
        )
        return to_do(Verdict.VERSION_MISMATCH, f"run {brief_command(self.run)}; {now}", **facts)

    def _judge_failure(self, state: UpdateState, result: CommandResult, answer: Answer[str]) -> Finding:
        """Say that the command failed, and what it left: nothing done, done all the same, or something between."""
        found = parse_version_answer(answer, self.pattern)
        still = " still" if found and found == state.previous_version else ""
        left = (
            f"{found} is installed{still}"
            if found
            else f"which version is installed cannot be told: {self._describe_missing_version(answer)}"
        )
        facts = {"from": state.previous_version, "to": self.to, "version": found}
        finding = make_failure(Verdict.UPDATE_FAILED, brief_command(self.run), result, **facts)
        return replace(finding, reason=f"{finding.reason}; {left}")

    def _judge_after(self, state: UpdateState, answer: Answer[str]) -> Finding:
        found = parse_version_answer(answer, self.pattern)
        facts = {"from": state.previous_version, "to": self.to, "version": found}
        if found == self.to:
            return holds(Verdict.UPDATED, f"{state.previous_version or 'nothing'} -> {found}", **facts)
        what = f"{found} is installed, not {self.to}" if found else self._describe_missing_version(answer)
        return fails(Verdict.VERSION_MISMATCH, f"the update ended well, but {what}", **facts)


def _find_names(run: str | tuple[str, ...]) -> set[str]:
    """Give the names that a command's templates use."""
    words = run if isinstance(run, tuple) else (run,)
    return {name.root for word in words if isinstance(word, Template) for name in word.references}
