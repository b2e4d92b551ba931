"""`update`: brings new code in, and sees that it is the version that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from runbook import patterns
from runbook.commands import CommandMemory, CommandStep, brief, failed
from runbook.fields import Limit, Pattern, Shell, Version
from runbook.host.ports import Host, HostView
from runbook.host.tasks import Command, Question
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.step import Memory, Runbook
from runbook.template import Template, complete

VERSION = r"\d+(?:\.\d+)+(?:[-+~][0-9A-Za-z.+~-]*[0-9A-Za-z])?|\d+(?:\.\d+)+[a-z]\w*"
"""The first thing like 1.2 or 1.2.3-rc1 in what a `--version` prints."""

ASK_SECONDS = 60.0
"""How long a `version` command may take; a large Node program needs several seconds on a small machine."""


@dataclass
class UpdateMemory(CommandMemory):
    """Whether the command has ended, and the version that was there before it."""

    ended: bool = False
    before: str | None = None


class Update(CommandStep[UpdateMemory]):
    """Run the update's command in a transient unit of its own; afterwards the version must be `to`.

    Neither the stop of the service nor a lost login can end it half way. Where the version is `to` already,
    nothing is run.
    """

    kind: ClassVar[str] = "update"
    remembers: ClassVar[type[Memory]] = UpdateMemory
    fails_as: ClassVar[Verdict] = Verdict.UPDATE_FAILED
    offers: ClassVar[tuple[str, ...]] = ("from", "to")

    version: Shell = Field(..., description="The command that prints the version which is installed.")
    to: Version = Field(..., description="The version that is wanted: a version, not a tag.")
    pattern: Pattern = Field(VERSION, description="What of the output of `version` is the version.")
    timeout: Limit | None = Field(900.0, description="How long one try may take.")

    def misfits(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        # It is undone by its own command, with the earlier version as `to`.
        words = self.run if isinstance(self.run, tuple) else (self.run,)
        names = {name.root for word in words if isinstance(word, Template) for name in word.references}
        if runbook.rollback == "auto" and "to" not in names:
            yield (
                "run",
                "`rollback: auto` undoes an update by its own command, so its `run` must use `${{ to }}`",
            )

    def command(self, memory: Memory, limit: float) -> Command:
        before = memory.before if isinstance(memory, UpdateMemory) else None
        return super(Update, complete(self, **{"from": before or ""})).command(memory, limit)

    def check(self, view: HostView, memory: UpdateMemory) -> Finding:
        if memory.job is not None and not memory.ended:
            if view.job(memory.job) is None:
                return self.still_running(memory)
            result = view.command_result(memory.job)
            if not result.succeeded:
                return failed(Verdict.UPDATE_FAILED, self.run, result, to=self.to, **{"from": memory.before})
            memory.ended = True
            memory.asked = memory.run.new_question()
        if memory.job is None and (hindered := self.hindered(view, memory)):
            return hindered
        command = memory.run.command(self.version, timeout=ASK_SECONDS, user=self.user, cwd=self.cwd, env=self.env)
        answer = view.ask(Question(command, asked=memory.asked, timeout=ASK_SECONDS))
        if answer is None:
            return not_yet(Verdict.VERSION_MISMATCH, f"asking {brief(self.version)}", Wake(pending=True))
        found = self._version(answer.output) if answer.good else None
        if memory.job is None:
            return self._before(memory, found, answer.detail)
        return self._after(memory, found, answer.detail)

    def apply(self, host: Host, memory: UpdateMemory) -> None:
        self.begin(host, memory)

    def _before(self, memory: UpdateMemory, found: str | None, detail: str) -> Finding:
        memory.before = found
        facts = {"from": found, "to": self.to}
        if found == self.to:
            return holds(Verdict.UP_TO_DATE, f"{found} is installed already", **facts)
        now = f"{found} is installed" if found else f"no version is installed ({brief(self.version)} {detail})"
        return to_do(Verdict.VERSION_MISMATCH, f"run {brief(self.run)}; {now}", **facts)

    def _after(self, memory: UpdateMemory, found: str | None, detail: str) -> Finding:
        facts = {"from": memory.before, "to": self.to, "version": found}
        if found == self.to:
            return holds(Verdict.UPDATED, f"{memory.before or 'nothing'} -> {found}", **facts)
        if found is None:
            why = f"{brief(self.version)} {detail}" if detail else f"{brief(self.version)} prints no version"
            return fails(Verdict.VERSION_MISMATCH, f"the update ended well, but {why}", **facts)
        return fails(
            Verdict.VERSION_MISMATCH,
            f"the update ended well, but {found} is installed, not {self.to}",
            **facts,
        )

    def _version(self, output: str) -> str | None:
        found = patterns.search(self.pattern, output)
        return found[:2][-1] if found else None
