"""The steps of a file before they are checked: their positions, types and ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.document.nodes import Node, Problems
from runbook.document.synonyms import explain_command, explain_step_type
from runbook.document.syntax import Position
from runbook.document.wording import fields_of
from runbook.spec.readers import FieldError, describe_kind, read_step_id
from runbook.spec.step import Nested, Step
from runbook.util.wording import join_words, shorten, suggest

Types = Mapping[str, type[Step[Any]]]


@dataclass
class StepNode:
    """One step in the file."""

    position: Position
    cls: type[Step[Any]]
    body: Node  # the mapping of its fields
    id: str = ""
    nested: dict[str, list[StepNode]] = field(default_factory=dict)
    """The lists of steps in it, by key: `check` and `fix` of a `remediate`."""

    def walk(self) -> Iterator[StepNode]:
        """Yield it and every step nested in it."""
        yield self
        for sites in self.nested.values():
            for site in sites:
                yield from site.walk()


def find_steps(node: Node | None, key: str, types: Types, problems: Problems) -> list[StepNode]:
    """Return the steps in a list. An item that is not a step is left out and added to `problems`."""
    if node is None:
        return []
    if isinstance(node.value, (str, dict)):
        problems.append(_describe_no_list(node, key, types))
    elif not node.value:
        found = "empty" if node.value is None else "an empty list"
        problems.append((node.position, f"`{key}` is {found}; it needs at least one step"))
    else:
        return [site for item in node.value if (site := _read_step(item, types, problems))]
    return []


def _describe_no_list(node: Node, key: str, types: Types) -> tuple[Position, str]:
    """Return what is wrong with a value that should be a list of steps: mostly, the `- ` of the first step."""
    sentence = f"`{key}` must be a list of steps (`- …`), not {describe_kind(node.value)}"
    first = node.value if isinstance(node.value, str) else next(iter(node.value or ()), "")
    word = re.match(r"(-*)(\w[\w-]*)", str(first))
    if word and word[1]:
        sentence = f"a space is missing after the `-`; write `- {word[2]}`"
    elif word and word[2] in types:
        how = f"write `- {word[2]}` in a line of its own"
        sentence = f"`{key}` must be a list of steps, but a `-` is missing before `{word[2]}`; {how}"
    return node.position, sentence


def _read_step(item: Node, types: Types, problems: Problems) -> StepNode | None:
    """Return the step of an item: the bare name of a type, or a mapping with one type as its key."""
    if isinstance(item.value, str):
        return _make_step_node(item.value, Node(item.position, None), item, types, problems)
    if not isinstance(item.value, dict) or not item.value:
        how = "write a step type, or a mapping with a step type as its key"
        problems.append((item.position, f"a step cannot be {describe_kind(item.value)}; {how}"))
        return None
    # A single key is meant as a step type, even if it is misspelt.
    type_names = [key for key in item.value if key in types or len(item.value) == 1]
    if not type_names and (foreign := _find_foreign_key(item.value, types)):
        return _make_step_node(foreign, item.value[foreign], item, types, problems)
    if len(type_names) != 1:
        these = join_words(type_names or list(item.value)[:3])
        how = "write a step for each" if type_names else "write its fields below the step type"
        problems.append((item.position, f"a step must have one step type as its key, not {these}; {how}"))
        return None
    (type_name,) = type_names
    how = f"is beside `{type_name}`; indent it further, as a field of the step"
    problems += [(item.keys[key], f"`{shorten(key)}` {how}") for key in item.value if key != type_name]
    return _make_step_node(type_name, item.value[type_name], item, types, problems)


def _find_foreign_key(keys: Iterable[str], types: Types) -> str:
    """Return the first key that is a step type of another tool; empty if there is none. It loads all step types."""
    fields = {field for cls in types.values() for field in fields_of(cls)}
    return next((key for key in keys if key not in fields and explain_step_type(key)), "")


def _make_step_node(type_name: str, body: Node, item: Node, types: Types, problems: Problems) -> StepNode | None:
    cls = types.get(type_name)
    if cls is None:
        problems.append(_describe_unknown_type(type_name, item, types))
        return None
    if body.value is not None and not isinstance(body.value, dict):
        sentence = f"`{type_name}` must be a mapping of its fields (`key: value`), not {describe_kind(body.value)}"
        problems.append((body.position, f"{sentence}{_suggest_field(type_name, body.value, cls)}"))
        return None
    site = StepNode(item.position, cls, body if body.value is not None else Node(item.position, {}))
    site.nested = {key: find_steps(body.get(key), key, types, problems) for key in find_nested_keys(cls)}
    return site


def _describe_unknown_type(type_name: str, item: Node, types: Types) -> tuple[Position, str]:
    # The next item of the list may have become a part of this one.
    next_item = rf"\n([ \t]*)(?=(-)|(?:{'|'.join(types)})\b)"
    if not item.quoted and (line := re.search(next_item, item.raw)):
        first = f"`{shorten(item.raw.partition(chr(10))[0])}`"
        how = f"begin it in the column of that item, with `- `{'' if line[2] else ', if it is a step'}"
        tab = "this line is indented with a tab; use spaces"
        return item.position_at(line.end()), tab if "\t" in line[1] else f"this line continues {first}; {how}"
    hint = _explain_words(type_name, types) or explain_step_type(type_name) or suggest(type_name, types)
    hint = hint or f"; the step types are {join_words(types)}"
    return item.keys.get(type_name, item.position), f"unknown step type `{shorten(type_name)}`{hint}"


def _explain_words(line: str, types: Types) -> str:
    """Return what to write for a line of several words: `kill-orphan 80`, or a command."""
    word, _, value = line.partition(" ")
    if word not in types:
        return explain_command(line)
    return _suggest_field(word, value.strip(), types[word]) if " " not in value.strip() else f"; write `{word}` alone"


_VALUES = (
    (r"(?i)true|yes|on|now|null", ()),
    (r"[0-5]?\d", ("healthy-for", "port", "timeout")),
    (r"\d{2,5}", ("port", "timeout")),
    (r"\d+(?:\.\d+)? ?[a-z]+(?: ?\d+ ?[a-z]+)*", ("healthy-for", "grace", "timeout")),
    (r"v?\d+(?:\.\d+)+\S*", ("to", "expect", "unit")),
    (r"[\w.\\@-]+", ("unit",)),
)
"""What a single value looks like, and the fields that it may belong to; none if the step needs no value."""


def _suggest_field(type_name: str, value: object, cls: type[Step[Any]]) -> str:
    """Return what to write if a step type has a single value: a mapping with the field that it probably belongs to."""
    if not isinstance(value, str):
        return ""
    if type_name in cls.model_fields:
        keys: tuple[str, ...] = (type_name,)
    else:
        keys = next((keys for pattern, keys in _VALUES if re.fullmatch(pattern, value)), ("unit",))
        if not keys:
            return f"; write `{type_name}` alone"
    key = next((key for key in keys if key in fields_of(cls)), None)
    if key is None:
        return ""
    # The suggestion must be valid YAML, so a value that would need quotes is left out.
    text = value if re.fullmatch(r"[\w ./=@+-]{1,40}", value) else "..."
    seconds = "s" if value.isdigit() and key in ("healthy-for", "timeout") else ""
    return f"; write `{type_name}: {{{key}: {text}{seconds}}}`"


def find_nested_keys(cls: type[Step[Any]]) -> dict[str, Nested]:
    """Return the keys of a type whose values are lists of steps."""
    marks = ((key, mark) for key, info in fields_of(cls).items() for mark in info.metadata)
    return {key: mark for key, mark in marks if isinstance(mark, Nested)}


def assign_ids(lists: Mapping[str, list[StepNode]], problems: Problems) -> None:
    """Set the id of each step: the one in the file, or else the type, then `type-2`, …

    `lists` are the lists of steps by the prefix of their ids. The id of a nested step begins with that of the outer
    one: `remediate.check.wait-ready`.
    """
    taken: dict[str, Position] = {}
    # The ids in the file come first, wherever they are: a generated id must not take one of them.
    for site in (site for sites in lists.values() for outer in sites for site in outer.walk()):
        node = site.body.get("id")
        if node is None:
            continue
        try:
            name = read_step_id(node.to_plain())
        except ValueError as error:
            problems.append((node.position, f"`id` {error}" if isinstance(error, FieldError) else str(error)))
            continue
        if "." in name:
            problems.append((node.position, f"`{shorten(name)}` is not a valid id; only ids of nested steps have dots"))
        elif name in taken:
            first = taken[name].line
            problems.append((node.position, f"duplicate id `{name}`; the first one is in line {first}"))
        else:
            taken[name] = node.position
            site.id = name
    for prefix, sites in lists.items():
        _assign_ids(sites, prefix, taken)


def _assign_ids(sites: list[StepNode], prefix: str, taken: dict[str, Position]) -> None:
    for site in sites:
        number = 1
        while not site.id:
            name = f"{prefix}{site.cls.type_name}" + (f"-{number}" if number > 1 else "")
            if name not in taken:
                taken[name] = site.position
                site.id = name
            number += 1
        for key, nested in site.nested.items():
            _assign_ids(nested, f"{site.id}.{key}.", taken)
