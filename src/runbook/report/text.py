"""A run and a plan, as a person reads them: facts first, then what they mean, then what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import singledispatchmethod
from typing import Any

from runbook.events import (
    Event,
    FixStarted,
    Notice,
    Observed,
    Payload,
    PlanFinished,
    RollbackStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    StepActing,
    StepFinished,
    StepKept,
    StepPayload,
    StepPlanned,
    StepRetrying,
    StepStarted,
    StepWaiting,
    UnitStartedAgain,
)
from runbook.host.facts import JobVerb
from runbook.model import Impact, RunStatus, StepStatus, Verdict
from runbook.report.layout import Layout
from runbook.util.stdio import split_lines
from runbook.util.timespan import format_span
from runbook.util.wording import shorten

MIN_SHOWN_SECONDS = 0.05
"""Seconds from which on it is worth a person's while to read how long a step took."""

MIN_LOGGED_WAIT = 10.0
"""Seconds of waiting from which on a log says what is waited for."""

MAX_OUTPUT_LINES = 6
"""So many last lines of what a failed command printed are shown."""

HALF_GOOD = (RunStatus.ROLLED_BACK, RunStatus.STILL_STARTING)
"""Ends that are not good, but no failure that needs a person at once."""

MAX_PIDS = 4
"""So many processes of one kind are named; the rest is counted."""


