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
from runbook.spec.fields import Environment, Shell, Text
from runbook.spec.state import M, Memory
from runbook.spec.step import Step
from runbook.template import Template
from runbook.util.stdio import lines
from runbook.util.wording import brief, last_words

TAIL_LINES = 12
"""So many last lines of a failed command go into the evidence; all of it is in its output file."""


@dataclass
class CommandMemory(Memory):
    """The job that runs the command, once it was asked for; for one that merely looks, its question's number.

    `token` is this try's own: an earlier try of the same command may have left a word of how it ended.
    """

    lasting: ClassVar[bool] = True

    job: JobRef | None = None
    asked: int = 0
    token: str = ""

    def __post_init__(self) -> None:
        """Make what is asked a question of this try's own."""
        self.asked = self.run.new_question()
        self.token = self.token or os.urandom(4).hex()


class CommandStep(Step[M]):
    """A step with a command that runs in a transient unit of its own.

    There it outlives this program and the service it changes, and all that it starts can be found and ended.
    """

    remembers: ClassVar[type[Memory]] = CommandMemory
    fails_as: ClassVar[Verdict] = Verdict.COMMAND_FAILED
    brings_units: ClassVar[bool] = True
    settled: ClassVar[bool] = True

    run: Shell = Field(..., description="The command: a string for `/bin/sh -e`, or a list of its arguments.")
    user: Text = Field("", description="Who runs it; by default who runs `runbook`.")
    cwd: Text = Field("", description="Where it starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="What is added to its environment.")

    def command(self, memory: Memory, limit: float) -> Command:
        """Make the command as it is to be started."""
        return memory.run.command(
            self.run,
            timeout=limit,
            user=self.user,
            cwd=self.cwd,
            env=self.env,
            output=self._output_of(memory),
            kept=not self.secret,
            token=memory.token if isinstance(memory, CommandMemory) else "",
        )

    def hindered(self, view: HostView, memory: Memory) -> Finding | None:
        """Say that it cannot be started, where that is sure: before anything else is stopped for it."""
        if isinstance(self.user, Template) or isinstance(self.cwd, Template):
            return None  # In a plan, of what an earlier step has yet to say.
        why = view.hindrance(self.command(memory, self.time_limit(view)))
        return fails(self.fails_as, why) if why else None

    def take_up(self, view: HostView, memory: M, *, stopped: bool) -> str:
        assert isinstance(memory, CommandMemory)
        # By its names alone: what its templates stand for need not be known yet.
        output = memory.run.output_path(self._output_of(memory))
        memory.job = view.find_command(self._unit_of(memory), output, memory.token)
        if stopped and not (memory.job and _counts(view, memory.job)):
            memory.job, memory.token = None, os.urandom(4).hex()
            return ""
        return "" if memory.job else f"whether {brief(self.run)} was carried out, and to its end, is not known"

    def still_running(self, memory: Memory) -> Finding:
        """Say that the command goes on."""
        assert isinstance(memory, CommandMemory)
        assert memory.job is not None
        wake = Wake(units=frozenset({memory.job.unit}))
        return not_yet(Verdict.TIMED_OUT, f"waiting for {brief(self.run)}", wake, unit=memory.job.unit)

    def begin(self, host: Host, memory: Memory) -> None:
        """Start the command."""
        assert isinstance(memory, CommandMemory)
        try:
            memory.job = host.begin_command(self._unit_of(memory), self.command(memory, self.time_limit(host)))
        except BusTimeout as error:
            # It may have begun, and was told to stop. Unlike a job, it is not to be begun a second time.
            raise HostError(error.message) from error

    def _output_of(self, memory: Memory) -> str:
        return f"{memory.id}.log"

    def _unit_of(self, memory: Memory) -> str:
        """Name the command's unit so that it is found again, whoever goes on with the run."""
        return f"{memory.run.id}-{memory.id}"

    def timed_out(self, view: HostView, memory: M, last: Finding) -> Finding:
        limit = self.time_limit(view)
        return fails(
            Verdict.TIMED_OUT,
            f"{brief(self.run)} did not end within {limit:g}s and was stopped",
            **last.evidence,
        )

    def let_go(self, host: Host, memory: M) -> None:
        assert isinstance(memory, CommandMemory)
        if memory.job is not None and host.job(memory.job) is None:
            host.stop_command(memory.job)


def _counts(view: HostView, job: JobRef) -> bool:
    """Whether a command that was to be stopped had ended well before, or goes on all the same."""
    return view.job(job) is None or view.command_result(job).succeeded


def failed(verdict: Verdict, command: str, result: CommandResult, **facts: object) -> Finding:
    """Say that a command, as it is called in a sentence, failed, with the last it printed."""
    tail = "\n".join(lines(result.output.rstrip())[-TAIL_LINES:])
    return fails(verdict, f"{command} {result.describe()}{last_words(tail)}", output=tail, **facts)
