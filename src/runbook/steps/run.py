"""`run`: any other command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from runbook.actions.command_step import CommandMemory, CommandStep, failed
from runbook.host.interface import Host, HostView
from runbook.host.queries import Question
from runbook.model import Finding, Impact, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Flag, Limit, Pattern
from runbook.spec.step import Runbook
from runbook.util import regex
from runbook.util.wording import brief, last_words

MOST_KEPT = 4000
"""Characters of a command's output that go into the evidence; all of it is in its output file."""


class Run(CommandStep[CommandMemory]):
    """Run a command in a transient unit of its own, and see it end with status 0.

    A command with `read-only: true` is one that merely looks: it runs as a child of this program, in the dry run
    and in `runbook check` too.
    """

    kind: ClassVar[str] = "run"

    read_only: Flag = Field(False, description="It changes nothing, so that a dry run may run it as well.")
    expect_output: Pattern | None = Field(None, description="A pattern to be found in what it prints.")
    timeout: Limit | None = Field(300.0, description="How long one try may take.")

    def impact_here(self) -> Impact:
        return Impact.READ_ONLY if self.read_only else Impact.MUTATING

    def misfits(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if self.secret and self.expect_output is not None and not self.read_only:
            yield "expect-output", "what a `secret: true` command prints is kept nowhere, so nothing is found in it"

    def check(self, view: HostView, memory: CommandMemory) -> Finding:
        if self.read_only:
            return self._observe(view, memory)
        if memory.job is None:
            return self.hindered(view, memory) or to_do(Verdict.COMMAND_DONE, f"run {self._called}")
        if view.job(memory.job) is None:
            return self.still_running(memory)
        result = view.command_result(memory.job)
        if not result.succeeded:
            return failed(Verdict.COMMAND_FAILED, self._called, result)
        return self._expected(result.output)

    def apply(self, host: Host, memory: CommandMemory) -> None:
        self.begin(host, memory)

    def _observe(self, view: HostView, memory: CommandMemory) -> Finding:
        limit = self.time_limit(view)
        answer = view.ask(Question(self.command(memory, limit), asked=memory.asked, timeout=limit))
        if answer is None:
            return not_yet(Verdict.TIMED_OUT, f"waiting for {self._called}", Wake(pending=True))
        if not answer.good:
            kept = self._kept(answer.output)
            return fails(Verdict.COMMAND_FAILED, f"{self._called} {answer.detail}{last_words(kept)}", output=kept)
        return self._expected(answer.output)

    def _expected(self, output: str) -> Finding:
        if self.expect_output is not None and not regex.search(self.expect_output, output, multiline=True):
            return fails(
                Verdict.COMMAND_FAILED,
                f"{self._called} did not print {self.expect_output}",
                output=self._kept(output),
            )
        return holds(Verdict.COMMAND_DONE, f"{self._called} ended with status 0", output=self._kept(output))

    @property
    def _called(self) -> str:
        """Name it in a sentence: by the name that the runbook gives it, or else by its command."""
        return f'"{self.name}"' if self.name else brief(self.run)

    def _kept(self, output: str) -> str:
        """Give what goes into the evidence of what was printed."""
        if self.secret or len(output) <= MOST_KEPT:
            return "" if self.secret else output
        # Whole lines: half a secret at the beginning would not be known for one.
        if lines := output[-MOST_KEPT:].partition("\n")[2]:
            return lines
        return output.rstrip().rpartition("\n")[2][: MOST_KEPT - 3] + "..."
