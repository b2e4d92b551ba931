"""`run`: runs any other command."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from runbook.actions.command_step import CommandStep, CommandStepState, make_failure
from runbook.host.interface import Host, HostView
from runbook.host.queries import Query
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Boolean, Pattern, PositiveSpan
from runbook.spec.runbook import Runbook
from runbook.util import regex
from runbook.util.wording import brief_command, describe_last_line

MAX_EVIDENCE_OUTPUT = 4000  # characters of a command's output that go into the evidence; all of it is in its file


class Run(CommandStep[CommandStepState]):
    """Run a command in a transient unit of its own; it must exit with status 0.

    A command with `read-only: true` changes nothing: it runs as a child of this program, in the dry run and in
    `runbook check` too.
    """

    read_only: Boolean = Field(False, description="It changes nothing, so that a dry run may run it as well.")
    expect_output: Pattern | None = Field(
        None, description="A pattern to be found in what it prints.", examples=["0 errors"]
    )
    timeout: PositiveSpan | None = Field(300.0, description="How long one try may take.")

    def only_reads(self) -> bool:
        return self.read_only

    def validate_in(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if self.secret and self.expect_output is not None and not self.read_only:
            yield "expect-output", "the output of a `secret: true` command is not kept, so nothing can be found in it"

    def check(self, view: HostView, state: CommandStepState) -> Finding:
        if self.read_only:
            return self._run_read_only(view, state)
        if state.job is None:
            return self.check_startable(view, state) or to_do(Verdict.COMMAND_DONE, f"run {self._label}")
        if view.job(state.job) is None:
            return self.await_command(state)
        result = view.read_command_result(state.job)
        if not result.succeeded:
            return make_failure(Verdict.COMMAND_FAILED, self._label, result)
        return self._check_output(result.output)

    def apply(self, host: Host, state: CommandStepState) -> None:
        self.start_command(host, state)

    def _run_read_only(self, view: HostView, state: CommandStepState) -> Finding:
        limit = self.time_limit(view)
        answer = view.query(Query(self.make_command(state, limit), id=state.query_id, timeout=limit))
        if answer is None:
            return not_yet(Verdict.TIMED_OUT, f"waiting for {self._label}", Wake(pending=True))
        if not answer.ok:
            kept = self._evidence_output(answer.value or "")
            why = f"{self._label} {answer.detail}{describe_last_line(kept)}"
            return fails(Verdict.COMMAND_FAILED, why, output=kept)
        return self._check_output(answer.value or "")

    def _check_output(self, output: str) -> Finding:
        kept = self._evidence_output(output)
        if self.expect_output is not None and not regex.search(self.expect_output, output, multiline=True):
            return fails(Verdict.COMMAND_FAILED, f"{self._label} did not print {self.expect_output}", output=kept)
        return holds(Verdict.COMMAND_DONE, f"{self._label} exited with status 0", output=kept)

    @property
    def _label(self) -> str:
        """What messages call it: its name in the runbook, or else its command."""
        return f'"{self.name}"' if self.name else brief_command(self.run)

    def _evidence_output(self, output: str) -> str:
        """Return the part of the output that goes into the evidence."""
        if self.secret or len(output) <= MAX_EVIDENCE_OUTPUT:
            return "" if self.secret else output
        # Whole lines: half a secret at the beginning would not be recognised and masked.
        if lines := output[-MAX_EVIDENCE_OUTPUT:].partition("\n")[2]:
            return lines
        return output.rstrip().rpartition("\n")[2][: MAX_EVIDENCE_OUTPUT - 3] + "..."
