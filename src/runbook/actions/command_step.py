"""The base of the steps that run a command: a transient unit, its result, its output."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from pydantic import Field

from runbook.errors import BusTimeout, HostError
from runbook.host.facts import JobRef
from runbook.host.interface import Host, HostView
from runbook.host.queries import Command, CommandResult
from runbook.model import Finding, Progress, Verdict, Wake, fails, not_yet
from runbook.spec.fields import CommandField, Environment, FolderField, UserField
from runbook.spec.state import StepState
from runbook.spec.step import Step
from runbook.template.text import Template
from runbook.util.stdio import split_lines
from runbook.util.wording import brief_command, describe_last_line

OUTPUT_TAIL_LINES = 12  # last lines of a failed command that go into the evidence; all of its output is in a file


@dataclass
class CommandStepState(StepState):
    """The job that runs the command, or the query."""

    persistent: ClassVar[bool] = True

    job: JobRef | None = None  # the job, once the command was started
    query_id: int = 0  # the number of the query, for a command that only reads
    token: str = ""  # distinguishes this try: an earlier one of the same command may have left its result on disk

    def __post_init__(self) -> None:
        """Set a query number and a token that no other try has."""
        self.query_id = self.run.next_query_id()
        self.token = self.token or os.urandom(4).hex()


CommandStateT = TypeVar("CommandStateT", bound=CommandStepState)


class CommandStep(Step[CommandStateT]):
    """A step with a command that runs in a transient unit of its own.

    There it outlives this program and the service that it changes, and all that it starts can be found and stopped.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.COMMAND_FAILED
    may_create_units: ClassVar[bool] = True
    always_acts: ClassVar[bool] = True

    run: CommandField = Field(..., description="The command: a string for `/bin/sh -e`, or a list of arguments.")
    user: UserField = Field("", description="The user that runs it; by default the one that runs `runbook`.")
    cwd: FolderField = Field("", description="Where it starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="Variables that are added to its environment.")

    def command_text(self) -> str:
        return self.run if isinstance(self.run, str) else " ".join(self.run)

    def make_command(self, state: CommandStateT, limit: float) -> Command:
        """Return the command as it is to be started."""
        return state.run.make_command(
            self.run,
            timeout=limit,
            user=self.user,
            cwd=self.cwd,
            env=self.env,
            output=self._output_of(state),
            kept=not self.secret,
            token=state.token,
        )

    def check_startable(self, view: HostView, state: CommandStateT) -> Finding | None:
        """Return why the command certainly cannot be started, before anything is stopped for it."""
        if isinstance(self.user, Template) or isinstance(self.cwd, Template):
            return None  # In a plan, if the value comes from an earlier step.
        why = view.find_start_obstacle(self.make_command(state, self.time_limit(view)))
        return fails(self.failure_verdict, why) if why else None

    def resume(self, view: HostView, state: CommandStateT, *, stopped: bool) -> str:
        # By its names alone: the values of its templates may not be known yet.
        output = state.run.output_path(self._output_of(state))
        state.job = view.find_command(self._unit_of(state), output, state.token)
        if stopped and not (state.job and _still_counts(view, state.job)):
            state.job, state.token = None, os.urandom(4).hex()
            return ""
        return "" if state.job else f"it is unknown whether {brief_command(self.run)} was run to its end"

    def await_command(self, state: CommandStateT) -> Finding:
        """Wait for the end of the command."""
        assert state.job is not None
        wake = Wake(units=frozenset({state.job.unit}))
        finding = not_yet(Verdict.TIMED_OUT, f"waiting for {brief_command(self.run)}", wake, unit=state.job.unit)
        output = "" if self.secret else state.run.output_path(self._output_of(state))
        return replace(finding, progress=Progress(output=output))

    def start_command(self, host: Host, state: CommandStateT) -> None:
        """Start the command."""
        try:
            state.job = host.start_command(self._unit_of(state), self.make_command(state, self.time_limit(host)))
        except BusTimeout as error:
            # It may have been started, and was stopped. Unlike a job, it must not be started a second time.
            raise HostError(error.message) from error

    def _output_of(self, state: CommandStateT) -> str:
        return f"{state.id}.log"

    def _unit_of(self, state: CommandStateT) -> str:
        """Return the name of the command's unit, by which a resumed run finds it again."""
        return f"{state.run.id}-{state.id}"

    def judge_timeout(self, view: HostView, state: CommandStateT, last: Finding) -> Finding:
        limit = self.time_limit(view)
        reason = f"{brief_command(self.run)} did not end within {limit:g}s and was stopped"
        return fails(Verdict.TIMED_OUT, reason, **last.evidence)

    def cancel(self, host: Host, state: CommandStateT) -> None:
        if state.job is not None and host.job(state.job) is None:
            host.stop_command(state.job)


def _still_counts(view: HostView, job: JobRef) -> bool:
    """True if a command that was to be stopped had succeeded before, or is still running."""
    return view.job(job) is None or view.read_command_result(job).succeeded


def make_failure(verdict: Verdict, command: str, result: CommandResult, **facts: object) -> Finding:
    """Return that a command failed, with its last output lines."""
    tail = "\n".join(split_lines(result.output.rstrip())[-OUTPUT_TAIL_LINES:])
    return fails(verdict, f"{command} {result.describe()}{describe_last_line(tail)}", output=tail, **facts)