class TextReport:
    """Shows a run as it goes on: one line for what went well, the facts for what did not."""

    def __init__(self, page: Layout) -> None:
        self._page = page
        self._parents: list[str] = []
        self._fixing = False
        self._numbers: dict[str, int] = {}
        self._said: set[str] = set()
        self._names: dict[str, str] = {}
        self._last_reason = ""
        self._run = ""

    def __call__(self, event: Event) -> None:
        """Print one event, if a person needs it."""
        self._run = event.run
        if (payload := event.payload) is not None:
            self._show(payload)

    @singledispatchmethod
    def _show(self, payload: Payload) -> None:
        """Print an event of this type. Those without a method of their own are not shown."""

    @_show.register
    def _run_started(self, run: RunStarted) -> None:
        self._page.heading(run.name, f"run {self._run}")

    @_show.register
    def _run_resumed(self, run: RunResumed) -> None:
        self._page.heading(run.name, f"run {self._run} goes on")
        if failed := run.rollback:
            self._page.entry("back", "roll back", f"gone on with; the run had failed at {failed}")

    @_show.register
    def _step_kept(self, step: StepKept) -> None:
        mark = "--" if step.status == StepStatus.FAILED else "done"
        depth = 1 if "." in step.id.removeprefix("rollback.") else 0
        self._page.entry(mark, self._name(step), step.reason, depth=depth)

    @_show.register
    def _rollback_started(self, rollback: RollbackStarted) -> None:
        self._parents.clear()
        updates = [one for one in rollback.updates if one["from"]]
        versions = [f"{one['id']} to {one['from']}" if len(updates) > 1 else f"to {one['from']}" for one in updates]
        self._page.entry("back", "roll back", ", ".join(reversed(versions)))

    @_show.register
    def _step_started(self, step: StepStarted) -> None:
        self._names[step.id] = step.name
        if step.holds_steps:
            self._page.entry("", step.name, "")
            self._parents.append(step.id)
            self._fixing = False
        else:
            self._status(step.name, "")

    @_show.register
    def _step_waiting(self, step: StepWaiting) -> None:
        name, patience = self._name(step), f"at most {format_span(max(1, round(step.left)))} more"
        self._status(name, f"{patience}: {step.reason}")
        if step.seconds >= MIN_LOGGED_WAIT:
            # Where nothing can be written over, a line now and then says that it is not stuck.
            waited = f"{format_span(round(step.seconds))}: {step.reason}; {patience}"
            self._page.log("..", name, waited, depth=len(self._parents))

    @_show.register
    def _step_acting(self, step: StepActing) -> None:
        self._status(self._name(step), step.reason)

    def _name(self, step: StepPayload) -> str:
        """Return what people read: the step's name, or its type."""
        named = isinstance(step, StepFinished | StepPlanned) and step.name
        return str(named or self._names.get(step.id, step.type))

    @_show.register
    def _fix_started(self, _fix: FixStarted) -> None:
        self._fixing = True

    @_show.register
    def _unit_started_again(self, again: UnitStartedAgain) -> None:
        self._page.entry("note", JobVerb.START, f"{again.unit}, which the fix had stopped", depth=len(self._parents))

    @_show.register
    def _step_retrying(self, step: StepRetrying) -> None:
        depth = len(self._parents)
        pause = format_span(step.pause)
        self._page.entry("again", self._name(step), f"{step.verdict}; try {step.attempt + 1} in {pause}", depth=depth)
        self._page.detail(step.reason, depth=depth)

    @_show.register
    def _step_finished(self, step: StepFinished) -> None:
        self._page.idle()
        self._names[step.id] = self._name(step)
        if self._parents and step.id == self._parents[-1]:
            self._parents.pop()
            self._fixing = False
            if step.status == StepStatus.FAILED and step.verdict != Verdict.STILL_STARTING:
                self._failed(step, "", len(self._parents))
            return
        depth = len(self._parents)
        took = format_span(step.seconds) if step.seconds >= MIN_SHOWN_SECONDS else ""
        if step.status == StepStatus.FAILED:
            self._failed(step, took, depth)
            return
        if step.status == StepStatus.SKIPPED:
            self._page.entry("skip", self._name(step), step.reason, depth=depth)
            return
        # What mends is marked as that, but the checks after it are checks.
        mark = "fix" if self._fixing and ".fix." in step.id else "ok"
        name = self._name(step)
        # A command goes by its step's name, which stands before it here.
        self._page.entry(mark, name, step.reason.removeprefix(f'"{name}" '), took, depth=depth)

    def _failed(self, step: StepFinished, took: str, depth: int) -> None:
        # What a step has just said, the one that holds it need not say again.
        reason = step.reason.removesuffix(f": {self._last_reason}")
        self._last_reason = step.reason
        goes_on = "; the run goes on" if step.continues else ""
        self._page.entry("--", self._name(step), f"{step.verdict or ''}{goes_on}", took, depth=depth)
        self._page.detail(reason, depth=depth)
        self._quote(step, depth)

    def _quote(self, step: StepFinished | StepPlanned, depth: int) -> None:
        """Show what a failed command, or a unit, wrote at last: many say what is wrong first, and then that it is."""
        text = str(step.evidence.get("output") or "") or "\n".join(step.evidence.get("journal", ()))
        printed = [line.rstrip() for line in split_lines(text) if line.strip()]
        if printed and step.reason.endswith(shorten(printed[-1].strip(), len(step.reason))):
            printed.pop()  # The reason ends with it.
        for line in printed[-MAX_OUTPUT_LINES:]:
            self._page.quote(line, depth=depth)

    @_show.register
    def _notice(self, notice: Notice) -> None:
        self._page.entry("note", "", notice.text)

    @_show.register
    def _run_finished(self, end: RunFinished) -> None:
        begun = end.status not in (RunStatus.NOT_BEGUN, RunStatus.INTERRUPTED)
        self._page.idle()
        if end.status != RunStatus.NOT_BEGUN:
            self._page.line()
        style = "yellow" if end.status in (*HALF_GOOD, RunStatus.REMEDIATED) else "green"
        if not begun:
            # The reason begins with that word itself.
            self._page.sentence(end.reason, style="red")
        elif end.exit and end.step:
            # The steps' own lines say the rest.
            self._page.sentence(self._ended(end), style="red" if end.status == RunStatus.FAILED else style)
        else:
            self._page.sentence(
                f"{end.status}: {end.reason}",
                style=style if end.status in HALF_GOOD or not end.exit else "red",
            )
        for name, text in (("back", end.back), ("now", end.now), ("next", end.hint), ("log", end.log)):
            if text:
                self._page.item(name, text)

    def _ended(self, end: RunFinished) -> str:
        """Say in a line how a run ended that did not end well."""
        status, verdict = end.status, end.verdict
        name = self._names.get(end.step, end.step)
        if status == RunStatus.ROLLED_BACK:
            return f"rolled-back: it had failed at {name}: {verdict}"
        after = end.after
        if after is None:
            alone = "still-starting: the unit was left alone; nothing was fixed"
            return alone if status == RunStatus.STILL_STARTING else f"{status} at {name}: {verdict}"
        first = f"{self._names.get(after['step'], after['step'])}: {after['verdict']}"
        if status == RunStatus.STILL_STARTING:
            return f"still-starting: it had failed at {first}; the earlier version was left alone"
        where = "the roll back failed" if end.step.startswith("rollback.") else "it was rolled back, but it failed"
        return f"failed at {first}; {where} at {name}: {verdict}"

    def _status(self, name: str, reason: str) -> None:
        self._page.status(f"{name}  {reason}")

    # -- the plan ---------------------------------------------------------------------------------------------

    @_show.register
    def _observed(self, seen: Observed) -> None:
        self._page.heading(seen.name, "nothing is changed")
        self._numbers = {}
        self._said = set()
        if seen.systemd:
            for position, (who, text) in enumerate(_describe_sources(seen, seen.systemd)):
                self._page.entry("now" if position == 0 else "", who, text)
            self._page.line()

    @_show.register
    def _step_planned(self, step: StepPlanned) -> None:
        nested = [part for part in step.id.split(".") if part in ("check", "fix")]
        if not nested:
            self._numbers[step.id] = len(self._numbers) + 1
        text = step.reason
        if text.startswith(("would fix: ", "could not fix: ")):
            text = text.partition(":")[0]  # The checks, which follow, give the reason.
        elif step.impact == Impact.READ_ONLY and step.verdict:
            # Two checks that found the same need not tell it twice.
            told = any(said.startswith(text) for said in self._said)
            text = step.verdict if told else f"{step.verdict}: {text}"
        self._said.add(step.reason)
        if not nested and step.undetermined_by:
            steps = self._steps(step.undetermined_by)
            text += f"; {steps} that perhaps" if step.verdict == Verdict.HOLDS else f", unless {steps} this"
        mark = "fix" if nested and nested[-1] == "fix" else str(self._numbers.get(step.id, ""))
        self._page.entry(mark, self._name(step), text, depth=1 if nested else 0)
        if step.verdict == Verdict.COMMAND_FAILED:
            self._quote(step, 1 + bool(nested))

    def _steps(self, ids: Sequence[str]) -> str:
        numbers = [str(self._numbers.get(one, one)) for one in ids]
        if len(numbers) == 1:
            return f"step {numbers[0]} changes"
        return f"steps {', '.join(numbers[:-1])} or {numbers[-1]} change"

    @_show.register
    def _plan_finished(self, end: PlanFinished) -> None:
        self._page.line()
        self._page.sentence(end.reason if not end.exit else f"{end.status}: {end.reason}")
        if end.hint:
            self._page.item("next", end.hint)


