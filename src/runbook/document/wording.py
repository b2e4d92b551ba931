"""What pydantic finds wrong with a part of a file, in words of our own and at its place in the file."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from runbook.document.nodes import Node, Position
from runbook.spec.fields import FieldError, describe_kind
from runbook.template import OPEN
from runbook.util.wording import join_words, shorten, suggest

Loc = Sequence[str | int]

MAPPINGS = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
LISTS = ("tuple_type", "list_type", "set_type", "iterable_type")
SCALAR_TYPES = ("string_type", "int_type", "float_type", "bool_type")
LIMITS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
}


def describe_problems(
    error: ValidationError, model: type[BaseModel], node: Node | None, item: Position, name: str
) -> Iterator[tuple[Position, str]]:
    """Give the place and the sentence of each mistake, each once.

    `node` is the mapping that was read as `model`, if there is one; `item` the place of what it belongs to;
    `name` what people call that: `restart`.
    """
    told: set[tuple[str | int, ...]] = set()
    for details in error.errors(include_url=False):
        path = _path(details["loc"], node)
        missing = details["type"] == "missing"
        key = (*path, details["loc"][-1]) if missing else path
        # A value that fits none of several types is one mistake.
        if key in told:
            continue
        told.add(key)
        yield _find_position(details, path, node, item), _sentence(details, path, model, name)


def keys_of(model: type[BaseModel]) -> list[str]:
    """Give the keys that a mapping of this kind may have."""
    return [f.alias or n for n, f in model.model_fields.items() if not f.exclude]


def describe_unknown_key(key: str, model: type[BaseModel], owner: str) -> str:
    """Say that a key is unknown, and what was meant."""
    known = keys_of(model)
    hint = suggest(key, known) or f"; {owner} takes {join_words(sorted(known))}"
    return f"unknown key `{shorten(key)}`{hint}"


def _path(loc: Loc, node: Node | None) -> tuple[str | int, ...]:
    """Give the part of a location that stands in the file: pydantic adds the names of types that it tried."""
    path: list[str | int] = []
    for part in loc:
        below = node.get(part) if node else None
        if below is not None:
            path.append(part)
            node = below
    return tuple(path)


def _find_position(details: Any, path: Loc, node: Node | None, item: Position) -> Position:
    if node is None:
        return item
    above = node
    for part in path[:-1]:
        above = above.get(part) or above
    here = (above.get(path[-1]) or above) if path else node
    if path and (details["type"] == "extra_forbidden" or details["loc"][-1] == "[key]"):
        return above.keys.get(str(path[-1]), here.position)
    if not path:
        # A sentence on the whole that begins with a key belongs to that key.
        key = re.match(r"`([\w-]+)`", _raised_text(details))
        named = node.get(key[1]) if key else None
        return named.position if named else item
    return here.position


def _raised_text(details: Any) -> str:
    error = details.get("ctx", {}).get("error")
    return str(error) if error is not None else ""


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
    if kind in MAPPINGS:
        return f"{key} wants a mapping (`key: value`), not {describe_kind(details['input'])}"
    if kind in LISTS:
        return f"{key} wants a list (`- …`), not {describe_kind(details['input'])}"
    if kind in SCALAR_TYPES:
        return f"{key} wants a single value, not {describe_kind(details['input'])}"
    if kind in LIMITS:
        limit, words = LIMITS[kind]
        return f"{key} must be {words.format(format(ctx[limit], 'g'))}"
    if kind == "too_short":
        return f"{key} is an empty list; it needs at least {ctx['min_length']}"
    if kind == "too_long":
        return f"{key} takes no more than {ctx['max_length']}"
    return f"{key} cannot be read as it stands; see `runbook steps`"


def _choice(key: str, details: Any) -> str:
    words = re.findall(r"'([^']*)'", details["ctx"]["expected"])
    one = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)
    value = details["input"]
    if not isinstance(value, str):
        return f"{key} is {one}, not {describe_kind(value)}"
    if OPEN in value:
        return f"{key} takes no template; write {one}"
    return f"{key} is {one}, not `{shorten(value)}`{suggest(value, words)}"


def _model_at(model: type[BaseModel], path: Loc) -> type[BaseModel] | None:
    """Find the class that a part of the file was read as."""
    found: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int) or found is None:
            continue
        fields = {f.alias or n: f for n, f in found.model_fields.items()}
        found = next(_models(fields[part].annotation), None) if part in fields else None
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list, Annotated, Mapping, dict):
        for argument in get_args(annotation):
            yield from _models(argument)
