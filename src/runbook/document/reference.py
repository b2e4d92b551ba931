"""What may stand in a runbook, told by the models themselves: for editors, for `runbook steps`, for the pages.

Nothing here is written twice: a field is described where it is declared, and a type of field in `fields.py`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from runbook.spec.step import INHERITED_FIELDS, STEPS_TITLE, Runbook, Step, must_be_written
from runbook.steps import registry
from runbook.util.timespan import format_span

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class FieldReference:
    """One field, as a table shows it. `fields` are those of the mapping that it holds, if it holds one.

    `default` is empty where there is none. `common` says that every step type has it.
    """

    key: str
    type: str
    default: str
    required: bool
    description: str
    common: bool = False
    fields: tuple[FieldReference, ...] = ()


@dataclass(frozen=True)
class StepReference:
    """One step type: what it does in a line, what else there is to say, and its fields, its own first."""

    kind: str
    summary: str
    details: str
    changes: bool
    rows: tuple[FieldReference, ...]


def describe_type(kind: str) -> StepReference:
    """Describe a step type. Raises KeyError if there is none of this name."""
    cls = registry()[kind]
    summary, _, details = inspect.cleandoc(cls.__doc__ or "").partition("\n")
    inherited = {name for name, info in Step.model_fields.items() if info.description}
    rows = [_row(name, info, cls, common=name in inherited) for name, info in _fields(cls)]
    # `timeout` is every step's, but its default is the type's own.
    own = [row for row in rows if not row.common]
    common = [row for row in rows if row.common]
    return StepReference(kind, summary, details.strip(), cls.can_change(), (*own, *common))


def describe_types() -> tuple[StepReference, ...]:
    """Describe every step type."""
    return tuple(describe_type(kind) for kind in registry())


def describe_top_level() -> tuple[FieldReference, ...]:
    """Describe the keys at the top of a file."""
    return tuple(_row(name, info, Runbook) for name, info in _fields(Runbook))


def make_schema() -> dict[str, Any]:
    """Make the JSON Schema of a runbook (draft 2020-12), by which editors complete and check."""
    step_types = registry()
    definitions: dict[str, Any] = {}
    for kind, cls in step_types.items():
        definitions[kind] = _mapping(cls, definitions)
    bare = [kind for kind, cls in step_types.items() if not any(must_be_written(cls, name) for name, _ in _fields(cls))]
    definitions["step"] = {
        "description": "One step: the name of its type, or a mapping with that as its one key.",
        "anyOf": [
            {"enum": bare},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {kind: _body(kind, kind in bare) for kind in step_types},
            },
        ],
    }
    top = _mapping(Runbook, definitions)
    top["properties"]["vars"] = {
        "title": "mapping of names to texts or lists of texts",
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean", "array"]},
        "description": top["properties"]["vars"]["description"],
    }
    return {"$schema": DRAFT, "title": "runbook", **top, "$defs": dict(sorted(definitions.items()))}


def _body(kind: str, bare: bool) -> dict[str, Any]:
    reference = {"$ref": f"#/$defs/{kind}"}
    return {"anyOf": [reference, {"type": "null"}]} if bare else reference


def _mapping(cls: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Make the schema of a mapping that is read as `cls`; those of the mappings within it are put aside."""
    properties = {}
    for name, info in _fields(cls):
        part = _schema_of(info)
        # A nested mapping is described the same way, not as pydantic would: its keys, its descriptions.
        for model in _models(info.annotation):
            definitions.setdefault(model.__name__, _mapping(model, definitions))
        part.pop("$defs", None)
        part.pop("default", None)
        properties[info.alias or name] = {**part, "description": info.description or ""}
    required = [info.alias or name for name, info in _fields(cls) if must_be_written(cls, name)]
    made: dict[str, Any] = {
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": False,
    }
    return {**made, "required": required} if required else made


def _schema_of(info: FieldInfo) -> dict[str, Any]:
    """Give the schema of a field's type. `| None` only says that the key may be left out."""
    made: dict[str, Any] = TypeAdapter(_annotated(info)).json_schema(ref_template="#/$defs/{model}")
    for part in (made, *made.get("anyOf", [])):
        if part.get("title") == STEPS_TITLE:
            # pydantic takes no reference to what it did not make itself.
            part["items"] = {"$ref": "#/$defs/step"}
    choices = [choice for choice in made.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1 and len(made["anyOf"]) > 1:
        rest = {key: value for key, value in made.items() if key != "anyOf"}
        return {**rest, **choices[0]}
    return made


def _annotated(info: FieldInfo) -> Any:
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def _fields(cls: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    return ((name, info) for name, info in cls.model_fields.items() if not info.exclude)


def _row(name: str, info: FieldInfo, cls: type[BaseModel], *, common: bool = False) -> FieldReference:
    key = info.alias or name
    required = must_be_written(cls, name)
    inherited = issubclass(cls, Step) and name in INHERITED_FIELDS
    default = "that of the runbook" if inherited else _default(info)
    models = list(_models(info.annotation))
    fields = tuple(_row(n, i, model) for model in models for n, i in _fields(model))
    return FieldReference(key, _words(info), default, required, info.description or "", common, fields)


def _words(info: FieldInfo) -> str:
    """Name a field's type as people do."""
    models = list(_models(info.annotation))
    if models:
        keys = ", ".join(f"`{i.alias or n}`" for model in models for n, i in _fields(model))
        many = get_origin(info.annotation) in (tuple, list)
        return f"list of mappings: {keys}" if many else f"mapping: {keys}"
    words = [word for choice in _choices(info.annotation) for word in choice]
    made = _schema_of(info)
    titles = [made.get("title", ""), *(choice.get("title", "") for choice in made.get("anyOf", []))]
    return " or ".join([*(f"`{word}`" for word in words), *dict.fromkeys(t for t in titles if t)]) or "mapping"


def _choices(annotation: Any) -> Iterator[tuple[Any, ...]]:
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    elif get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _choices(argument)


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True) if not info.is_required() else None
    if value is None or value is PydanticUndefined or value in ((), "") or value == {}:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format_span(value) if "time span" in _words(info) else f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Find the mappings that a type holds, other than steps."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not issubclass(annotation, Step):
            yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list, Mapping, dict):
        for argument in get_args(annotation):
            yield from _models(argument)


__all__ = ["FieldReference", "StepReference", "describe_top_level", "describe_type", "describe_types", "make_schema"]
