"""The JSON Schema of the JSON lines, made from the classes of `runbook.events`.

The description of an event is its class's docstring, and that of a key is the comment behind its field.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from runbook.events import SCHEMA_VERSION, EventName, Payload
from runbook.model import frozen

FIELD = re.compile(r"^    (\w+): .*  # (.*)$", re.MULTILINE)


@frozen
class AnyLine:
    """What each line has."""

    time: str  # when it happened: RFC 3339, in UTC, with milliseconds
    run: str  # the ID of the run; empty if none began
    event: str  # the name of the event


def make_event_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line (draft 2020-12). A line with an unknown event or key is valid."""
    names = [str(name) for name in EventName]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "runbook: one line of --output json",
        "$comment": f"Version {SCHEMA_VERSION}. Events and keys may be added without a new version.",
        **_describe(AnyLine),
        "allOf": [
            {"if": {"properties": {"event": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}} for name in names
        ],
        "$defs": {name: _describe(Payload.types[name]) for name in names},
    }


def _describe(cls: type[Any]) -> dict[str, Any]:
    hints, meanings, declared = get_type_hints(cls), dict(_read_comments(cls)), fields(cls)
    return {
        "description": inspect.getdoc(cls),
        "type": "object",
        "required": [one.name.replace("_", "-") for one in declared if not one.metadata],
        "properties": {
            one.name.replace("_", "-"): {
                **TypeAdapter(hints[one.name]).json_schema(),
                "description": meanings[one.name],
                # A key that is left out has its default.
                **({"default": one.default} if one.metadata else {}),
            }
            for one in declared
        },
    }


def _read_comments(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the comment of each field, those of the base classes first."""
    for base in reversed(cls.__mro__):
        if base not in (object, Payload):
            yield from FIELD.findall(inspect.getsource(base))
