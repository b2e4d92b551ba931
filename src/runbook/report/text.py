"""A run and a plan, as a person reads them: facts first, then what they mean, then what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from runbook.model import Event, Verdict
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

    def __call__(self, event: Event) -> None:
        """Print one event, if a person needs it."""
        tell = getattr(self, "_" + event.event.replace("-", "_"), None)
        if tell is not None:
            tell(event, event.data)

    def _run_started(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.heading(data["name"], f"run {event.run}")

    def _run_resumed(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.heading(data["name"], f"run {event.run} goes on")
        if failed := data.get("rollback"):
            self._page.entry("back", "roll back", f"gone on with; the run had failed at {failed}")

    def _step_kept(self, event: Event, data: Mapping[str, Any]) -> None:
        mark = "--" if data["status"] == "failed" else "done"
        depth = 1 if "." in data["id"].removeprefix("rollback.") else 0
        self._page.entry(mark, self._name(data), data["reason"], depth=depth)

    def _rollback_started(self, event: Event, data: Mapping[str, Any]) -> None:
        self._parents.clear()
        updates = [one for one in data["updates"] if one["from"]]
        versions = [f"{one['id']} to {one['from']}" if len(updates) > 1 else f"to {one['from']}" for one in updates]
        self._page.entry("back", "roll back", ", ".join(reversed(versions)))

    def _step_started(self, event: Event, data: Mapping[str, Any]) -> None:
        self._names[data["id"]] = data["name"]
        if data["type"] == "remediate":
            self._page.entry("", data["name"], "")
            self._parents.append(data["id"])
            self._fixing = False
        else:
            self._status(data["name"], "")

    def _step_waiting(self, event: Event, data: Mapping[str, Any]) -> None:
        name, patience = self._name(data), f"at most {format_span(max(1, round(data['left'])))} more"
        self._status(name, f"{patience}: {data['reason']}")
        if data["seconds"] >= MIN_LOGGED_WAIT:
            # Where nothing can be written over, a line now and then says that it is not stuck.
            waited = f"{format_span(round(data['seconds']))}: {data['reason']}; {patience}"
            self._page.log("..", name, waited, depth=len(self._parents))

    def _step_acting(self, event: Event, data: Mapping[str, Any]) -> None:
        self._status(self._name(data), data["reason"])

    def _name(self, data: Mapping[str, Any]) -> str:
        """Give what people read: the step's name, or its type."""
        return str(data.get("name") or self._names.get(data["id"], data["type"]))

    def _fix_started(self, event: Event, data: Mapping[str, Any]) -> None:
        self._fixing = True

    def _unit_started_again(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.entry("note", "start", f"{data['unit']}, which the fix had stopped", depth=len(self._parents))

    def _step_retrying(self, event: Event, data: Mapping[str, Any]) -> None:
        depth = len(self._parents)
        pause = format_span(data["pause"])
        self._page.entry(
            "again", self._name(data), f"{data['verdict']}; try {data['attempt'] + 1} in {pause}", depth=depth
        )
        self._page.detail(data["reason"], depth=depth)

    def _step_finished(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.idle()
        self._names[data["id"]] = self._name(data)
        if self._parents and data["id"] == self._parents[-1]:
            self._parents.pop()
            self._fixing = False
            if data["status"] == "failed" and data["verdict"] != "still-starting":
                self._failed(data, "", len(self._parents))
            return
        depth = len(self._parents)
        took = format_span(data["seconds"]) if data["seconds"] >= MIN_SHOWN_SECONDS else ""
        if data["status"] == "failed":
            self._failed(data, took, depth)
            return
        if data["status"] == "skipped":
            self._page.entry("skip", self._name(data), data["reason"], depth=depth)
            return
        # What mends is marked as that, but the checks after it are checks.
        mark = "fix" if self._fixing and ".fix." in data["id"] else "ok"
        name = self._name(data)
        # A command goes by its step's name, which stands before it here.
        self._page.entry(mark, name, data["reason"].removeprefix(f'"{name}" '), took, depth=depth)

    def _failed(self, data: Mapping[str, Any], took: str, depth: int) -> None:
        # What a step has just said, the one that holds it need not say again.
        reason = str(data["reason"]).removesuffix(f": {self._last_reason}")
        self._last_reason = data["reason"]
        goes_on = "; the run goes on" if data.get("continues") else ""
        self._page.entry("--", self._name(data), f"{data['verdict'] or ''}{goes_on}", took, depth=depth)
        self._page.detail(reason, depth=depth)
        self._quote(data, depth)

    def _quote(self, data: Mapping[str, Any], depth: int) -> None:
        """Show what a failed command, or a unit, wrote at last: many say what is wrong first, and then that it is."""
        text = str(data["evidence"].get("output") or "") or "\n".join(data["evidence"].get("journal", ()))
        printed = [line.rstrip() for line in split_lines(text) if line.strip()]
        if printed and str(data["reason"]).endswith(shorten(printed[-1].strip(), len(data["reason"]))):
            printed.pop()  # The reason ends with it.
        for line in printed[-MAX_OUTPUT_LINES:]:
            self._page.quote(line, depth=depth)

    def _notice(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.entry("note", "", data["text"])

    def _run_finished(self, event: Event, data: Mapping[str, Any]) -> None:
        begun = data["status"] not in ("not-begun", "interrupted")
        self._page.idle()
        if data["status"] != "not-begun":
            self._page.line()
        style = {"still-starting": "yellow", "remediated": "yellow", "rolled-back": "yellow"}.get(
            data["status"], "green"
        )
        if not begun:
            # The reason begins with that word itself.
            self._page.sentence(data["reason"], style="red")
        elif data["exit"] and data.get("step"):
            # The steps' own lines say the rest.
            self._page.sentence(self._ended(data), style="red" if data["status"] == "failed" else style)
        else:
            self._page.sentence(
                f"{data['status']}: {data['reason']}",
                style=style if data["status"] in ("rolled-back", "still-starting") or not data["exit"] else "red",
            )
        for name, key in (("back", "back"), ("now", "now"), ("next", "hint"), ("log", "log")):
            if text := data.get(key):
                self._page.item(name, text)

    def _ended(self, data: Mapping[str, Any]) -> str:
        """Say in a line how a run ended that did not end well."""
        status, verdict = data["status"], data["verdict"]
        name = self._names.get(data["step"], data["step"])
        if status == "rolled-back":
            return f"rolled-back: it had failed at {name}: {verdict}"
        after = data.get("after")
        if after is None:
            alone = "still-starting: the unit was left alone; nothing was fixed"
            return alone if status == "still-starting" else f"{status} at {name}: {verdict}"
        first = f"{self._names.get(after['step'], after['step'])}: {after['verdict']}"
        if status == "still-starting":
            return f"still-starting: it had failed at {first}; the earlier version was left alone"
        where = "the roll back failed" if data["step"].startswith("rollback.") else "it was rolled back, but it failed"
        return f"failed at {first}; {where} at {name}: {verdict}"

    def _status(self, name: str, reason: str) -> None:
        self._page.status(f"{name}  {reason}")

    # -- the plan ---------------------------------------------------------------------------------------------

    def _observed(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.heading(data["name"], "nothing is changed")
        self._numbers = {}
        self._said = set()
        if data.get("systemd"):
            for position, (who, text) in enumerate(_describe_sources(data)):
                self._page.entry("now" if position == 0 else "", who, text)
            self._page.line()

    def _step_planned(self, event: Event, data: Mapping[str, Any]) -> None:
        nested = [part for part in data["id"].split(".") if part in ("check", "fix")]
        if not nested:
            self._numbers[data["id"]] = len(self._numbers) + 1
        text = data["reason"]
        if data["type"] == "remediate" and data["impact"] in ("mutating", "undetermined"):
            text = text.partition(":")[0] if data["verdict"] != "holds" else text
        elif data["impact"] == "read-only" and data["verdict"]:
            # Two checks that found the same need not tell it twice.
            told = any(said.startswith(text) for said in self._said)
            text = data["verdict"] if told else f"{data['verdict']}: {text}"
        self._said.add(data["reason"])
        if not nested and data.get("undetermined-by"):
            steps = self._steps(data["undetermined-by"])
            text += f"; {steps} that perhaps" if data["verdict"] == "holds" else f", unless {steps} this"
        mark = "fix" if nested and nested[-1] == "fix" else str(self._numbers.get(data["id"], ""))
        self._page.entry(mark, self._name(data), text, depth=1 if nested else 0)
        if data["verdict"] == Verdict.COMMAND_FAILED:
            self._quote(data, 1 + bool(nested))

    def _steps(self, ids: list[str]) -> str:
        numbers = [str(self._numbers.get(one, one)) for one in ids]
        if len(numbers) == 1:
            return f"step {numbers[0]} changes"
        return f"steps {', '.join(numbers[:-1])} or {numbers[-1]} change"

    def _plan_finished(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.line()
        self._page.sentence(data["reason"] if not data["exit"] else f"{data['status']}: {data['reason']}")
        if data.get("hint"):
            self._page.item("next", data["hint"])


def _describe_sources(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what systemd and the kernel tell at this moment."""
    unit = data["systemd"]
    said = [("systemd", f"{data['unit']} is {unit['says']}")]
    restarts = unit["NRestarts"]
    if restarts:
        ended = f", the last exited with status {unit['ExecMainStatus']}" if not unit["MainPID"] else ""
        said.append(("", f"{restarts} restart{'' if restarts == 1 else 's'} by systemd{ended}"))
    if starts := data.get("starts"):
        said.append(("", starts["says"]))
    for number, port in enumerate(data["ports"]):
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
