"""What a runbook can contain, derived from the models: the JSON Schema for editors, and the tables of fields.

A field is described where it is declared, and a field's type in `spec/fields.py`; nothing is described again here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from runbook.document.wording import find_models
from runbook.model import frozen
from runbook.spec.runbook import Runbook
from runbook.spec.step import INHERITED_FIELDS, STEPS_TITLE, Step, must_be_written
from runbook.steps import registry
from runbook.util.timespan import format_span

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@frozen
class FieldReference:
    """One field, for a table."""

    key: str
    type: str  # its type in words: "time span"
    default: str  # as a runbook writes it; empty if there is none
    required: bool
    description: str
    common: bool = False  # True if every step type has it
    fields: tuple[FieldReference, ...] = ()  # the fields of the mappings in it


@frozen
class StepReference:
    """One step type, for a table."""

    type_name: str
    summary: str  # what it does, in one line
    details: str  # the paragraphs that follow; may be empty
    changes: bool  # True if it can change something
    rows: tuple[FieldReference, ...]  # its fields: first its own, then those of every step


def describe_type(type_name: str) -> StepReference:
    """Return the description of a step type. Raises KeyError if there is none of this name."""
    cls = registry()[type_name]
    summary, _, details = inspect.cleandoc(cls.__doc__ or "").partition("\n")
    rows = tuple(_row(name, info, cls, common=_is_common(name)) for name, info in _own_first(cls))
    return StepReference(type_name, summary, details.strip(), cls.can_change(), rows)


def describe_types() -> tuple[StepReference, ...]:
    """Return the description of every step type."""
    return tuple(describe_type(type_name) for type_name in registry())


def describe_top_level() -> tuple[FieldReference, ...]:
    """Return the descriptions of the keys at the top of a file."""
    return tuple(_row(name, info, Runbook) for name, info in _fields(Runbook))


def make_schema() -> dict[str, Any]:
    """Return the JSON Schema of a runbook (draft 2020-12), with which editors complete and check."""
    step_types = registry()
    definitions: dict[str, Any] = {}
    for type_name, cls in step_types.items():
        definitions[type_name] = _mapping(cls, definitions)
    bare = [
        type_name
        for type_name, cls in step_types.items()
        if not any(must_be_written(cls, name) for name, _ in _fields(cls))
    ]
    definitions["step"] = {
        "description": "One step: the name of its type, or a mapping with that as its one key.",
        "anyOf": [
            {"enum": bare},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {type_name: _body(type_name, type_name in bare) for type_name in step_types},
            },
        ],
    }
    top = _mapping(Runbook, definitions)
    top["properties"]["vars"] |= {
        "title": "mapping of names to texts or lists of texts",
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "array")]},
    }
    top["description"] = "How a service is upgraded, and the new version proved."
    return {"$schema": DRAFT, "title": "runbook", **top, "$defs": dict(sorted(definitions.items()))}


def _body(type_name: str, bare: bool) -> dict[str, Any]:
    cls = registry()[type_name]
    null = [{"type": "null"}] if bare else []
    return {
        "title": type_name,
        "anyOf": [{"$ref": f"#/$defs/{type_name}"}, *null],
        "description": _describe_model(cls),
        "examples": [_example_of(cls)],
    }


def _mapping(cls: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the mapping that is read as `cls`; add those of the mappings in it to `definitions`."""
    properties = {}
    for name, info in _own_first(cls):
        # pydantic would describe a nested mapping with the names of Python and without our descriptions.
        for model in find_models(info.annotation):
            definitions.setdefault(model.__name__, _mapping(model, definitions))
        part = {key: value for key, value in _schema_of(info).items() if key not in ("$defs", "default")}
        shown = {"description": info.description or "", "examples": _examples(info)}
        properties[info.alias or name] = {**part, **shown}
    required = [info.alias or name for name, info in _fields(cls) if must_be_written(cls, name)]
    made: dict[str, Any] = {
        "type": "object",
        "description": _describe_model(cls),
        "properties": properties,
        "additionalProperties": False,
    }
    return {**made, "required": required} if required else made


def _schema_of(info: FieldInfo) -> dict[str, Any]:
    """Return the schema of a field's type, without `| None`: a key is left out, and never null."""
    annotated: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    made: dict[str, Any] = TypeAdapter(annotated).json_schema(ref_template="#/$defs/{model}")
    for part in (made, *made.get("anyOf", [])):
        if part.get("title") == STEPS_TITLE:
            # pydantic refuses a reference to a definition that it did not make.
            part["items"] = {"$ref": "#/$defs/step"}
        if "off" in part.get("enum", ()):
            # In YAML 1.1, `off` is a boolean, and many validators read that.
            part["enum"] = [*part["enum"], False]
            part.pop("type", None)
    choices = [choice for choice in made.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del made["anyOf"]
        made.update(choices[0])
    return made


def _describe_model(cls: type[BaseModel]) -> str:
    """Return what a mapping is for, in one line."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


def _examples(info: FieldInfo) -> list[Any]:
    """Return values of a field as a runbook writes them: its own, or those of its type."""
    if info.examples:
        return info.examples
    if models := list(find_models(info.annotation)):
        mapping = _example_of(models[0])
        return [[mapping] if get_origin(info.annotation) in (tuple, list) else mapping]
    examples: list[Any] = _schema_of(info).get("examples", [])
    return examples or list(_choices(info.annotation))


def _example_of(cls: type[BaseModel]) -> dict[str, Any]:
    """Return a mapping with the keys that must be written; with its first key if none must be."""
    fields = list(_own_first(cls))
    needed = [(name, info) for name, info in fields if must_be_written(cls, name)] or fields[:1]
    return {info.alias or name: _examples(info)[0] for name, info in needed}


def _own_first(cls: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Return the fields of a mapping; those that every step type has come last, in the order of Step.

    A type that declares a common field again, such as `timeout`, moves it to the front of these.
    """
    return sorted(_fields(cls), key=lambda field: issubclass(cls, Step) and _is_common(field[0]))


def _is_common(name: str) -> bool:
    return name in Step.model_fields and bool(Step.model_fields[name].description)


def _fields(cls: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    return ((name, info) for name, info in cls.model_fields.items() if not info.exclude)


def _row(name: str, info: FieldInfo, cls: type[BaseModel], *, common: bool = False) -> FieldReference:
    key = info.alias or name
    required = must_be_written(cls, name)
    inherited = issubclass(cls, Step) and name in INHERITED_FIELDS
    default = "that of the runbook" if inherited else _default(info)
    models = find_models(info.annotation)
    fields = tuple(_row(n, i, model) for model in models for n, i in _fields(model))
    return FieldReference(key, _words(info), default, required, info.description or "", common, fields)


def _words(info: FieldInfo) -> str:
    """Return a field's type in words: "time span", "`off` or `auto` or list of steps"."""
    if models := list(find_models(info.annotation)):
        keys = ", ".join(f"`{i.alias or n}`" for model in models for n, i in _fields(model))
        many = get_origin(info.annotation) in (tuple, list)
        return f"list of mappings: {keys}" if many else f"mapping: {keys}"
    made = _schema_of(info)
    titles = dict.fromkeys(part.get("title", "") for part in (made, *made.get("anyOf", [])))
    return " or ".join([*(f"`{word}`" for word in _choices(info.annotation)), *filter(None, titles)]) or "mapping"


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for argument in get_args(annotation):
            yield from _choices(argument)


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True) if not info.is_required() else None
    if value in (None, PydanticUndefined, (), "", {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return format_span(value) if "time span" in _words(info) else f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return str(value)
