"""The types of the fields of a runbook. Each reads what a file says, which is text, a list or a mapping.

Every type takes a value of its own as well, so that a step can be made in Python: `Span` takes "2min" and
120.0. `info.context` is the `Scope` while a file is read; templates are filled or checked here.
What is wrong is said in a sentence by a ValueError; an `Unfit` is to be read after the name of the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
)

from runbook import template
from runbook.model import Port
from runbook.template import VERSIONS, Template, TemplateScope, TextFinisher, ValueWriter
from runbook.util.names import parse_port, parse_unit_name
from runbook.util.timespan import format_span, parse_span
from runbook.util.wording import join_words, shorten


class FieldError(ValueError):
    """What is wrong with a value, to be said after its key: "wants one value, not a list"."""


MAX_ID = 200
"""Characters of an id: files are called after it, and their names hold 255 bytes."""
MAX_NUMBER = 2**31 - 1


def describe_kind(value: object) -> str:
    """Name the kind of a value as people would: a list, a mapping, a single value."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return "a single value"


def _single(value: object) -> str:
    """Take a single value, as its text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        raise FieldError("is empty; give it a value or leave it out")
    raise FieldError(f"wants a single value, not {describe_kind(value)}")


def _scope(info: ValidationInfo) -> TemplateScope | None:
    return info.context if isinstance(info.context, TemplateScope) else None


def _text(value: object, info: ValidationInfo, put: ValueWriter, finish: TextFinisher, *, now: bool = True) -> str:
    """Read a text: whole if all of its values are known, else a Template. `now` False only checks them."""
    read = template.parse(_single(value), put, finish)
    if not isinstance(read, Template):
        return finish(read)
    scope = _scope(info)
    if scope is None:
        return read
    filled = read.fill(scope)
    return filled if now and not isinstance(filled, Template) else read


def _known(value: object, info: ValidationInfo) -> str:
    """Read a text whose values must all be known when the file is read."""
    text = template.parse(_single(value))
    scope = _scope(info)
    if not isinstance(text, Template) or scope is None:
        return text
    filled = text.fill(scope)
    if isinstance(filled, Template):
        missing = join_words(dict.fromkeys(str(reference) for reference in filled.references))
        raise FieldError(f"must be known before the run begins, and {missing} is only known while it goes on")
    return filled


def _as_is(text: str) -> str:
    return text


def _read_text(value: object, info: ValidationInfo) -> str:
    return _text(value, info, template.write_plain, _as_is)


def _read_shell(value: object, info: ValidationInfo) -> str | tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        # Its values are put in when the step begins, so that an update can be undone with another `to`.
        return _text(value, info, template.write_quoted, _some_command, now=False)
    if not value:
        raise FieldError("is an empty list; write the command and its arguments")
    words = _ARGUMENTS.validate_python(value, context=info.context)
    if not words[0].strip():
        raise FieldError("begins with an empty word; write the command first")
    return words


def _read_argument(value: object, info: ValidationInfo) -> str:
    return _text(value, info, template.write_plain, _as_is, now=False)


# It is made ready when the first list of arguments is read: most commands are strings.
_ARGUMENTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(
    tuple[Annotated[str, PlainValidator(_read_argument)], ...], config=ConfigDict(defer_build=True)
)


def _some_command(text: str) -> str:
    if not text.strip():
        raise FieldError("is empty; write a command")
    if "\0" in text:
        raise FieldError("holds a NUL, which no command can take")
    return text


def _read_pattern(value: object, info: ValidationInfo) -> str:
    return _text(value, info, template.write_literal, _valid_pattern)


def _valid_pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        where = getattr(error, "pos", None)
        place = f" at its character {where + 1}" if isinstance(where, int) else ""
        raise ValueError(f"`{shorten(text)}` is not a valid regular expression: mistake{place}") from error
    return text


def _read_version(value: object, info: ValidationInfo) -> str:
    text = template.parse(_single(value))
    if isinstance(text, Template) and any(reference.root in VERSIONS for reference in text.references):
        raise FieldError("is what `to` and `from` are taken from, so it cannot use them")
    return _text(value, info, template.write_plain, _valid_version)


def _valid_version(text: str) -> str:
    if not text.strip():
        raise FieldError("is empty; write a version such as 1.4.2")
    if re.search(r"\s", text.strip()):
        raise ValueError(f"`{shorten(text)}` is not one version; write one such as 1.4.2")
    if not re.search(r"\d", text):
        how = "write the version it stands for, such as 1.4.2"
        raise ValueError(f"`{shorten(text)}` is a tag, not a version; {how}")
    return text.strip()


def _read_whole(value: object, info: ValidationInfo) -> int:
    text = _known(value, info)
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) > MAX_NUMBER:
        raise ValueError(f"cannot read `{shorten(text)}` as a whole number; write 0, 1, 2, …")
    return int(text)


def _read_format(value: object, info: ValidationInfo) -> int:
    text = _known(value, info)
    if text != "1":
        raise ValueError(f"cannot read format `{shorten(text)}`; this program reads format 1")
    return 1


def _read_number(value: object, info: ValidationInfo) -> float:
    text = _known(value, info)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        raise ValueError(f"cannot read `{shorten(text)}` as a number; write 1, 1.5, 2")
    return float(text)


def _read_flag(value: object, info: ValidationInfo) -> bool:
    if isinstance(value, bool):
        return value
    text = _known(value, info)
    if text.lower() in ("true", "yes", "on"):
        return True
    if text.lower() in ("false", "no", "off"):
        return False
    raise ValueError(f"cannot read `{shorten(text)}` as true or false; write true or false")


def _read_span(value: object, info: ValidationInfo) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return parse_span(_known(value, info))


def _read_limit(value: object, info: ValidationInfo) -> float:
    seconds = _read_span(value, info)
    if seconds <= 0:
        raise FieldError("must be longer than nothing; write 5s, 2min, 1h 30min")
    return seconds


def _read_unit(value: object, info: ValidationInfo) -> str:
    return parse_unit_name(_known(value, info))


def _as_list(value: object) -> object:
    """Let a single value stand for a list of one."""
    return value if isinstance(value, (list, tuple)) else (value,)


def _each_once(ports: tuple[Port, ...]) -> tuple[Port, ...]:
    for number, port in enumerate(ports):
        if port in ports[:number]:
            raise ValueError(f"port `{port}` stands twice in the list")
    return ports


def _read_port(value: object, info: ValidationInfo) -> Port:
    return value if isinstance(value, Port) else parse_port(_known(value, info))


def _read_id(value: object) -> str:
    text = _single(value)
    if not re.fullmatch(r"[A-Za-z]\w*(?:[-.]\w+)*", text, re.ASCII):
        how = "write letters, digits and single dashes, a letter first"
        raise ValueError(f"`{shorten(text)}` cannot be an id; {how}")
    if len(text) > MAX_ID:
        raise ValueError(f"`{shorten(text)}` cannot be an id: it is longer than {MAX_ID} characters")
    return text


def _read_expression(value: object, info: ValidationInfo) -> str:
    text = _single(value)
    checked = template.parse_expression(text)
    scope = _scope(info)
    if scope is not None:
        checked.value(scope.for_step(None, None))
    return text


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        how = "write letters, digits and _"
        raise ValueError(f"`{shorten(name)}` cannot be the name of an environment variable; {how}")
    return name


def _header(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name, re.ASCII):
        raise ValueError(f"`{shorten(name)}` cannot be the name of an HTTP header")
    return name


def _read_header(value: object, info: ValidationInfo) -> str:
    return _text(value, info, template.write_plain, _one_line)


def _one_line(text: str) -> str:
    if re.search(r"[\r\n\0]", text):
        raise FieldError("holds a line break, which no HTTP header can")
    return text


_TEXT: dict[str, Any] = {"type": ["string", "number", "boolean"]}


def _schema(words: str, **schema: Any) -> WithJsonSchema:
    """Give a type its place in the JSON Schema; its title is the word people use for it."""
    return WithJsonSchema({"title": words, **(schema or _TEXT)})


_PORT = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string"}]}

TextField = Annotated[str, PlainValidator(_read_text), _schema("text")]
"""A text; every scalar is its text."""
Version = Annotated[str, PlainValidator(_read_version), _schema("version")]
"""A version: a text with a digit in it, so no tag such as `latest`."""
Pattern = Annotated[str, PlainValidator(_read_pattern), _schema("pattern", type="string", format="regex")]
"""A regular expression of Python's; a value put into it matches itself only."""
CommandField = Annotated[
    str | tuple[str, ...],
    PlainValidator(_read_shell),
    _schema(
        "command",
        anyOf=[{"type": "string", "minLength": 1}, {"type": "array", "items": _TEXT, "minItems": 1}],
    ),
]
"""A command: a script for `/bin/sh -e`, or a list of its arguments."""
TextList = Annotated[
    tuple[TextField, ...],
    BeforeValidator(_as_list),
    _schema("list of texts", anyOf=[_TEXT, {"type": "array", "items": _TEXT}]),
]
"""A list of texts; a single one stands for a list of one."""
Integer = Annotated[int, BeforeValidator(_read_whole), _schema("whole number", type=["integer", "string"], minimum=0)]
"""A whole number, 0 or more."""
IntegerList = Annotated[
    tuple[Integer, ...],
    BeforeValidator(_as_list),
    _schema("whole number, or list of them", type=["integer", "string", "array"]),
]
"""One whole number or several."""
FormatNumber = Annotated[int, PlainValidator(_read_format), _schema("1", const=1)]
"""The number of the file's format."""
Number = Annotated[float, BeforeValidator(_read_number), _schema("number", type=["number", "string"], minimum=0)]
"""A number, 0 or more."""
Boolean = Annotated[bool, BeforeValidator(_read_flag), _schema("true or false", type=["boolean", "string"])]
"""True or false."""
TimeSpan = Annotated[float, BeforeValidator(_read_span), _schema("time span", type=["string", "number"])]
"""A time span, in seconds; 0 or more."""
PositiveSpan = Annotated[float, BeforeValidator(_read_limit), _schema("time span", type=["string", "number"])]
"""A time span, in seconds; more than 0."""
UnitName = Annotated[str, BeforeValidator(_read_unit), _schema("unit", type="string", minLength=1)]
"""The full name of a unit."""
PortField = Annotated[Port, PlainValidator(_read_port), _schema("port", **_PORT)]
"""One port."""
PortList = Annotated[
    tuple[PortField, ...],
    BeforeValidator(_as_list),
    AfterValidator(_each_once),
    _schema("port, or list of ports", anyOf=[*_PORT["anyOf"], {"type": "array", "items": _PORT}]),
]
"""One port or several."""
StepId = Annotated[str, BeforeValidator(_read_id), _schema("id", type="string", minLength=1)]
"""What templates and messages call a step."""
ExpressionField = Annotated[str, BeforeValidator(_read_expression), _schema("expression", type=["string", "boolean"])]
"""A bare expression, checked; `template.holds` evaluates it."""
Environment = Annotated[
    dict[Annotated[str, AfterValidator(_variable)], TextField],
    _schema("mapping of names to texts", type="object", additionalProperties=_TEXT),
]
"""Environment variables and their values."""
Headers = Annotated[
    dict[Annotated[str, AfterValidator(_header)], Annotated[str, PlainValidator(_read_header)]],
    _schema("mapping of names to texts", type="object", additionalProperties=_TEXT),
]
"""HTTP headers and their values."""

__all__ = [
    "Boolean",
    "CommandField",
    "Environment",
    "ExpressionField",
    "FieldError",
    "FormatNumber",
    "Headers",
    "Integer",
    "IntegerList",
    "Number",
    "Pattern",
    "PortField",
    "PortList",
    "PositiveSpan",
    "StepId",
    "TextField",
    "TextList",
    "TimeSpan",
    "UnitName",
    "Version",
    "format_span",
]
