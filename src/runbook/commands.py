"""What the steps that run an operator's command have in common: a transient unit, its end, its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from runbook.fields import Environment, Shell, Text
from runbook.host.facts import JobRef
from runbook.host.ports import Host, HostView
from runbook.host.tasks import Command, CommandResult
from runbook.model import Finding, Verdict, Wake, fails, not_yet
from runbook.step import M, Memory, Step
from runbook.template import Template

MOST_BRIEF = 60
"""Characters of a command in a sentence."""

TAIL_LINES = 12
"""So many last lines of a failed command go into the evidence; all of it is in its output file."""


@dataclass
class CommandMemory(Memory):
    """The job that runs the command, once it was asked for; for one that merely looks, its question's number."""

    job: JobRef | None = None
    asked: int = 0

    def __post_init__(self) -> None:
        """Make what is asked a question of this try's own."""
        self.asked = self.run.new_question()


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
            output=f"{memory.id}.log",
            kept=not self.secret,
        )

    def hindered(self, view: HostView, memory: Memory) -> Finding | None:
        """Say that it cannot be started, where that is sure: before anything else is stopped for it."""
        if isinstance(self.user, Template) or isinstance(self.cwd, Template):
            return None  # In a plan, of what an earlier step has yet to say.
        why = view.hindrance(self.command(memory, self.time_limit(view)))
        return fails(self.fails_as, why) if why else None

    def still_running(self, memory: Memory) -> Finding:
        """Say that the command goes on."""
        assert isinstance(memory, CommandMemory)
        assert memory.job is not None
        wake = Wake(units=frozenset({memory.job.unit}))
        return not_yet(Verdict.TIMED_OUT, f"waiting for {brief(self.run)}", wake, unit=memory.job.unit)

    def begin(self, host: Host, memory: Memory) -> None:
        """Start the command."""
        assert isinstance(memory, CommandMemory)
        name = f"{memory.run.id}-{memory.id}"
        memory.job = host.begin_command(name, self.command(memory, self.time_limit(host)))

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


def failed(verdict: Verdict, run: str | tuple[str, ...], result: CommandResult, **facts: object) -> Finding:
    """Say that a command failed, with the last it printed."""
    tail = "\n".join(result.output.rstrip().splitlines()[-TAIL_LINES:])
    last = f": {tail.splitlines()[-1]}" if tail else ""
    return fails(verdict, f"{brief(run)} {result.describe()}{last}", output=tail, **facts)


def brief(run: str | tuple[str, ...]) -> str:
    """Name a command in a sentence: its first line, shortened."""
    line = run.strip().splitlines()[0] if isinstance(run, str) and run.strip() else " ".join(run)
    return line if len(line) <= MOST_BRIEF else line[: MOST_BRIEF - 3] + "..."
