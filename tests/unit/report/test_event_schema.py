"""The schema of the JSON lines is that of the payload classes, and describes each event and key."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from runbook.events import SCHEMA_VERSION, EventName, RunFinished, RunStarted, StepFinished, optional
from runbook.report import event_schema
from runbook.report.event_schema import make_event_schema
from tests.events import list_faults

SCHEMA = make_event_schema()
COMMON = {"time": "2026-11-30T20:00:47.857Z", "run": "20261130-2000-x6q"}
FINISHED = {**COMMON, "event": "run-finished", "status": "ok", "exit": 0, "reason": "everything holds"}


def is_valid(line: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(line)


def test_it_is_a_schema_and_has_all_events() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"].keys() == set(EventName)


def test_each_event_and_each_key_has_a_description() -> None:
    for name, event in SCHEMA["$defs"].items():
        assert event["description"], name
        assert all(key["description"] for key in event["properties"].values()), name


def test_a_field_without_a_comment_is_an_error() -> None:
    class Undescribed(RunFinished):
        other: str

    with pytest.raises(KeyError, match="other"):
        event_schema._describe(Undescribed)


def test_types_and_defaults_are_those_of_the_class() -> None:
    event = SCHEMA["$defs"]["run-finished"]
    assert event["required"] == ["status", "exit", "reason"]
    assert event["properties"]["exit"] == {"type": "integer", "description": "the exit status"}
    assert event["properties"]["hint"]["default"] == ""
    assert SCHEMA["$defs"]["step-waiting"]["properties"]["left"]["type"] == "number"
    steps = SCHEMA["$defs"]["run-started"]["properties"]["steps"]
    assert steps["items"] == {"type": "object", "additionalProperties": {"type": "string"}}


@pytest.mark.parametrize(
    "wrong",
    [{"exit": "0"}, {"reason": None}, {"event": 1}, {"time": 0}, {"hint": 5}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_line_is_invalid(wrong: dict[str, Any]) -> None:
    assert is_valid(FINISHED)
    assert not is_valid({**FINISHED, **wrong})
    assert list(list_faults({**FINISHED, **wrong}))


def test_a_missing_key_is_invalid() -> None:
    for key in FINISHED:
        assert not is_valid({name: value for name, value in FINISHED.items() if name != key}), key


def test_unknown_events_and_keys_are_valid() -> None:
    """A program that validates what it reads must go on with the next version."""
    assert is_valid({**FINISHED, "more": 1})
    assert is_valid({**COMMON, "event": "run-praised", "praise": "well done"})


def test_the_tests_allow_no_unknown_keys() -> None:
    assert list(list_faults({**FINISHED, "more": 1})) == ["run-finished: the schema has no more"]
    assert list(list_faults({**COMMON, "event": "run-praised"})) == ["the schema has no event 'run-praised'"]


def test_the_first_line_of_a_run_has_the_version() -> None:
    assert RunStarted().to_data()["schema"] == SCHEMA_VERSION


def test_a_key_that_is_left_out_has_its_default() -> None:
    step = StepFinished(id="a", type="run", status="ok", verdict=None, reason="", attempts=1, seconds=0.0, evidence={})
    assert "continues" not in step.to_data()
    assert SCHEMA["$defs"]["step-finished"]["properties"]["continues"]["default"] is False
    assert optional(False).default is False
