"""YAML into nodes: every scalar as its text, every key and value with its place. The only importer of yaml.

PyYAML's events are read one by one, and nothing is built from them that was not counted first: neither the
depth nor the size of what a file asks for can hurt (its composer recurses in C, where deep nesting ends the
process). What YAML would make of a word (`no`, 1.10, 010) is nobody's business here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from runbook.util.wording import shorten

MAX_BYTES = 1 << 20
"""Size of a file: runbooks have some hundred lines."""
MAX_YAML_DEPTH = 32
"""How deep lists and mappings may be nested; a header of a probe of a check is at ten."""
MAX_NODES = 50_000
"""Values that a file may hold, each counted as often as aliases repeat it."""

# PyYAML is there without libyaml as well, only slower.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_UNUSUAL = re.compile(r"[^\t\n\r\x20-\x7e]")
# Made ready when there is something unusual: that takes longer than to read most runbooks.
_STRANGE = r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_MERGE = "<<"


@dataclass(frozen=True, order=True)
class Position:
    """A place in a file. Lines and columns count from 1, as editors do."""

    line: int
    column: int


Problems = list[tuple[Position, str]]
"""What is wrong, and where."""


@dataclass
class Node:
    """A value of the file: a text, None for nothing, a list of nodes, or a mapping of names to nodes.

    `keys` are the places of a mapping's keys. `size` counts the node and all below it, `height` the levels.
    """

    position: Position
    value: str | list[Node] | dict[str, Node] | None
    keys: dict[str, Position] = field(default_factory=dict)
    size: int = 1
    height: int = 1

    def to_plain(self) -> Any:
        """Give it as texts, lists and mappings."""
        if isinstance(self.value, list):
            return [node.to_plain() for node in self.value]
        if isinstance(self.value, dict):
            return {key: node.to_plain() for key, node in self.value.items()}
        return self.value

    def get(self, part: str | int) -> Node | None:
        """Give what stands under a key or at an index, if anything does."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None


