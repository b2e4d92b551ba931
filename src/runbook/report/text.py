"""The report of a run and of a plan as text: first the facts, then their meaning, then what to do."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from runbook import events
from runbook.host.facts import JobVerb
from runbook.model import Impact, RunStatus, StepStatus, Verdict
from runbook.report.layout import Layout
from runbook.util.stdio import split_lines
from runbook.util.timespan import format_span
from runbook.util.wording import shorten

MIN_SHOWN_SECONDS = 0.05  # the duration of a step is shown from so many seconds on
MAX_OUTPUT_LINES = 6  # the number of last output lines of a failed command that are shown

MAX_PIDS = 4  # the number of processes of one kind that are named; the rest is counted

HALF_GOOD = (RunStatus.ROLLED_BACK, RunStatus.STILL_STARTING)
"""Statuses in yellow although the exit status is not 0: the service runs, or is still starting."""


class TextReport:
    """Shows a run while it runs: one line for a step that passed, the facts for one that failed."""

    def __init__(self, page: Layout) -> None:
        self._page = page
        self._parents: list[str] = []
        self._fixing = False
        self._numbers: dict[str, int] = {}
        self._conditional_fixes: dict[str, list[str]] = {}  # the names of the fixes by their remediation
        self._reasons: set[str] = set()
        self._names: dict[str, str] = {}
        self._last_reason = ""
        self._run = ""
        self._logged: dict[str, int] = {}  # of each step how many times REPORT_INTERVAL its last report had waited

    def __call__(self, event: events.Event) -> None:
        """Show one event, if its name is one that is shown."""
        self._run = event.run
        if event.payload is not None:
            self._show(event.payload)

    def _show(self, payload: events.Payload) -> None:
        match payload:
            case events.StepPlanned():
                self._show_plan_of_step(payload)
            case events.StepPayload():
                self._open_parent(payload.id)
                self._show_step(payload)
            case events.RunStarted() | events.RunResumed():
                self._show_beginning(payload)
            case events.RollbackStarted():
                self._parents.clear()
                versions = {one["id"]: f"to {one['from']}" for one in reversed(payload.updates) if one["from"]}
                several = [f"{update} {version}" for update, version in versions.items()]
                self._page.entry("back", "rollback", ", ".join(several if len(several) > 1 else versions.values()))
            case events.FixStarted():
                self._fixing = True
            case events.UnitStartedAgain(unit=unit):
                self._page.entry("note", JobVerb.START, f"{unit}, which the fix had stopped", depth=self._depth)
            case events.Notified(to=to, unit=unit):
                self._page.entry("note", "", f"{unit} notifies {to}" if unit else f"{to} was notified")
            case events.Notice(text=text):
                self._page.entry("note", "", text)
            case events.Waiting(name=name):
                self._log_wait("", name, payload)
            case events.RunFinished():
                self._show_end(payload)
            case events.Observed():
                self._show_observed(payload)
            case events.PlanFinished():
                self._show_conditional_fixes()
                self._page.line()
                self._page.sentence(f"{payload.status}: {payload.reason}" if payload.exit else payload.reason)
                self._page.item("next", payload.hint)

    def _show_beginning(self, begun: events.RunStarted | events.RunResumed) -> None:
        resumed = ", resumed" if isinstance(begun, events.RunResumed) else ""
        self._page.heading(begun.name, f"run {self._run}{resumed}")
        if failed := begun.rollback:
            self._page.entry("back", "rollback", f"continues; the run had failed at {failed}")

    def _show_step(self, step: events.StepPayload) -> None:
        name = self._name(step)
        match step:
            case events.StepStarted():
                self._names[step.id] = step.name
            case events.StepWaiting():
                self._log_wait(step.id, name, step)
            case events.StepRetrying(verdict=verdict):
                again = f"{verdict}; attempt {step.attempt + 1} in {format_span(step.pause)}"
                self._page.entry("again", name, again, depth=self._depth)
                self._page.detail(step.reason, depth=self._depth)
            case events.StepFinished():  # before its base class
                self._finish_step(step, name)
            case events.StepKept():
                mark = "--" if step.status == StepStatus.FAILED else "done"
                depth = 1 if "." in step.id.removeprefix("rollback.") else 0
                self._page.entry(mark, name, step.reason, depth=depth)

    def _log_wait(self, key: str, name: str, wait: events.StepWaiting | events.Waiting) -> None:
        """Show from time to time that the run is not stuck, where there is no live view.

        Not for each event: what is waited for may change all the time.
        """
        count = int(wait.seconds // events.REPORT_INTERVAL)
        if count > self._logged.get(key, 0):
            has_own_limit = isinstance(wait, events.StepWaiting) and wait.opens_in is not None
            most = "" if has_own_limit else f"; at most {format_span(max(1, round(wait.left)))} more"
            waited = format_span(round(wait.seconds))
            self._page.log("..", name, f"{waited}: {wait.reason}{most}", depth=self._depth)
        self._logged[key] = count

    @property
    def _depth(self) -> int:
        """How many remediations the step is in."""
        return len(self._parents)

    def _open_parent(self, step: str) -> None:
        """Show the name of the remediation that a step belongs to, before the first of its steps."""
        parent = re.match(r"(.+)\.(?:check|fix)\.", step)
        if parent and parent[1] not in self._parents:
            self._page.entry("", self._names.get(parent[1], parent[1]), "")
            self._parents.append(parent[1])
            self._fixing = False

    def _name(self, step: events.StepPayload) -> str:
        """Return the name of a step, or else its type."""
        named = isinstance(step, events.StepFinished | events.StepPlanned) and step.name
        return str(named or self._names.get(step.id, step.type))

    def _finish_step(self, step: events.StepFinished, name: str) -> None:
        self._names[step.id] = name
        took = format_span(step.seconds) if step.seconds >= MIN_SHOWN_SECONDS else ""
        if self._parents[-1:] == [step.id]:
            self._parents.pop()
            self._fixing = False
            if step.status == StepStatus.FAILED and step.verdict != Verdict.STILL_STARTING:
                self._fail_step(step, name, "")
        elif step.status == StepStatus.FAILED:
            self._fail_step(step, name, took)
        elif step.status == StepStatus.SKIPPED:
            self._page.entry("skip", name, step.reason, depth=self._depth)
        else:
            # The checks that follow a fix are not part of it.
            mark = "fix" if self._fixing and ".fix." in step.id else "ok"
            # The reason of a command begins with the step's name, which is already in its column.
            self._page.entry(mark, name, step.reason.removeprefix(f'"{name}" '), took, depth=self._depth)

    def _fail_step(self, step: events.StepFinished, name: str, took: str) -> None:
        # A remediation repeats the reason of its last step, which is in the lines above.
        reason = step.reason.removesuffix(f": {self._last_reason}")
        self._last_reason = step.reason
        continues = "; the run continues" if step.continues else ""
        self._page.entry("--", name, f"{step.verdict or ''}{continues}", took, depth=self._depth)
        self._page.detail(reason, depth=self._depth)
        self._quote(step, self._depth)

    def _quote(self, step: events.StepFinished | events.StepPlanned, depth: int) -> None:
        """Show the last lines of a failed command or unit: the cause is often a few lines above the last one."""
        lines = step.evidence.get("traceback") or step.evidence.get("journal", ())
        text = str(step.evidence.get("output") or "") or "\n".join(lines)
        printed = [line.rstrip() for line in split_lines(text) if line.strip()]
        by_systemd = [f"systemd: {line}" for line in step.evidence.get("systemd", ())]
        if printed and step.reason.endswith(shorten(printed[-1].strip(), len(step.reason))):
            printed.pop()  # The reason already contains it.
        for line in (*by_systemd, *printed[-MAX_OUTPUT_LINES:]):
            self._page.quote(line, depth=depth)

    def _show_end(self, end: events.RunFinished) -> None:
        if end.status != RunStatus.NOT_BEGUN:
            self._page.line()
        good = end.status in HALF_GOOD or not end.exit
        style = ("yellow" if end.status in (*HALF_GOOD, RunStatus.REMEDIATED) else "green") if good else "red"
        text = f"{end.status}: {end.reason}"
        if end.status in (RunStatus.NOT_BEGUN, RunStatus.INTERRUPTED):
            text = end.reason  # It begins with the status.
        elif end.exit and end.step:
            text = self._describe_failure(end)  # The reason is in the lines of the step.
        self._page.sentence(text, style=style)
        items = {"cause": end.cause, "back": end.back, "now": end.now, "next": end.hint, "log": end.log}
        for name, item in items.items():
            self._page.item(name, item)

    def _describe_failure(self, end: events.RunFinished) -> str:
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

    # -- the plan ---------------------------------------------------------------------------------------------

    def _show_observed(self, seen: events.Observed) -> None:
        self._page.heading(seen.name, "nothing is changed")
        if seen.systemd:
            for position, (who, text) in enumerate(_describe_sources(seen, seen.systemd)):
                self._page.entry("now" if position == 0 else "", who, text)
            self._page.line()

    def _show_plan_of_step(self, step: events.StepPlanned) -> None:
        nested = [part for part in step.id.split(".") if part in ("check", "fix")]
        if not nested:
            self._numbers[step.id] = len(self._numbers) + 1
        text = step.reason
        parent = step.id.rpartition(".fix.")[0]
        if parent in self._conditional_fixes:
            refused = f" ({text})" if text.startswith("would fail") else ""
            self._conditional_fixes[parent].append(self._name(step) + refused)
            return
        if step.verdict and not nested and text.startswith(("would check then", "every check holds now")):
            self._conditional_fixes[step.id] = []  # They come last: nearly always, none of them is done.
        if text.startswith(("would fix: ", "could not fix: ")):
            text = text.partition(":")[0]  # The checks, which follow, give the reason.
        elif step.impact == Impact.READ_ONLY and step.verdict:
            # If two checks have the same reason, it is shown once.
            shown = any(reason.startswith(text) for reason in self._reasons)
            text = step.verdict if shown else f"{step.verdict}: {text}"
            text = f"now {text}" if step.id.rpartition(".check.")[0] in self._conditional_fixes else text
        self._reasons.add(step.reason)
        if not nested and step.undetermined_by:
            text = self._add_doubt(text, step.undetermined_by)
        mark = "fix" if nested and nested[-1] == "fix" else str(self._numbers.get(step.id, ""))
        self._page.entry(mark, self._name(step), text, depth=1 if nested else 0)
        if step.verdict == Verdict.COMMAND_FAILED:
            self._quote(step, 1 + bool(nested))

    def _add_doubt(self, text: str, ids: Sequence[str]) -> str:
        """Return a text with the earlier steps that decide whether it holds."""
        *most, last = [str(self._numbers.get(one, one)) for one in ids]
        if text.startswith("would check then"):
            after = f"after steps {', '.join(most)} and {last}" if most else f"after step {last}"
            return text.replace("would check then", f"would check {after}", 1)
        return f"{text}, unless " + (
            f"steps {', '.join(most)} or {last} change this" if most else f"step {last} changes this"
        )

    def _show_conditional_fixes(self) -> None:
        """Show, in a line each, what is done only if a check fails."""
        for step, fixes in self._conditional_fixes.items():
            self._page.line()
            self._page.sentence(f"only if a check of step {self._numbers.get(step, step)} fails: {', '.join(fixes)}")


def _describe_sources(seen: events.Observed, unit: Mapping[str, Any]) -> list[tuple[str, str]]:
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
