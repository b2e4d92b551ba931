"""`update`: brings new code in, and sees that it is the version that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import Field

from runbook.actions.command_step import CommandMemory, CommandStep, failed
from runbook.actions.quiesce import Hold, starts_later
from runbook.checks.versions import VERSION, told, unreachable, why_none
from runbook.errors import BusLost, HostError
from runbook.host.interface import Host, HostView
from runbook.host.queries import Answer, Command, CommandResult, Question
from runbook.model import Finding, State, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Flag, Limit, Pattern, Shell, UnitName, Version
from runbook.spec.state import Memory
from runbook.spec.step import Runbook, Step
from runbook.template import Template, TemplateError, complete
from runbook.util.wording import brief

ASK_SECONDS = 60.0
"""How long a `version` command may take; a large Node program needs several seconds on a small machine."""


@dataclass
class UpdateMemory(CommandMemory):
    """Whether the command has ended, the version that was there before it, and what is held stopped meanwhile.

    `refusal` says why it could not go on, once it holds something.
    """

    ended: bool = False
    before: str | None = None
    hold: Hold = field(default_factory=Hold)
    refusal: str = ""


class Update(CommandStep[UpdateMemory]):
    """Run the update's command in a transient unit of its own; afterwards the version must be `to`.

    Neither the stop of the service nor a lost login can end it half way. Where the version is `to` already,
    nothing is run. With `stop-first` the unit is held stopped while the command runs, and what would start it too.
    """

    kind: ClassVar[str] = "update"
    remembers: ClassVar[type[Memory]] = UpdateMemory
    fails_as: ClassVar[Verdict] = Verdict.UPDATE_FAILED
    takes: ClassVar[tuple[str, ...]] = ("unit",)
    offers: ClassVar[tuple[str, ...]] = ("from", "to")

    version: Shell = Field(..., description="The command that prints the version which is installed.")
    to: Version = Field(..., description="The version that is wanted: a version, not a tag.")
    pattern: Pattern = Field(VERSION, description="What of the output of `version` is the version.")
    unit: UnitName | None = Field(None, description="The unit that `stop-first` holds stopped.")
    stop_first: Flag = Field(
        False, description="Hold the unit, and what would start it, stopped while the command runs."
    )
    timeout: Limit | None = Field(900.0, description="How long one try may take.")

    def misfits(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if runbook.rollback == "auto" and "to" not in _names_in(self.run):
            # It is undone by its own command, with the earlier version as `to`.
            yield (
                "run",
                "`rollback: auto` undoes an update by its own command, so its `run` must use `${{ to }}`",
            )
        if never := self._never:
            yield ("to", never)
        if self.stop_first and self.unit is None:
            yield ("stop-first", "stop-first needs `unit`, here or at the top of the file")
        elif self.stop_first and not starts_later(self, self.unit, runbook):
            yield (
                "stop-first",
                f"stop-first leaves {self.unit} down after the update; add a `start` or `restart` of it behind",
            )

    def units(self) -> tuple[str, ...]:
        return (self.unit,) if self.stop_first and self.unit is not None else ()

    def foretold(self) -> dict[str, str]:
        return {} if isinstance(self.to, Template) else {"to": self.to}

    def command(self, memory: Memory, limit: float) -> Command:
        before = memory.before if isinstance(memory, UpdateMemory) else None
        return super(Update, complete(self, **{"from": before or ""})).command(memory, limit)

    def hindered(self, view: HostView, memory: Memory) -> Finding | None:
        # Which version was there is not asked yet, and whether the command can be started does not hang on it.
        return super(Update, complete(self, **{"from": "0"})).hindered(view, memory)

    def take_up(self, view: HostView, memory: UpdateMemory, *, stopped: bool) -> str:
        unknown = super().take_up(view, memory, stopped=stopped)
        if memory.job is None and stopped:
            memory.ended, memory.hold, memory.refusal = False, Hold(), ""
        # What was about to be done then was to stop the unit: the command had not been begun.
        return "" if memory.hold.move == "stop" else unknown

    def undo(self, evidence: Mapping[str, Any]) -> Step[Any] | None:
        before = evidence.get("from")
        return self.model_copy(update={"to": before, "when": None}) if before else None

    def check(self, view: HostView, memory: UpdateMemory) -> Finding:
        finding = self._stands(view, memory)
        if not self.stop_first:
            return finding
        if finding.state in (State.HOLDS, State.FAILS):
            return memory.hold.release(view, finding)
        return memory.hold.keep_down(view, self._unit, finding, began=memory.job is not None)

    def apply(self, host: Host, memory: UpdateMemory) -> None:
        try:
            if not (self.stop_first and memory.hold.act(host, self._unit, memory.run)):
                self.begin(host, memory)
        except BusLost:
            raise
        except (HostError, TemplateError) as error:
            if memory.job is not None or not memory.hold.stops:
                raise
            memory.refusal = error.message  # What is held by now is let go first.

    def timed_out(self, view: HostView, memory: UpdateMemory, last: Finding) -> Finding:
        late = super().timed_out(view, memory, last)
        if memory.job is None:
            why = f"{brief(self.run)} was not begun within {self.time_limit(view):g}s: {last.reason}"
            late = replace(late, reason=why)
        return memory.hold.telling(view, late)

    def let_go(self, host: Host, memory: UpdateMemory) -> None:
        try:
            super().let_go(host, memory)
        finally:
            if memory.hold.taken and not memory.hold.released:
                memory.hold.let_go(host, memory.run, failed=True)

    @property
    def _unit(self) -> str:
        assert self.unit is not None
        return self.unit

    @property
    def _never(self) -> str:
        """Why `to` can never be found, as far as it is known."""
        return "" if isinstance(self.to, Template) else unreachable(self.to, self.pattern)

    def _stands(self, view: HostView, memory: UpdateMemory) -> Finding:
        """Say where the update itself stands, whatever is held stopped for it."""
        if memory.job is None:
            return self._not_begun(view, memory)
        if not memory.ended:
            if view.job(memory.job) is None:
                return self.still_running(memory)
            memory.ended = True
            memory.asked = memory.run.new_question()
        result = view.command_result(memory.job)
        answer = self._asked(view, memory)
        if answer is None:
            return self._asking()
        return self._after(memory, answer) if result.succeeded else self._failed(memory, result, answer)

    def _not_begun(self, view: HostView, memory: UpdateMemory) -> Finding:
        memory.refusal = memory.refusal or memory.hold.refusal(view) or self._never
        if memory.refusal:
            return fails(Verdict.UPDATE_FAILED, memory.refusal, to=self.to, **{"from": memory.before})
        if hindered := self.hindered(view, memory):
            return hindered
        answer = self._asked(view, memory)
        return self._before(memory, answer) if answer else self._asking()

    def _asked(self, view: HostView, memory: UpdateMemory) -> Answer | None:
        """Ask for the installed version; None while the answer is not there."""
        command = memory.run.command(self.version, timeout=ASK_SECONDS, user=self.user, cwd=self.cwd, env=self.env)
        return view.ask(Question(command, asked=memory.asked, timeout=ASK_SECONDS))

    def _asking(self) -> Finding:
        return not_yet(Verdict.VERSION_MISMATCH, f"asking {brief(self.version)}", Wake(pending=True))

    def _why_none(self, answer: Answer) -> str:
        return why_none(brief(self.version), answer, secret=self.secret)

    def _before(self, memory: UpdateMemory, answer: Answer) -> Finding:
        found = told(answer, self.pattern)
        if found == self.to and memory.before not in (None, found):
            # A part of this try that was cut short had brought it in.
            return holds(Verdict.UPDATED, f"{memory.before} -> {found}", to=self.to, **{"from": memory.before})
        memory.before = found
        complete(self.run, **{"from": found or ""})  # What cannot be put in is refused before anything is stopped.
        facts = {"from": found, "to": self.to}
        if found == self.to:
            return holds(Verdict.UP_TO_DATE, f"{found} is installed already", **facts)
        now = f"{found} is installed" if found else f"no version is installed ({self._why_none(answer)})"
        return to_do(Verdict.VERSION_MISMATCH, f"run {brief(self.run)}; {now}", **facts)

    def _failed(self, memory: UpdateMemory, result: CommandResult, answer: Answer) -> Finding:
        """Say that the command failed, and what it left: nothing done, done all the same, or something between."""
        found = told(answer, self.pattern)
        still = " still" if found and found == memory.before else ""
        left = (
            f"{found} is installed{still}"
            if found
            else f"which version is installed cannot be told: {self._why_none(answer)}"
        )
        facts = {"from": memory.before, "to": self.to, "version": found}
        finding = failed(Verdict.UPDATE_FAILED, brief(self.run), result, **facts)
        return replace(finding, reason=f"{finding.reason}; {left}")

    def _after(self, memory: UpdateMemory, answer: Answer) -> Finding:
        found = told(answer, self.pattern)
        facts = {"from": memory.before, "to": self.to, "version": found}
        if found == self.to:
            return holds(Verdict.UPDATED, f"{memory.before or 'nothing'} -> {found}", **facts)
        what = f"{found} is installed, not {self.to}" if found else self._why_none(answer)
        return fails(Verdict.VERSION_MISMATCH, f"the update ended well, but {what}", **facts)


def _names_in(run: str | tuple[str, ...]) -> set[str]:
    """Give the names that a command's templates use."""
    words = run if isinstance(run, tuple) else (run,)
    return {name.root for word in words if isinstance(word, Template) for name in word.references}