class Unreadable(Exception):
    """The file cannot be taken apart: nothing beyond this one mistake is known of it."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


def compose(data: bytes | str, problems: Problems) -> Node | None:
    """Take a file apart. None if that cannot be done; `problems` takes this, and what is wrong in single places."""
    try:
        return _Composer(_decoded(data), problems).document()
    except Unreadable as error:
        problems[:] = [(error.position, error.message)]
        return None


def _decoded(data: bytes | str) -> str:
    """Turn a file into text, or say where it is none."""
    if len(data) > MAX_BYTES:
        limit = f"{MAX_BYTES >> 20} MiB"
        raise Unreadable(Position(1, 1), f"the file is larger than {limit}; a runbook is a short text")
    if isinstance(data, bytes):
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8")
            raise Unreadable(_end_of(before), "this is no text: the file is not UTF-8 from here on") from error
    else:
        text = data
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if _UNUSUAL.search(text) and (strange := re.search(_STRANGE, text)):
        code = f"U+{ord(strange[0]):04X}"
        place = _end_of(text[: strange.start()])
        raise Unreadable(place, f"the character {code} has no place in a text file")
    return text


def _end_of(text: str) -> Position:
    lines = text.split("\n")
    return Position(len(lines), len(lines[-1]) + 1)


class _Composer:
    """Makes nodes of events. What is wrong in one place is noted, and the rest goes on."""

    def __init__(self, text: str, problems: Problems) -> None:
        self.text = text
        self.problems = problems
        self.anchors: dict[str, Node | None] = {}
        self.total = 0
        self.events = self._read()

    def _read(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            if "end of stream" in str(error.problem) and error.context_mark:
                # Where it began says more than the end of the file.
                mark = error.context_mark
            place = _position(mark) if mark else Position(1, 1)
            raise Unreadable(place, _describe_error(error, self.text, place)) from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise Unreadable(Position(1, 1), "cannot read the file as YAML") from error

    def document(self) -> Node:
        """Make the node of the one document there is."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                what = "a second document begins here; a file holds one runbook (remove the `---`)"
                raise Unreadable(_start(event), what)
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        if root is None or root.value is None:
            raise Unreadable(Position(1, 1), "the file is empty; a runbook needs `steps`")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        place = _start(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, depth)
        if depth > MAX_YAML_DEPTH:
            raise _too_deep(place)
        if event.tag is not None:
            self.problems.append((place, f"the tag `{_tag(event.tag)}` is not taken here; remove it"))
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = Node(place, None)
        if isinstance(event, yaml.ScalarEvent):
            # A text in quotes is a text, even an empty one.
            node.value = None if not event.style and event.value in _NOTHING else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = list(self._items(depth))
            for item in node.value:
                _add_size(node, item)
        else:
            self._fill(node, depth)
        self._count(node, 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _fill(self, node: Node, depth: int) -> None:
        node.value = entries = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            merges = isinstance(event, yaml.ScalarEvent) and not event.style and event.value == _MERGE
            key = self._node(event, depth + 1)
            value = self._node(next(self.events), depth + 1)
            _add_size(node, key)
            _add_size(node, value)
            if isinstance(key.value, (list, dict)):
                self.problems.append((key.position, "a key must be a single word, not a list or a mapping"))
                continue
            name = event.value if isinstance(event, yaml.ScalarEvent) else key.value or ""
            if merges:
                self.problems.append((key.position, "`<<` does not merge mappings here; write the keys out"))
            elif name in entries:
                first = node.keys[name].line
                self.problems.append((key.position, f"`{shorten(name)}` stands twice; it is in line {first} already"))
            else:
                entries[name], node.keys[name] = value, key.position

    def _alias(self, event: Any, place: Position, depth: int) -> Node:
        name = shorten(event.anchor)
        if event.anchor not in self.anchors:
            raise Unreadable(place, f"`*{name}` stands for nothing: there is no `&{name}` before it")
        target = self.anchors[event.anchor]
        if target is None:
            raise Unreadable(place, f"`*{name}` would hold itself")
        if depth + target.height > MAX_YAML_DEPTH:
            raise _too_deep(place)
        node = replace(target, position=place)
        self._count(node, target.size)
        return node

    def _count(self, node: Node, size: int) -> None:
        self.total += size
        if self.total > MAX_NODES:
            raise Unreadable(node.position, f"the file holds more than {MAX_NODES} values, aliases counted out")


def _add_size(node: Node, below: Node) -> None:
    node.size += below.size
    node.height = max(node.height, below.height + 1)


def _too_deep(place: Position) -> Unreadable:
    return Unreadable(place, f"lists and mappings are nested more than {MAX_YAML_DEPTH} deep here")


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _start(event: Any) -> Position:
    return _position(event.start_mark)


def _tag(tag: str) -> str:
    standard = "tag:yaml.org,2002:"
    return shorten("!!" + tag.removeprefix(standard) if tag.startswith(standard) else tag)


_UNALIGNED = "this does not line up with the lines above; check how far it is indented"
_STRAY = "this does not belong to what stands above; check how far it is indented"
_SYNTAX = (
    ("expected ',' or '", "a list or mapping in brackets is not closed, or a comma is missing"),
    ("could not find expected ':'", "a key without a `:` after it"),
    ("expected <block end>", _UNALIGNED),
    ("block sequence entries are not allowed", "a list begins in the middle of a line; give it its own line"),
    ("unexpected end of stream", "a quote or a bracket is never closed"),
    ("expected the node content", "a value is missing"),
    ("expected <document start>", _STRAY),
    ("expected '<document start>'", _STRAY),
    ("block mapping", _UNALIGNED),
    ("unknown escape character", "an unknown `\\` in double quotes; write it in single quotes"),
    ("expected escape sequence", "an unknown `\\` in double quotes; write it in single quotes"),
)
"""What YAML's parsers say, and what it means for who wrote the line. The first that fits counts."""


def _describe_error(error: yaml.MarkedYAMLError, text: str, place: Position) -> str:
    """Say what is wrong with the YAML, in words of our own."""
    said = f"{error.problem or ''} {error.context or ''}"
    lines = text.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    here = line[place.column - 1 : place.column]
    if "cannot start any token" in said:
        if here == "\t":
            return "a tab cannot indent in YAML; use spaces"
        return f"a value cannot begin with `{here}`; put it in quotes" if here else "a value cannot begin like this"
    if "mapping values are not allowed" in said:
        if re.search(r":\s", line[: place.column - 1]):
            return "a second `: ` in one line; put the value in quotes"
        return "this does not fit the line above: a `:` is missing there, or this is indented too far"
    if "${{" in line and "flow" in said:
        return "`${{ }}` within a list or mapping in brackets must stand in quotes"
    for sign, words in _SYNTAX:
        if sign in said:
            return words
    return "cannot read this as YAML; the mistake is here, or in the lines above"
