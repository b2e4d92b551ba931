"""The types of the fields of a runbook. Each reads a value of the file: a text, a list or a mapping.

Every type also accepts a value of its own kind, so that a step can be made in Python: `TimeSpan` accepts "2min" and
120.0. Its JSON Schema has its name in the reference, and examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

from runbook.model import Port
from runbook.spec.readers import (
    as_list,
    check_header,
    check_one_line,
    check_variable,
    each_once,
    read_expression,
    read_flag,
    read_format,
    read_limit,
    read_number,
    read_pattern,
    read_port,
    read_port_owners,
    read_shell,
    read_span,
    read_step_id,
    read_template_text,
    read_unit,
    read_unit_glob,
    read_version,
    read_whole,
)


def _one_of(*types: str, **details: Any) -> list[dict[str, Any]]:
    """Return the alternatives of a JSON Schema. Some validators refuse a list as `type`; `details` are the first's."""
    first, *others = types
    return [{"type": first, **details}, *({"type": other} for other in others)]


_TEXT: dict[str, Any] = {"anyOf": _one_of("string", "number", "boolean")}
_TEXTS = {"type": "array", "items": _TEXT}
_WHOLE = _one_of("integer", "string", minimum=0)
_PORT = {"anyOf": _one_of("integer", "string", minimum=1, maximum=65535)}


def shown_as(words: str, *examples: Any, **details: Any) -> WithJsonSchema:
    """Return the JSON Schema of a type. Its title is the name of the type in the reference.

    A field whose meaning is narrower than its type has examples of its own.
    """
    return WithJsonSchema({"title": words, **(details or _TEXT), **({"examples": [*examples]} if examples else {})})


_SPAN = shown_as("time span", "30s", "1min 30s", anyOf=_one_of("string", "number"))
_TEXT_MAPPING = shown_as(
    "mapping of names to texts", {"NODE_ENV": "production"}, type="object", additionalProperties=_TEXT
)

TextField = Annotated[str, PlainValidator(read_template_text), shown_as("text")]
"""A text. A number or a boolean is read as the text that the file has."""
UserField = Annotated[str, PlainValidator(read_template_text), shown_as("text", "gateway")]  # the name of a user
FolderField = Annotated[
    str, PlainValidator(read_template_text), shown_as("text", "/opt/gateway")
]  # the path of a folder
Version = Annotated[str, PlainValidator(read_version), shown_as("version", "2026.5.12")]
"""A version: a text that contains a digit, and not a tag such as `latest`."""
# No `format: regex`: it means JavaScript's syntax, and a template in a pattern is not a part of it.
Pattern = Annotated[str, PlainValidator(read_pattern), shown_as("pattern")]
"""A regular expression in Python's syntax. A value that a template inserts matches itself only."""
CommandField = Annotated[
    str | tuple[str, ...],
    PlainValidator(read_shell),
    shown_as(
        "command",
        "npm install --global app@${{ to }}",
        ["npm", "--version"],
        anyOf=[{"type": "string", "minLength": 1}, {**_TEXTS, "minItems": 1}],
    ),
]
"""A command: a script for `/bin/sh -e`, or a list of its arguments."""
_TEXT_LIST = shown_as("list of texts", anyOf=[*_TEXT["anyOf"], _TEXTS])
TextList = Annotated[tuple[TextField, ...], BeforeValidator(as_list), _TEXT_LIST]
"""A list of texts. A single text is read as a list of one."""
Integer = Annotated[int, BeforeValidator(read_whole), shown_as("whole number", 3, anyOf=_WHOLE)]
_INTEGERS = shown_as("whole number, or list of them", anyOf=[*_WHOLE, {"type": "array", "items": {"anyOf": _WHOLE}}])
IntegerList = Annotated[tuple[Integer, ...], BeforeValidator(as_list), _INTEGERS]
FormatNumber = Annotated[
    int, PlainValidator(read_format), shown_as("1", 1, enum=[1, "1"])
]  # the version of the file format
Number = Annotated[
    float, BeforeValidator(read_number), shown_as("number", 1.5, anyOf=_one_of("number", "string", minimum=0))
]
Boolean = Annotated[
    bool, BeforeValidator(read_flag), shown_as("true or false", True, anyOf=_one_of("boolean", "string"))
]
TimeSpan = Annotated[float, BeforeValidator(read_span), _SPAN]  # in seconds; 0 or more
PositiveSpan = Annotated[float, BeforeValidator(read_limit), _SPAN]  # in seconds; more than 0
UnitName = Annotated[
    str, BeforeValidator(read_unit), shown_as("unit", "nginx.service", type="string", minLength=1)
]  # a full name
_UNIT_GLOB = {"type": "string", "minLength": 1}
_UNIT_GLOBS = shown_as(
    "unit, or list of units, with globs", "app@*.service", anyOf=[_UNIT_GLOB, {"type": "array", "items": _UNIT_GLOB}]
)
_UnitGlob = Annotated[str, PlainValidator(read_unit_glob)]
UnitGlobList = Annotated[tuple[_UnitGlob, ...], BeforeValidator(as_list), _UNIT_GLOBS]
_OWNERS = shown_as(
    "`unit`, `main-pid`, `kernel` or a unit; or a mapping of ports to these",
    "main-pid",
    {"80": "nginx.service"},
    anyOf=[_UNIT_GLOB, {"type": "object", "additionalProperties": _UNIT_GLOB, "minProperties": 1}],
)
PortOwners = Annotated[Mapping[Port | None, str], PlainValidator(read_port_owners), _OWNERS]
"""Who must own each port: a word of PORT_OWNERS or the full name of a unit. None stands for all other ports."""
PortField = Annotated[Port, PlainValidator(read_port), shown_as("port", 8080, "127.0.0.1:8080", **_PORT)]
_PORTS = shown_as(
    "port, or list of ports",
    443,
    [80, "udp:53", "[::1]:8080"],
    anyOf=[*_PORT["anyOf"], {"type": "array", "items": _PORT}],
)
PortList = Annotated[tuple[PortField, ...], BeforeValidator(as_list), AfterValidator(each_once), _PORTS]
StepId = Annotated[str, BeforeValidator(read_step_id), shown_as("id", "update-app", type="string", minLength=1)]
ExpressionField = Annotated[
    str, BeforeValidator(read_expression), shown_as("expression", "steps.update.changed", "vars.stage == 'staging'")
]
"""An expression without `${{ }}`, checked; `is_true` evaluates it."""
Environment = Annotated[dict[Annotated[str, AfterValidator(check_variable)], TextField], _TEXT_MAPPING]
_HeaderValue = Annotated[str, PlainValidator(partial(read_template_text, finish=check_one_line))]
_HEADER_MAPPING = shown_as(
    "mapping of names to texts", {"Host": "example.org"}, type="object", additionalProperties=_TEXT
)
Headers = Annotated[dict[Annotated[str, AfterValidator(check_header)], _HeaderValue], _HEADER_MAPPING]
