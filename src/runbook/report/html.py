"""The report of a run, and the list of runs, as a page for a browser: one file that needs no network and no script.

A page shows text from commands, units and process names, which others control. So every text is escaped, and the
Content-Security-Policy of the page permits nothing but its style. The templates are in the folder `pages`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from runbook.events import Event, EventName, RunRecorded
from runbook.report.lanes import make_lanes
from runbook.report.story import format_time
from runbook.util.stdio import escape_controls
from runbook.util.timespan import format_span

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_PAGE_TEXT = 100_000  # characters of a text; the record has the rest
_ACTIVE_STATES = (
    "active",
    "activating",
    "deactivating",
    "failed",
    "inactive",
    "maintenance",
    "refreshing",
    "reloading",
)
_LOOKS = {  # the colour and the sign of each status of a step or a run
    "ok": ("good", "✓"),
    "changed": ("good", "✓"),
    "remediated": ("warn", "✚"),
    "rolled-back": ("warn", "↶"),
    "failed": ("bad", "✗"),
    "skipped": ("none", "○"),
}
_OTHER_LOOK = ("warn", "!")


def make_run_page(summary: Event, events: Sequence[Event], story: str, outputs: Iterable[tuple[str, str]]) -> bytes:
    """Return the page of a run: its events, what `runbook show` prints, and the output of its commands."""
    run = summary.payload
    assert isinstance(run, RunRecorded)
    lanes = make_lanes(events)
    look, sign = _find_look(run.status)
    ended = next((event.data for event in reversed(events) if event.event == EventName.RUN_FINISHED), {})
    last = {str(e.data.get("id")): str(e.data.get("status")) for e in events if e.event == EventName.STEP_FINISHED}

    def after(time: float) -> str:
        return f"{time - summary.time:+.1f} s"

    environment = _environment().overlay()
    environment.filters["after"] = after
    return _render(
        environment,
        "run.html",
        title=f"{run.name}: run {summary.run}",
        summary=run,
        look=look,
        sign=sign,
        sentences=[str(ended[name]) for name in ("cause", "now", "hint") if ended.get(name)],
        counts=[(f"step{'s' * (len(last) != 1)}", len(last)), *Counter(last.values()).items()],
        facts=list(_list_facts(summary, run)),
        lanes=lanes,
        clashes=any(moment.is_contradiction for lane in lanes for moment in lane.moments),
        states=_ACTIVE_STATES,
        steps=_group_steps(events),
        outputs=outputs,
        story=story,
        events=[_describe_event(event) for event in events],
    )


def make_history_page(runs: Iterable[tuple[Event, Iterable[Event]]], title: str) -> bytes:
    """Return the page of several runs, each with its summary and its events."""
    rows = [_describe_run(summary, events) for summary, events in runs]
    counts = Counter(str(row["summary"].status) for row in rows)
    return _render(_environment(), "history.html", title=title, runs=rows, counts=list(counts.items()))


@cache
def _environment() -> Environment:
    # Only a page needs Jinja2, which takes a while to import.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    return Environment(
        loader=PackageLoader("runbook.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_make_visible,
    )


def _make_visible(value: object) -> object:
    """Return a text without control characters, and not too long. It is escaped afterwards."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    shown = (
        value
        if len(value) <= MAX_PAGE_TEXT
        else f"{value[:MAX_PAGE_TEXT]}\n… {len(value) - MAX_PAGE_TEXT} more characters"
    )
    return escape_controls(str(shown))


def _render(environment: Environment, name: str, **values: object) -> bytes:
    page = environment.get_template(name).render(values)
    return f"{page}\n".encode(errors="backslashreplace")  # JSON can contain a lone surrogate, as UTF-8 cannot.


def _find_look(status: str) -> tuple[str, str]:
    return _LOOKS.get(status, _OTHER_LOOK)


def _list_facts(summary: Event, run: RunRecorded) -> Iterator[tuple[str, str]]:
    yield "ID", summary.run
    yield "unit", ", ".join(run.units) or "none"
    yield "began", f"{format_time(summary.time)}, by {run.user}"
    yield "took", _format_seconds(run.seconds)
    yield "file", "standard input" if run.file == "-" else run.file
    if run.exit is not None:
        yield "exit status", str(run.exit)


def _format_seconds(seconds: object) -> str:
    return format_span(float(f"{seconds:.3g}")) if isinstance(seconds, int | float) else ""


def _group_steps(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return the steps in the order of their ends. Equal results in a row become one."""
    waits: dict[str, Counter[str]] = {}
    steps: list[dict[str, Any]] = []
    for event in events:
        id_ = str(event.data.get("id", ""))
        if event.event == EventName.STEP_WAITING:
            waits.setdefault(id_, Counter())[str(event.data.get("reason", ""))] += 1
        elif event.event in (EventName.STEP_FINISHED, EventName.STEP_RETRYING):
            step = _describe_step(id_, event)
            same = ("id", "status", "verdict", "reason")
            if steps and all(steps[-1][key] == step[key] for key in same):
                step["times"] = steps.pop()["times"] + 1
            step["waits"] = list(waits.pop(id_, Counter()).items())
            steps.append(step)
    return steps


def _describe_step(id_: str, event: Event) -> dict[str, Any]:
    data = event.data
    evidence = data.get("evidence")
    facts = dict(evidence) if isinstance(evidence, Mapping) else {}
    output = facts.pop("output", "")
    status = "failed, tried again" if event.event == EventName.STEP_RETRYING else str(data.get("status", ""))
    look, sign = _find_look(status.partition(",")[0])
    return {
        "id": id_,
        "depth": id_.count("."),
        "look": look,
        "sign": sign,
        "status": status,
        "verdict": str(data.get("verdict") or ""),
        "reason": str(data.get("reason", "")),
        "took": _format_seconds(data.get("seconds")),
        "times": 1,
        "output": output if isinstance(output, str) else _to_json(output),
        "evidence": _to_json(facts) if facts else "",
    }


def _describe_run(summary: Event, events: Iterable[Event]) -> dict[str, Any]:
    run = summary.payload
    assert isinstance(run, RunRecorded)
    look, sign = _find_look(run.status)
    return {
        "id": summary.run,
        "summary": run,
        "look": look,
        "sign": sign,
        "began": format_time(summary.time),
        "took": _format_seconds(run.seconds),
        "updates": list(_list_updates(events)),
    }


def _list_updates(events: Iterable[Event]) -> Iterator[str]:
    """Yield each change of a version."""
    for event in events:
        evidence = event.data.get("evidence")
        if event.event == EventName.STEP_FINISHED and isinstance(evidence, Mapping):
            old, new = evidence.get("from"), evidence.get("to")
            if old and new and old != new:
                failed = " (failed)" if event.data.get("status") == "failed" else ""
                yield f"{event.data.get('id')}: {old} → {new}{failed}"


def _describe_event(event: Event) -> tuple[str, str]:
    facts = json.loads(event.to_line())
    words = " ".join(str(event.data.get(name) or "") for name in ("id", "status", "verdict"))
    return f"{facts['time']} {event.event} {words}".rstrip(), _to_json(facts)


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
