"""Checks that an event is as `runbook schema --events` describes it. Tests of every tier pass theirs through here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema

from runbook.report.event_schema import make_event_schema


@cache
def _schema() -> dict[str, Any]:
    return make_event_schema()


@cache
def _schema_of(event: str) -> dict[str, Any]:
    """Return the schema of one event. That of all events would try each of them."""
    everywhere, here = _schema()["properties"], _schema()["$defs"][event]
    return {**here, "required": [*everywhere, *here["required"]], "properties": {**everywhere, **here["properties"]}}


def list_faults(line: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with an event. A program may meet unknown names and keys, but no test of this version."""
    name = line.get("event", "")
    if name not in _schema()["$defs"]:
        yield f"the schema has no event {name!r}"
        return
    schema = _schema_of(name)
    errors = jsonschema.Draft202012Validator(schema).iter_errors(line)
    yield from (f"{name}: {error.json_path}: {error.message}" for error in errors)
    if unknown := line.keys() - schema["properties"].keys():
        yield f"{name}: the schema has no {', '.join(sorted(unknown))}"


def validated(line: dict[str, Any]) -> dict[str, Any]:
    """Return the event. Raises AssertionError if it is not as the schema describes it."""
    faults = list(list_faults(line))
    assert not faults, (faults, line)
    return line
