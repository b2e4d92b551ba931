"""One JSON object a line, as the contract has it."""

from __future__ import annotations

import io
import json

from runbook.events import Event
from runbook.report.json_lines import JsonLines
from tests.unit.runs import FIX, incident, remediate, run, step


def test_a_line_is_one_object_with_time_run_and_event() -> None:
    out = io.StringIO()
    JsonLines(out)(Event(1_700_000_000.5, "r-1", "notice", {"text": "two\nlines", "odd": {1: "x"}}))
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {
        "time": "2023-11-14T22:13:20.500Z",
        "run": "r-1",
        "event": "notice",
        "text": "two\nlines",
        "odd": {"1": "x"},
    }


def test_a_whole_run_can_be_printed_as_json() -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    _, events = run(incident(), remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    for event in events:
        lines(event)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    finished = [line for line in told if line["event"] == "step-finished"]
    wanted = {"time", "run", "event", "id", "type", "status", "verdict", "reason", "attempts", "seconds", "evidence"}
    assert all(set(line) - {"remembers"} == wanted for line in finished)
    assert told[-1]["event"] == "run-finished"
    assert {"status", "exit"} <= set(told[-1])


def test_a_reader_that_went_away_is_no_error() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    lines = JsonLines(Gone())
    lines(Event(0.0, "r", "notice"))
    lines(Event(0.0, "r", "notice"))
