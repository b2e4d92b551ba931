"""The report of a recorded run: what was shown while it ran, with the evidence, and what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from runbook.events import (
    Event,
    Payload,
    RunFinished,
    RunRecorded,
    RunResumed,
    RunStarted,
    StepFinished,
    StepPayload,
    StepRerun,
    StepStarted,
)
from runbook.model import RecordState, RunStatus, StepStatus
from runbook.report.layout import Layout
from runbook.report.text import TextReport
from runbook.util.timespan import format_span

MAX_HOLDERS = 12  # the number of processes of one step that are shown; the record has all
MAX_SOCKETS_SHOWN = 10  # sockets of a process that are shown; the others are counted
MAX_OUTPUT_FILES = 3  # the number of output files that are named

_COLOURS: Mapping[str, str] = {RunStatus.OK: "green", RunStatus.CHANGED: "green", RunStatus.FAILED: "red"}


class StoryReport(TextReport):
    """Shows a run from its events, between two parts that come from the summary of its record."""

    def __init__(self, page: Layout) -> None:
        super().__init__(page)
        self._booted: float | None = None
        self._last = 0.0
        self._advised = ""
        self._ids: dict[str, None] = {}  # of the steps, as `resume --skip` and `--rerun` take them

    def __call__(self, event: Event) -> None:
        """Show one event. An event of another version, or a broken one, must not hide the events after it."""
        self._last = event.time
        try:
            super().__call__(event)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            self._page.entry("note", "", f"`{event.event}` is recorded in a form that this version cannot read")

    def begin(self, summary: Event) -> None:
        """Show what was requested, when, and by whom."""
        run = _read(summary)
        self._page.heading(run.name, f"run {summary.run}")
        manager = ", of the user's own manager" if run.scope == "user" else ""
        # Root may have set SUDO_USER to any name.
        who = f"{run.user}, according to SUDO_USER" if run.user_source == "sudo" else run.user
        self._page.item("began", f"{format_time(summary.time)}, by {who}")
        self._page.item("file", "standard input" if run.file == "-" else run.file)
        if run.units:
            self._page.item("unit", f"{', '.join(run.units)}{manager}")
        self._page.line()

    def end(self, summary: Event) -> None:
        """Show the state of the run, its files, and what to do next."""
        run = _read(summary)
        if state := _describe_status(run, self._last):
            self._page.line()
            self._page.sentence(state, style="yellow")
        for name in run.cut if run.status != RecordState.UNDER_WAY else ():
            self._page.item("cut", f"{name} began to act, and its end is not recorded")
        # The end of the run may have shown it already.
        if f"runbook resume {summary.run}" not in self._advised:
            self._page.item("next", _find_next_command(run, summary.run))
        if run.resumable and self._ids:
            self._page.item("ids", f"--skip and --rerun take: {', '.join(self._ids)}")
        self._page.line()
        for text in _files(run):
            self._page.item("files", text)

    def _show(self, payload: Payload) -> None:
        if isinstance(payload, StepPayload):
            self._ids[payload.id] = None
        match payload:
            case RunStarted():
                self._booted = _number(payload.booted)
                self._ids |= dict.fromkeys(one["id"] for one in payload.steps)
            case StepStarted():
                super()._show(payload)
                # A step without a name is shown by its id, not by its type, of which there may be several.
                own = payload.id.rpartition(".")[2]
                self._names[payload.id] = own if payload.name == payload.type else payload.name
            case RunResumed():
                self._booted = _number(payload.booted)
                self._advised = ""
                self._parents.clear()
                self._page.line()
                self._page.entry("note", "", f"resumed, {format_time(self._last)}")
            case RunFinished():
                super()._show(payload)
                self._advised = payload.hint
                self._page.item("ended", f"{format_time(self._last)}, with exit status {payload.exit}")
            case StepRerun():
                self._page.entry("note", payload.id, "to be carried out again (--rerun)")
            case _:
                super()._show(payload)

    def _finish_step(self, step: StepFinished, name: str) -> None:
        super()._finish_step(step, name)
        for one in step.evidence.get("killed", [])[:MAX_HOLDERS]:
            self._process("killed", one)
        if step.status == StepStatus.FAILED:
            left = [one for port in step.evidence.get("ports", ()) for one in port.get("holders", ())]
            different = [*{str(one.get("pid")): one for one in left}.values()]
            for one in different[:MAX_HOLDERS]:
                self._process("holds", one)
            if len(different) > MAX_HOLDERS:
                self._page.detail(f"holds: {len(different) - MAX_HOLDERS} more processes", depth=self._depth)

    def _process(self, what: str, one: Mapping[str, Any]) -> None:
        """Show a process from the evidence, which was taken while it ran."""
        since = ""
        if self._booted is not None and (began := _number(one.get("started"))) is not None and one.get("pid") != 1:
            since = f", since {format_time(self._booted + began)}"
        listed = [str(text) for text in one.get("sockets", ())]
        more = f" and {len(listed) - MAX_SOCKETS_SHOWN} more" if len(listed) > MAX_SOCKETS_SHOWN else ""
        sockets = ", ".join(listed[:MAX_SOCKETS_SHOWN]) + more
        of = f" in {one['unit']}" if one.get("unit") else ""
        user = f" of user {one['user']}" if one.get("user") else ""
        self._page.detail(f"{what}: PID {one.get('pid')}{of}{user}{since}: {sockets}", depth=self._depth)
        if one.get("command"):
            self._page.quote(str(one["command"]), depth=self._depth)


def print_history(summaries: Iterator[Event], page: Layout) -> None:
    """List runs, two lines for each: ID, time and state; name and units."""
    for summary in summaries:
        run = _read(summary)
        took = format_span(float(f"{run.seconds:.3g}"))
        left = f"{summary.run}  {format_time(summary.time)}  {run.status}"
        style = _COLOURS.get(run.status, "yellow")
        page.line((left, style), (took.rjust(max(page.width - len(left), len(took) + 2)), "dim"))
        units = ", ".join(run.units)
        about = f"{run.name}: {units}" if units and units not in run.name else run.name
        indent = " " * (len(summary.run) + 2)
        who = f"by {run.user}"
        room = page.width - len(indent)
        most = room - len(who) - 2
        about = about if len(about) <= most else f"{about[: most - 3]}..."
        page.line((indent, ""), (about, ""), (who.rjust(room - len(about)), "dim"))


def format_time(seconds: float) -> str:
    """Return a time as local time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def _describe_status(run: RunRecorded, last: float) -> str:
    """Return the state of a run, unless its last event shows it."""
    status = run.status
    until = f"; its last event is from {format_time(last)}" if last else ""
    if run.lost:
        return f"the record is incomplete: {run.lost}{until}"
    if status == RecordState.UNDER_WAY:
        return f"under way, for {format_span(round(run.seconds))} so far"
    if status == RecordState.CUT_SHORT:
        return f"cut short: its program was killed, or the machine went down{until}"
    if status == RecordState.SUPERSEDED and run.superseded:
        by = run.superseded
        return f"superseded: a later run, {by.get('by')}, has acted on {by.get('unit')} since"
    return "abandoned by the operator" if status == RecordState.ABANDONED else ""


def _find_next_command(run: RunRecorded, id_: str) -> str:
    if run.status == RecordState.UNDER_WAY:
        return f"runbook show --follow {id_} watches it"
    if run.lost and run.exit is None:
        return "check the unit itself; this run cannot be resumed, so runbook apply begins anew"
    if not run.resumable:
        return ""
    last = run.cut[-1] if run.cut else ""
    choice = f"; if it cannot determine how {last} ended: --rerun {last} or --skip {last}" if last else ""
    return f"runbook resume {id_} continues it{choice}; --abandon closes it"


def _files(run: RunRecorded) -> Iterator[str]:
    yield run.folder
    for one in run.printed[-MAX_OUTPUT_FILES:]:
        yield f"output/{str(one['file']).rpartition('/')[2]}: output of a command, {one['bytes']} bytes"
    if len(run.printed) > MAX_OUTPUT_FILES:
        yield f"output/ holds {len(run.printed) - MAX_OUTPUT_FILES} more"


def _read(summary: Event) -> RunRecorded:
    assert isinstance(summary.payload, RunRecorded)
    return summary.payload


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
