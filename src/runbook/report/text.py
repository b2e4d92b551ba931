"""A run and a plan, as a person reads them: facts first, then what they mean, then what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from runbook.model import Event
from runbook.report.layout import Page
from runbook.spans import format_span

SLOW = 0.05
"""Seconds from which on it is worth a person's while to read how long a step took."""


class Text:
    """Shows a run as it goes on: one line for what went well, the facts for what did not."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._parents: list[str] = []
        self._fixing = False
        self._numbers: dict[str, int] = {}
        self._said: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Print one event, if a person needs it."""
        tell = getattr(self, "_" + event.event.replace("-", "_"), None)
        if tell is not None:
            tell(event, event.data)

    def _run_started(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.heading(data["name"], f"run {event.run}")

    def _step_started(self, event: Event, data: Mapping[str, Any]) -> None:
        if data["type"] == "remediate":
            self._page.entry("", data["name"], "")
            self._parents.append(data["id"])
            self._fixing = False
        else:
            self._status(data["name"], "")

    def _step_waiting(self, event: Event, data: Mapping[str, Any]) -> None:
        self._status(data["type"], data["reason"])

    def _step_acting(self, event: Event, data: Mapping[str, Any]) -> None:
        self._status(data["type"], data["reason"])

    def _fix_started(self, event: Event, data: Mapping[str, Any]) -> None:
        self._fixing = True

    def _unit_started_again(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.entry("note", "start", f"{data['unit']}, which the fix had stopped", depth=len(self._parents))

    def _step_retrying(self, event: Event, data: Mapping[str, Any]) -> None:
        depth = len(self._parents)
        pause = format_span(data["pause"])
        self._page.entry("again", data["type"], f"{data['verdict']}; try {data['attempt'] + 1} in {pause}", depth=depth)
        self._page.below(data["reason"], depth=depth)

    def _step_finished(self, event: Event, data: Mapping[str, Any]) -> None:
        if self._parents and data["id"] == self._parents[-1]:
            self._parents.pop()
            self._fixing = False
            if data["status"] == "failed" and data["verdict"] != "still-starting":
                self._page.entry("--", data["type"], data["verdict"], depth=len(self._parents))
                self._page.below(data["reason"], depth=len(self._parents))
            return
        depth = len(self._parents)
        took = format_span(data["seconds"]) if data["seconds"] >= SLOW else ""
        if data["status"] == "failed":
            self._page.entry("--", data["type"], data["verdict"] or "", took, depth=depth)
            self._page.below(data["reason"], depth=depth)
            return
        if data["status"] == "skipped":
            self._page.entry("skip", data["type"], data["reason"], depth=depth)
            return
        # What mends is marked as that, but the checks after it are checks.
        mark = "fix" if self._fixing and ".fix." in data["id"] else "ok"
        self._page.entry(mark, data["type"], data["reason"], took, depth=depth)

    def _notice(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.entry("note", "", data["text"])

    def _run_finished(self, event: Event, data: Mapping[str, Any]) -> None:
        if data["status"] in ("not-begun", "interrupted"):
            # The reason begins with that word itself.
            self._page.words(data["reason"], style="red")
            if data.get("hint"):
                self._page.words(data["hint"], indent="  ")
            return
        self._page.line()
        style = {"failed": "red", "still-starting": "yellow", "remediated": "yellow"}.get(data["status"], "green")
        self._page.words(f"{data['status']}: {data['reason']}", style=style)
        if data.get("hint"):
            self._page.words(data["hint"], indent="  ")

    def _status(self, name: str, reason: str) -> None:
        self._page.status(f"{name}  {reason}")

    # -- the plan ---------------------------------------------------------------------------------------------

    def _observed(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.heading(data["name"], "nothing is changed")
        self._numbers = {}
        self._said = set()
        if data.get("systemd"):
            for position, (who, text) in enumerate(_witnesses(data)):
                self._page.entry("now" if position == 0 else "", who, text)
            self._page.line()

    def _step_planned(self, event: Event, data: Mapping[str, Any]) -> None:
        nested = [part for part in data["id"].split(".") if part in ("check", "fix")]
        if not nested:
            self._numbers[data["id"]] = len(self._numbers) + 1
        text = data["reason"]
        if data["type"] == "remediate" and data["impact"] in ("mutating", "undetermined"):
            text = "would fix" if data["verdict"] != "holds" else text
        elif data["impact"] == "read-only" and data["verdict"]:
            # Two checks that found the same need not tell it twice.
            told = any(said.startswith(text) for said in self._said)
            text = data["verdict"] if told else f"{data['verdict']}: {text}"
        self._said.add(data["reason"])
        if not nested and data.get("undetermined-by"):
            steps = self._steps(data["undetermined-by"])
            text += f"; {steps} that perhaps" if data["verdict"] == "holds" else f", unless {steps} this"
        mark = "fix" if nested and nested[-1] == "fix" else str(self._numbers.get(data["id"], ""))
        self._page.entry(mark, data["type"], text, depth=1 if nested else 0)

    def _steps(self, ids: list[str]) -> str:
        numbers = [str(self._numbers.get(one, one)) for one in ids]
        if len(numbers) == 1:
            return f"step {numbers[0]} changes"
        return f"steps {', '.join(numbers[:-1])} or {numbers[-1]} change"

    def _plan_finished(self, event: Event, data: Mapping[str, Any]) -> None:
        self._page.line()
        self._page.words(data["reason"] if not data["exit"] else f"{data['status']}: {data['reason']}")
        if data.get("hint"):
            self._page.words(data["hint"], indent="  ")


def _witnesses(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what systemd and the kernel tell at this moment."""
    unit = data["systemd"]
    said = [("systemd", f"{data['unit']} is {unit['says']}")]
    restarts = unit["NRestarts"]
    if restarts:
        ended = f", the last ended with status {unit['ExecMainStatus']}" if not unit["MainPID"] else ""
        said.append(("", f"{restarts} restart{'' if restarts == 1 else 's'} by systemd{ended}"))
    for number, port in enumerate(data["ports"]):
        said.append(("kernel" if number == 0 else "", port["reason"]))
        for holder in port["holders"]:
            since = f"for {format_span(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - holder['started']))}"
            said.append(("", f"PID {holder['pid']}: {', '.join(holder['sockets'])} {since}; {holder['why']}"))
    return said
