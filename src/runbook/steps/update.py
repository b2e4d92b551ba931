"""`update`: installs new code, and proves that it is the wanted version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import Field

from runbook.actions.command_step import CommandStep, CommandStepState
from runbook.actions.quiesce import Quiesce, is_started_later
from runbook.actions.update_result import InstalledVersion
from runbook.checks.versions import VERSION, describe_unmatchable
from runbook.errors import BusLost, HostError
from runbook.host.facts import JobVerb
from runbook.host.interface import Host, HostView
from runbook.host.queries import Command, Query
from runbook.model import Finding, FindingState, Verdict, Wake, fails, not_yet
from runbook.spec.fields import Boolean, CommandField, Pattern, PositiveSpan, UnitName
from runbook.spec.runbook import Runbook
from runbook.spec.step import ReplacesVersion, Step
from runbook.template.foreign import find_unset_variable
from runbook.template.namespace import TemplateError
from runbook.template.text import Template, fill_own
from runbook.util.wording import brief_command

VERSION_TIMEOUT = 60.0  # seconds for a `version` command; a large Node program needs some on a small machine


@dataclass
class UpdateState(CommandStepState):
    """The command, the version before it, and what is kept stopped for it."""

    command_ended: bool = False
    previous_version: str | None = None  # the version that was installed before the command
    quiesce: Quiesce = field(default_factory=Quiesce)  # what is kept stopped meanwhile
    refusal: str = ""  # why the update cannot go on, although something is kept stopped


class Update(ReplacesVersion[UpdateState], CommandStep[UpdateState]):
    """Run the update's command in a transient unit of its own; afterwards the version must be `to`.

    Neither the stop of the service nor a lost login can kill it half way. If the version is `to` already, nothing is
    run. With `stop-first` the unit, and the units that would start it, are kept stopped while the command runs.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.UPDATE_FAILED

    version: CommandField = Field(
        ...,
        description="The command that prints the installed version.",
        examples=["npm ls --global --depth 0 openclaw"],
    )
    pattern: Pattern = Field(
        VERSION, description="The part of its output that is the version.", examples=["openclaw@([0-9.]+)"]
    )
    unit: UnitName | None = Field(None, description="The unit that `stop-first` keeps stopped.")
    stop_first: Boolean = Field(False, description="Keep the unit, and the units that would start it, down meanwhile.")
    timeout: PositiveSpan | None = Field(900.0, description="How long one try may take.")

    def validate_in(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        words = self.run if isinstance(self.run, tuple) else (self.run,)
        names = {name.root for word in words if isinstance(word, Template) for name in word.references}
        if runbook.rollback == "auto" and "to" not in names:
            yield "run", "`rollback: auto` undoes an update by its own command, so its `run` must use `${{ to }}`"
        env = {**runbook.env, **self.env}
        if isinstance(self.run, str) and (unset := find_unset_variable(self.run, self.template_vars, env)):
            name = unset.strip("${}")
            yield "run", f"`{unset}` is a variable of the shell that is not set; write `${{{{ {name} }}}}`"
        if never := self.known_to and describe_unmatchable(self.known_to, self.pattern):
            yield "to", never
        if self.stop_first and self.unit is None:
            yield "stop-first", "stop-first needs `unit`, here or at the top of the file"
        elif self.stop_first and not is_started_later(self, self.unit, runbook):
            yield "stop-first", f"stop-first leaves {self.unit} down; add a `start` or `restart` of it after this step"

    def units(self) -> tuple[str, ...]:
        return (self.unit,) if self.stop_first and self.unit is not None else ()

    def job_verb(self) -> JobVerb | None:
        return JobVerb.STOP if self.stop_first else None

    def make_command(self, state: UpdateState, limit: float) -> Command:
        return super(Update, fill_own(self, **{"from": state.previous_version or ""})).make_command(state, limit)

    def check_startable(self, view: HostView, state: UpdateState) -> Finding | None:
        # The previous version is not known yet, and whether the command can be started does not depend on it.
        return super(Update, fill_own(self, **{"from": "0"})).check_startable(view, state)

    def resume(self, view: HostView, state: UpdateState, *, stopped: bool) -> str:
        unknown = super().resume(view, state, stopped=stopped)
        if state.job is None and stopped:
            state.command_ended, state.quiesce, state.refusal = False, Quiesce(), ""
        # The next move was to stop the unit: the command had not been started.
        return "" if state.quiesce.next_move == "stop" else unknown

    def describe_query(self) -> str:
        return brief_command(self.version)

    def undo(self, evidence: Mapping[str, Any]) -> Step[Any] | None:
        before = evidence.get("from")
        undone = {"to": before, "when": None, "downgrade": True}
        return self.model_copy(update=undone) if before else None

    def check(self, view: HostView, state: UpdateState) -> Finding:
        finding = self._check_update(view, state)
        if not self.stop_first or self.unit is None:
            return finding
        if finding.state in (FindingState.HOLDS, FindingState.FAILS):
            return state.quiesce.check_release(view, finding)
        return state.quiesce.check_stop(view, self.unit, finding, has_begun=state.job is not None)

    def apply(self, host: Host, state: UpdateState) -> None:
        try:
            if self.unit is None or not state.quiesce.apply(host, self.unit, state.run):
                self.start_command(host, state)
        except BusLost:
            raise
        except (HostError, TemplateError) as error:
            if state.job is not None or not state.quiesce.stop_jobs:
                raise
            state.refusal = error.message  # What is kept stopped is released first.

    def judge_timeout(self, view: HostView, state: UpdateState, last: Finding) -> Finding:
        late = super().judge_timeout(view, state, last)
        if state.job is None:
            why = f"{brief_command(self.run)} was not started within {self.time_limit(view):g}s: {last.reason}"
            late = replace(late, reason=why)
        return state.quiesce.add_summary(view, late)

    def cancel(self, host: Host, state: UpdateState) -> None:
        try:
            super().cancel(host, state)
        finally:
            if state.quiesce.is_active and not state.quiesce.released:
                state.quiesce.release(host, state.run, is_failure=True)

    def _check_update(self, view: HostView, state: UpdateState) -> Finding:
        """Return where the update itself stands, whatever is kept stopped for it."""
        if state.job is None and (refusal := self._check_refusal(view, state)):
            return refusal
        if state.job is not None and not state.command_ended:
            if view.job(state.job) is None:
                return self.await_command(state)
            state.command_ended, state.query_id = True, state.run.next_query_id()
        run, version, limit = brief_command(self.run), brief_command(self.version), VERSION_TIMEOUT
        command = state.run.make_command(self.version, timeout=limit, user=self.user, cwd=self.cwd, env=self.env)
        answer = view.query(Query(command, id=state.query_id, timeout=limit))
        if answer is None:
            return not_yet(Verdict.VERSION_MISMATCH, f"asking {version}", Wake(pending=True))
        installed = InstalledVersion(answer, version, self.pattern, self.to, state.previous_version, self.secret)
        if state.job is not None:
            result = view.read_command_result(state.job)
            return installed.judge_after() if result.succeeded else installed.judge_failure(run, result)
        finding = installed.judge_before(run, downgrade=self.downgrade)
        if finding.verdict is not Verdict.UPDATED:
            state.previous_version = installed.version
            fill_own(self, **{"from": installed.version or ""})  # If it cannot be inserted, nothing is stopped.
        return finding

    def _check_refusal(self, view: HostView, state: UpdateState) -> Finding | None:
        """Return why the command must not or cannot be started."""
        unmatchable = self.known_to and describe_unmatchable(self.known_to, self.pattern)
        state.refusal = state.refusal or state.quiesce.find_stop_refusal(view) or unmatchable
        if not state.refusal:
            return self.check_startable(view, state)
        return fails(Verdict.UPDATE_FAILED, state.refusal, to=self.to, **{"from": state.previous_version})
