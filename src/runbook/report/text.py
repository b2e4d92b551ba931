"""The report of a run and of a plan as text: first the facts, then their meaning, then what to do."""

from __future__ import annotations

import re
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

MIN_SHOWN_SECONDS = 0.05  # the duration of a step is shown from so many seconds on
MIN_LOGGED_WAIT = 10.0  # without a live line, what a step waits for is shown after so many seconds
MAX_OUTPUT_LINES = 6  # the number of last output lines of a failed command that are shown

HALF_GOOD = (RunStatus.ROLLED_BACK, RunStatus.STILL_STARTING)
"""Statuses in yellow although the exit status is not 0: the service runs, or is still starting."""

MAX_PIDS = 4  # the number of processes of one kind that are named; the rest is counted


class TextReport:
    """Shows a run while it runs: one line for a step that passed, the facts for one that failed."""

    def __init__(self, page: Layout) -> None:
        self._page = page
        self._parents: list[str] = []
        self._fixing = False
        self._numbers: dict[str, int] = {}
        self._reasons: set[str] = set()
        self._names: dict[str, str] = {}
        self._last_reason = ""
        self._run = ""

    def __call__(self, event: Event) -> None:
        """Show one event, if its name is one that is shown."""
        self._run = event.run
        payload = event.payload
        if isinstance(payload, StepPayload) and not isinstance(payload, StepPlanned):
            self._open_parent(payload.id)
        if payload is not None:
            self._show(payload)

    def _open_parent(self, step: str) -> None:
        """Show the name of the remediation that a step belongs to, before the first of its steps."""
        parent = re.match(r"(.+)\.(?:check|fix)\.", step)
        if parent and parent[1] not in self._parents:
            self._page.entry("", self._names.get(parent[1], parent[1]), "")
            self._parents.append(parent[1])
            self._fixing = False

    @singledispatchmethod
    def _show(self, payload: Payload) -> None:
        """Show an event of this type. A type without a method of its own is not shown."""

    @_show.register
    def _run_started(self, run: RunStarted) -> None:
        self._page.heading(run.name, f"run {self._run}")

    @_show.register
    def _run_resumed(self, run: RunResumed) -> None:
        self._page.heading(run.name, f"run {self._run}, resumed")
        if failed := run.rollback:
            self._page.entry("back", "roll back", f"continues; the run had failed at {failed}")

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
        self._status(step.name, "")

    @_show.register
    def _step_waiting(self, step: StepWaiting) -> None:
        name, limit = self._name(step), f"at most {format_span(max(1, round(step.left)))} more"
        self._status(name, f"{limit}: {step.reason}")
        if step.seconds >= MIN_LOGGED_WAIT:
            # A log has no live line: an entry from time to time shows that the run is not stuck.
            waited = f"{format_span(round(step.seconds))}: {step.reason}; {limit}"
            self._page.log("..", name, waited, depth=len(self._parents))

    @_show.register
    def _step_acting(self, step: StepActing) -> None:
        self._status(self._name(step), step.reason)

    def _name(self, step: StepPayload) -> str:
        """Return the name of a step, or else its type."""
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
        self._page.entry(
            "again", self._name(step), f"{step.verdict}; attempt {step.attempt + 1} in {pause}", depth=depth
        )
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
        # The checks that follow a fix are not part of it.
        mark = "fix" if self._fixing and ".fix." in step.id else "ok"
        name = self._name(step)
        # The reason of a command begins with the step's name, which is already in its column.
        self._page.entry(mark, name, step.reason.removeprefix(f'"{name}" '), took, depth=depth)

    def _failed(self, step: StepFinished, took: str, depth: int) -> None:
        # A remediation repeats the reason of its last step, which is in the lines above.
        reason = step.reason.removesuffix(f": {self._last_reason}")
        self._last_reason = step.reason
        continues = "; the run continues" if step.continues else ""
        self._page.entry("--", self._name(step), f"{step.verdict or ''}{continues}", took, depth=depth)
        self._page.detail(reason, depth=depth)
        self._quote(step, depth)

    def _quote(self, step: StepFinished | StepPlanned, depth: int) -> None:
        """Show the last lines of a failed command or unit: the cause is often a few lines above the last one."""
        text = str(step.evidence.get("output") or "") or "\n".join(step.evidence.get("journal", ()))
        printed = [line.rstrip() for line in split_lines(text) if line.strip()]
        if printed and step.reason.endswith(shorten(printed[-1].strip(), len(step.reason))):
            printed.pop()  # The reason already contains it.
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
            # The reason itself begins with the status.
            self._page.sentence(end.reason, style="red")
        elif end.exit and end.step:
            # The reason is in the lines of the step.
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
        """Return one line about a run that did not end well."""
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
        where = "the rollback failed" if end.step.startswith("rollback.") else "it was rolled back, but it failed"
        return f"failed at {first}; {where} at {name}: {verdict}"

    def _status(self, name: str, reason: str) -> None:
        self._page.status(f"{name}  {reason}")

    # -- the plan ---------------------------------------------------------------------------------------------

    @_show.register
    def _observed(self, seen: Observed) -> None:
        self._page.heading(seen.name, "nothing is changed")
        self._numbers = {}
        self._reasons = set()
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
            # If two checks have the same reason, it is shown once.
            shown = any(reason.startswith(text) for reason in self._reasons)
            text = step.verdict if shown else f"{step.verdict}: {text}"
        self._reasons.add(step.reason)
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
    """Return what systemd and the kernel report now, each line with its source."""
    lines = [("systemd", f"{seen.unit} is {unit['says']}")]
    restarts = unit["NRestarts"]
    if restarts:
        ended = f", the last exited with status {unit['ExecMainStatus']}" if not unit["MainPID"] else ""
        lines.append(("", f"{restarts} restart{'' if restarts == 1 else 's'} by systemd{ended}"))
    if starts := seen.starts:
        lines.append(("", starts["says"]))
    for number, port in enumerate(seen.ports or ()):
        lines.append(("kernel" if number == 0 else "", port["reason"]))
        lines += [("", text) for text in _holders(port["holders"])]
    return lines


def _holders(holders: list[Mapping[str, Any]]) -> list[str]:
    """Return a line for each kind of holder: sockets, age, why it has its role. Workers of one master share a line."""
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for holder in holders:
        alike.setdefault((", ".join(holder["sockets"]), holder["why"]), []).append(holder)
    lines = []
    for (sockets, why), group in alike.items():
        pids = [str(holder["pid"]) for holder in group]
        more = f" and {len(pids) - MAX_PIDS} more" if len(pids) > MAX_PIDS else ""
        oldest = min(holder["started"] for holder in group)
        # The age of systemd itself is not the age of its socket.
        age = format_span(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - oldest))
        since = "" if pids == ["1"] else f" for {age}"
        each = "each: " if len(pids) > 1 else ""
        lines.append(f"PID {', '.join(pids[:MAX_PIDS])}{more}: {sockets}{since}; {each}{why}")
    return lines
