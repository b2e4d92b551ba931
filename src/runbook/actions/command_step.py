"""What the steps that run an operator's command have in common: a transient unit, its end, its output."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from runbook.errors import BusTimeout, HostError
from runbook.host.facts import JobRef
from runbook.host.interface import Host, HostView
from runbook.host.queries import Command, CommandResult
from runbook.model import Finding, Verdict, Wake, fails, not_yet
from runbook.spec.fields import CommandField, Environment, TextField
from runbook.spec.state import StateT, StepState
from runbook.spec.step import Step
from runbook.template import Template
from runbook.util.stdio import split_lines
from runbook.util.wording import brief_command, describe_last_line

OUTPUT_TAIL_LINES = 12
"""So many last lines of a failed command go into the evidence; all of it is in its output file."""


@dataclass
class CommandStepState(StepState):
    """The job that runs the command, once it was asked for; for one that merely looks, its question's number.

    `token` is this try's own: an earlier try of the same command may have left a word of how it ended.
    """

    persistent: ClassVar[bool] = True

    job: JobRef | None = None
    query_id: int = 0
    token: str = ""

    def __post_init__(self) -> None:
        """Make what is asked a question of this try's own."""
        self.query_id = self.run.next_query_id()
        self.token = self.token or os.urandom(4).hex()


class CommandStep(Step[StateT]):
    """A step with a command that runs in a transient unit of its own.

    There it outlives this program and the service it changes, and all that it starts can be found and ended.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.COMMAND_FAILED
    may_create_units: ClassVar[bool] = True
    always_acts: ClassVar[bool] = True

    run: CommandField = Field(..., description="The command: a string for `/bin/sh -e`, or a list of its arguments.")
    user: TextField = Field("", description="Who runs it; by default who runs `runbook`.")
    cwd: TextField = Field("", description="Where it starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="What is added to its environment.")

    def make_command(self, state: StepState, limit: float) -> Command:
        """Make the command as it is to be started."""
        return state.run.make_command(
            self.run,
            timeout=limit,
            user=self.user,
            cwd=self.cwd,
            env=self.env,
            output=self._output_of(state),
            kept=not self.secret,
            token=state.token if isinstance(state, CommandStepState) else "",
        )

    def check_startable(self, view: HostView, state: StepState) -> Finding | None:
        """Say that it cannot be started, where that is sure: before anything else is stopped for it."""
        if isinstance(self.user, Template) or isinstance(self.cwd, Template):
            return None  # In a plan, of what an earlier step has yet to say.
        why = view.find_start_obstacle(self.make_command(state, self.time_limit(view)))
        return fails(self.failure_verdict, why) if why else None

    def resume(self, view: HostView, state: StateT, *, stopped: bool) -> str:
        assert isinstance(state, CommandStepState)
        # By its names alone: what its templates stand for need not be known yet.
        output = state.run.output_path(self._output_of(state))
        state.job = view.find_command(self._unit_of(state), output, state.token)
        if stopped and not (state.job and _still_counts(view, state.job)):
            state.job, state.token = None, os.urandom(4).hex()
            return ""
        return "" if state.job else f"whether {brief_command(self.run)} was carried out, and to its end, is not known"

    def await_command(self, state: StepState) -> Finding:
        """Say that the command goes on."""
        assert isinstance(state, CommandStepState)
        assert state.job is not None
        wake = Wake(units=frozenset({state.job.unit}))
        return not_yet(Verdict.TIMED_OUT, f"waiting for {brief_command(self.run)}", wake, unit=state.job.unit)

    def start_command(self, host: Host, state: StepState) -> None:
        """Start the command."""
        assert isinstance(state, CommandStepState)
        try:
            state.job = host.start_command(self._unit_of(state), self.make_command(state, self.time_limit(host)))
        except BusTimeout as error:
            # It may have begun, and was told to stop. Unlike a job, it is not to be begun a second time.
            raise HostError(error.message) from error

    def _output_of(self, state: StepState) -> str:
        return f"{state.id}.log"

    def _unit_of(self, state: StepState) -> str:
        """Name the command's unit so that it is found again, whoever goes on with the run."""
        return f"{state.run.id}-{state.id}"

    def judge_timeout(self, view: HostView, state: StateT, last: Finding) -> Finding:
        limit = self.time_limit(view)
        return fails(
            Verdict.TIMED_OUT,
            f"{brief_command(self.run)} did not end within {limit:g}s and was stopped",
            **last.evidence,
        )

    def cancel(self, host: Host, state: StateT) -> None:
        assert isinstance(state, CommandStepState)
        if state.job is not None and host.job(state.job) is None:
            host.stop_command(state.job)


def _still_counts(view: HostView, job: JobRef) -> bool:
    """Whether a command that was to be stopped had ended well before, or goes on all the same."""
    return view.job(job) is None or view.read_command_result(job).succeeded


def make_failure(verdict: Verdict, command: str, result: CommandResult, **facts: object) -> Finding:
    """Say that a command, as it is called in a sentence, failed, with the last it printed."""
    tail = "\n".join(split_lines(result.output.rstrip())[-OUTPUT_TAIL_LINES:])
    return fails(verdict, f"{command} {result.describe()}{describe_last_line(tail)}", output=tail, **facts)
