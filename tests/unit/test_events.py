"""The names and keys of events, and events that another version has written."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from runbook.events import (
    Event,
    EventName,
    Payload,
    PlanFinished,
    RunFinished,
    RunStarted,
    StepFinished,
    StepKept,
    StepPlanned,
    select,
)
from runbook.model import Impact, Verdict

END = RunFinished(status="failed", exit=1, reason="it failed", hint="look", now="down")


def test_each_name_has_a_class() -> None:
    assert Payload.types.keys() == set(EventName)
    assert all(kind.event == name for name, kind in Payload.types.items())


def test_a_key_is_the_name_of_a_field_with_dashes() -> None:
    planned = StepPlanned(
        id="x", type="run", impact=Impact.NONE, verdict=None, reason="", evidence={}, undetermined_by=("y",)
    )
    assert planned.to_data()["undetermined-by"] == ["y"]
    assert StepPlanned.from_data(planned.to_data()).undetermined_by == ["y"]


def test_the_keys_of_a_line_are_in_the_order_of_the_fields() -> None:
    assert list(json.loads(Event.of(0, "r", END).to_line())) == [
        *("time", "run", "event"),
        *("status", "exit", "reason", "now", "hint"),
    ]
    assert [one.name for one in fields(StepFinished)][: len(fields(StepKept))] == [one.name for one in fields(StepKept)]
    assert next(iter(PlanFinished(would_change=False, status="ok", exit=0, reason="").to_data())) == "would-change"


def test_an_optional_field_is_left_out_only_with_its_default() -> None:
    known = {"id": "x", "type": "run", "status": "ok", "verdict": None, "reason": "", "attempts": 1, "seconds": 0.0}
    made = StepFinished(**known, evidence={}, remembers={})  # type: ignore[arg-type]
    assert made.to_data() == {**known, "evidence": {}, "remembers": {}}


def test_a_plain_default_is_always_written() -> None:
    data = RunStarted(name="x").to_data()
    assert (data["unit"], data["units"], "left" in data) == (None, [], False)


def test_enum_values_are_written_as_texts() -> None:
    data = StepPlanned(id="x", type="run", impact=Impact.NONE, verdict=Verdict.HOLDS, reason="", evidence={}).to_data()
    assert (type(data["impact"]), data["verdict"]) == (str, "holds")


def test_a_line_keeps_the_keys_of_another_version() -> None:
    line = Event(1.5, "r", "run-finished", {**END.to_data(), "from-the-future": [1]}).to_line()
    event = Event.from_line(line)
    assert event.to_line() == line
    assert isinstance(event.payload, RunFinished)
    assert event.payload.to_data() == END.to_data()


def test_an_unknown_name_has_no_payload_and_a_missing_key_is_an_error() -> None:
    assert Event(0, "r", "unheard-of", {"id": 1}).payload is None
    assert RunStarted.from_data({}).units == ()
    with pytest.raises(ValueError, match="no run-finished"):
        _ = Event(0, "r", "run-finished", {"status": "ok"}).payload


def test_select_reads_the_events_of_one_name_only() -> None:
    events = [Event(0, "r", "step-finished", {}), Event.of(0, "r", END), Event(0, "r", "unheard-of")]
    assert [end.exit for end in select(events, RunFinished)] == [1]
