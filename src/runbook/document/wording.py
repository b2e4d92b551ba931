"""pydantic's errors as sentences for the author of a runbook, each with its position in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from runbook.document.nodes import Node
from runbook.document.synonyms import explain_field, explain_top_level, normalize
from runbook.document.syntax import Position
from runbook.spec.readers import FieldError, describe_kind
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
from runbook.steps import registry
from runbook.template.namespace import TemplateError
from runbook.util.wording import join_words, shorten, suggest

Loc = Sequence[str | int]

KINDS = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type"), "a mapping (`key: value`)"),
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "iterable_type"), "a list (`- …`)"),
    **dict.fromkeys(("string_type", "int_type", "float_type", "bool_type"), "a single value"),
}
LIMITS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "too_short": "is an empty list; write at least {min_length}",
    "too_long": "is too long; write at most {max_length}",
}


def describe_problems(
    error: ValidationError, model: type[BaseModel], node: Node, item: Position, name: str
) -> Iterator[tuple[Position, str]]:
    """Yield the position and the sentence of each error, each once.

    `node` is the mapping that was read as `model`, `item` the position of the step that it belongs to, and `name` that
    step's name in messages: `restart`.
    """
    described: set[tuple[str | int, ...]] = set()
    for details in error.errors(include_url=False):
        path = _path(details["loc"], node)
        key = (*path, details["loc"][-1]) if details["type"] == "missing" else path
        # pydantic reports one error for each type of a union. It is one error of the author.
        if key in described:
            continue
        described.add(key)
        yield _find_position(details, path, node, item), _sentence(details, path, model, name)


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of the mapping that is read as this model, by key."""
    return {info.alias or name: info for name, info in model.model_fields.items() if not info.exclude}


def find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models of the mappings in a type, except steps: each step is read by itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not issubclass(annotation, Step):
            yield annotation
    else:
        for argument in get_args(annotation):
            yield from find_models(argument)


def describe_unknown_key(key: str, model: type[BaseModel], owner: str) -> str:
    """Return the sentence about an unknown key, with the key that was probably meant."""
    known = fields_of(model)
    top = model is Runbook
    hint = explain_top_level(key) if top else explain_field(key, known)
    if not hint and not (elsewhere := explain_top_level(key)).startswith("; it is called"):
        hint = elsewhere
    hint = hint or ("" if normalize(key) in known else _find_elsewhere(key, top)) or suggest(key, known)
    return f"unknown key `{shorten(key)}`{hint or f'; the keys of {owner} are {join_words(sorted(known))}'}"


def _find_elsewhere(key: str, top: bool) -> str:
    """Return where else in a file this is a key; empty if it is none. `top` if it was found at the top of the file."""
    if key in registry():
        return f"; it is a step type, and belongs in {'`steps`' if top else 'a list of steps'}"
    if key in fields_of(Step if top else Runbook):
        return f"; it belongs {'in a step' if top else 'at the top of the file'}"
    kinds = [kind for kind, cls in registry().items() if normalize(key) in fields_of(cls)]
    return f"; it is a key of {join_words(kinds)}" if kinds else ""


def _path(loc: Loc, node: Node) -> tuple[str | int, ...]:
    """Return the parts of a location that are in the file: pydantic adds the names of the types that it tried."""
    path: list[str | int] = []
    for part in loc:
        if below := node.get(part):
            path.append(part)
            node = below
    return tuple(path)


def _find_position(details: Any, path: Loc, node: Node, item: Position) -> Position:
    above = node
    for part in path[:-1]:
        above = above.get(part) or above
    here = (above.get(path[-1]) or above) if path else node
    if path and (details["type"] == "extra_forbidden" or details["loc"][-1] == "[key]"):
        return above.keys.get(str(path[-1]), here.position)
    error = details.get("ctx", {}).get("error")
    if path and isinstance(error, TemplateError):
        return here.find(error.source)
    if not path:
        # An error of a whole step whose sentence begins with a key is reported at that key.
        key = re.match(r"`([\w-]+)`", str(error or ""))
        named = node.get(key[1]) if key else None
        return named.position if named else item
    return here.position


def _sentence(details: Any, path: Loc, model: type[BaseModel], name: str) -> str:
    kind, ctx = details["type"], details.get("ctx", {})
    names = [part for part in path if isinstance(part, str)]
    key = f"`{names[-1]}`" if names else name
    if path and isinstance(path[-1], int):
        key = f"an entry of {key}"
    if kind in ("value_error", "assertion_error"):
        error = ctx["error"]
        return f"{key} {error}" if isinstance(error, FieldError) else str(error)
    if kind == "missing":
        return f"{names[-1] if names else name} needs `{details['loc'][-1]}`"
    if kind == "extra_forbidden":
        owner = names[-2] if len(names) > 1 else name
        return describe_unknown_key(str(path[-1]), _model_at(model, path[:-1]) or model, owner)
    if kind == "literal_error":
        return _choice(key, details)
    if kind in KINDS:
        return f"{key} must be {KINDS[kind]}, not {describe_kind(details['input'])}"
    if kind in LIMITS:
        return f"{key} {LIMITS[kind].format(**ctx)}"
    return f"{key} cannot be read; see `runbook steps`"


def _choice(key: str, details: Any) -> str:
    words = re.findall(r"'([^']*)'", details["ctx"]["expected"])
    one = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)
    value = details["input"]
    if not isinstance(value, str):
        return f"{key} must be {one}, not {describe_kind(value)}"
    if "{{" in value:
        return f"{key} cannot be a template; write {one}"
    return f"{key} must be {one}, not `{shorten(value)}`{suggest(value, words)}"


def _model_at(model: type[BaseModel], path: Loc) -> type[BaseModel] | None:
    """Return the model that a part of the file was read as."""
    found: type[BaseModel] | None = model
    for part in (part for part in path if isinstance(part, str)):
        info = fields_of(found).get(part) if found else None
        found = next(find_models(info.annotation), None) if info else None
    return found