def _describe_sources(seen: Observed, unit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what systemd and the kernel tell at this moment."""
    said = [("systemd", f"{seen.unit} is {unit['says']}")]
    restarts = unit["NRestarts"]
    if restarts:
        ended = f", the last exited with status {unit['ExecMainStatus']}" if not unit["MainPID"] else ""
        said.append(("", f"{restarts} restart{'' if restarts == 1 else 's'} by systemd{ended}"))
    if starts := seen.starts:
        said.append(("", starts["says"]))
    for number, port in enumerate(seen.ports or ()):
        said.append(("kernel" if number == 0 else "", port["reason"]))
        said += [("", text) for text in _holders(port["holders"])]
    return said


def _holders(holders: list[Mapping[str, Any]]) -> list[str]:
    """Say what each holds, since when, and whose it is; workers of one master are one line."""
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for holder in holders:
        alike.setdefault((", ".join(holder["sockets"]), holder["why"]), []).append(holder)
    told = []
    for (sockets, why), group in alike.items():
        pids = [str(holder["pid"]) for holder in group]
        more = f" and {len(pids) - MAX_PIDS} more" if len(pids) > MAX_PIDS else ""
        oldest = min(holder["started"] for holder in group)
        # How long systemd runs says nothing about a socket of its.
        age = format_span(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - oldest))
        since = "" if pids == ["1"] else f" for {age}"
        each = "each: " if len(pids) > 1 else ""
        told.append(f"PID {', '.join(pids[:MAX_PIDS])}{more}: {sockets}{since}; {each}{why}")
    return told
