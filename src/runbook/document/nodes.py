"""Reads YAML into nodes: scalars as texts, keys and values with their positions.

PyYAML's events are read one by one, and depth and size are checked before anything is built from them. PyYAML's own
composer recurses in C, where deep nesting crashes the process. YAML's types are not used: `no`, 1.10 and 010 stay
what is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from runbook.document.syntax import (
    QUOTES,
    Position,
    Trail,
    describe_curly_quotes,
    describe_open_quote,
    describe_syntax_error,
    position_of,
    spans_lines,
)
from runbook.template.foreign import names_template
from runbook.util.wording import CURLY_QUOTES, shorten

MAX_BYTES = 1 << 20  # bytes of a file. A runbook has some hundred lines
MAX_YAML_DEPTH = 32  # levels of nested lists and mappings. A header of a probe in a check is at level ten
MAX_NODES = 50_000  # values of a file, each counted as often as aliases repeat it

# PyYAML may be installed without libyaml; the loader in Python is slower.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_UNUSUAL = re.compile(r"[^\t\n\r\x20-\x7e]")
# Compiled only if a character is unusual: compiling it takes longer than reading most runbooks.
_STRANGE = r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_MERGE = "<<"


Problems = list[tuple[Position, str]]  # every error found so far: where, and a sentence


@dataclass
class Node:
    """A value of the file."""

    position: Position
    value: str | list[Node] | dict[str, Node] | None  # A text, a list, a mapping, or None for an empty value
    keys: dict[str, Position] = field(default_factory=dict)  # the positions of a mapping's keys
    size: int = 1  # the number of nodes: this one and all below it
    height: int = 1  # the number of levels: this one and those below it
    raw: str = ""  # a text of several lines as it is in the file; empty if it is in one line
    quoted: bool = False  # True if it is in quotes, or below a `|` or `>`

    def to_plain(self) -> Any:
        """Return it as texts, lists and mappings."""
        if isinstance(self.value, list):
            return [node.to_plain() for node in self.value]
        if isinstance(self.value, dict):
            return {key: node.to_plain() for key, node in self.value.items()}
        return self.value

    def find(self, source: str) -> Position:
        """Return where a part of it begins, in a text of several lines; else where it begins itself."""
        opened = source.startswith("${{")
        pattern = rf"\$\{{\{{\s*{re.escape(source[3:].strip())}" if opened else re.escape(source)
        return self.position_at(found.start()) if source and (found := re.search(pattern, self.raw)) else self.position

    def position_at(self, offset: int) -> Position:
        """Return the position of a character of `raw`."""
        before = self.raw[:offset].split("\n")
        column = len(before[-1]) + (1 if before[1:] else self.position.column)
        return Position(self.position.line + len(before) - 1, column)

    def get(self, part: str | int) -> Node | None:
        """Return the node of a key or an index, or None if there is none."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None


class Unreadable(Exception):
    """The file cannot be parsed, so this is its only error. Its `args` are a position and a sentence."""


def compose(data: bytes | str, problems: Problems) -> Node | None:
    """Return the nodes of a file, or None if it cannot be parsed. The errors are added to `problems`."""
    try:
        return _Composer(_decoded(data), problems).document()
    except Unreadable as error:
        problems[:] = [error.args]
        return None


def _decoded(data: bytes | str) -> str:
    """Return a file as text. Raises Unreadable at the first byte or character that is not text."""
    if len(data) > MAX_BYTES:
        raise Unreadable(Position(1, 1), f"the file is larger than {MAX_BYTES >> 20} MiB, the limit for a runbook")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        raise Unreadable(_end_of(before), "the file is not UTF-8 from here on; save it as UTF-8") from error
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if _UNUSUAL.search(text) and (strange := re.search(_STRANGE, text)):
        what = f"the character U+{ord(strange[0]):04X} is not allowed in a text file; remove it"
        raise Unreadable(_end_of(text[: strange.start()]), what)
    return text


def _end_of(text: str) -> Position:
    lines = text.split("\n")
    return Position(len(lines), len(lines[-1]) + 1)


class _Composer:
    """Makes nodes from events. An error in one place is recorded, and the rest of the file is still read."""

    def __init__(self, text: str, problems: Problems) -> None:
        self.text = text
        self.problems = problems
        self.anchors: dict[str, Node | None] = {}
        self.total = 0
        self.quotes = () if text.isascii() else (*CURLY_QUOTES,)  # what may stand in the place of a quote
        self.events = self._read()

    def _read(self) -> Iterator[Any]:
        trail = Trail()
        try:
            for event in yaml.parse(self.text, Loader=_LOADER):
                trail.add(event)
                yield event
        except yaml.MarkedYAMLError as error:
            raise Unreadable(*describe_syntax_error(error, trail, self.text)) from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise Unreadable(Position(1, 1), "cannot read the file as YAML") from error

    def document(self) -> Node:
        """Return the node of the file's only document."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                what = "a second document begins here; a file contains one runbook, so remove the `---`"
                raise Unreadable(position_of(event.start_mark), what)
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        if root is None or root.value is None:
            raise Unreadable(Position(1, 1), "the file is empty; a runbook needs `steps`")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        place = position_of(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, depth)
        if depth > MAX_YAML_DEPTH:
            raise _too_deep(place)
        if event.tag is not None:
            tag = re.sub(r"^tag:yaml\.org,2002:", "!!", event.tag)
            self.problems.append((place, f"the tag `{shorten(tag)}` is not supported; remove it"))
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = Node(place, None)
        below: list[Node] = []
        if isinstance(event, yaml.ScalarEvent):
            # "" is an empty text, not an empty value.
            node.value = None if not event.style and event.value in _NOTHING else event.value
            if not event.style and event.value[:1] in self.quotes and (why := describe_curly_quotes(event.value)):
                self.problems.append((place, why))
            if spans_lines(event):
                self._check_lines(event, node)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = below = list(self._items(depth))
        else:
            below = self._fill(node, event, depth)
        node.size += sum(inner.size for inner in below)
        node.height += max((inner.height for inner in below), default=0)
        self._count(node, 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _check_lines(self, event: Any, node: Node) -> None:
        """Keep a text of several lines as it is; report a quote that closes only below the lines around it."""
        if event.style in QUOTES and (sentence := describe_open_quote(event, self.text.split("\n"))):
            self.problems.append((node.position, sentence))
        node.raw = self.text[event.start_mark.index : event.end_mark.index]
        node.quoted = bool(event.style)

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _fill(self, node: Node, event: Any, depth: int) -> list[Node]:
        """Read the entries of a mapping, and return the nodes of its keys and values."""
        node.value = entries = {}
        below: list[Node] = []
        start = event.start_mark.index
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            merges = isinstance(event, yaml.ScalarEvent) and not event.style and event.value == _MERGE
            key = self._node(event, depth + 1)
            value = self._node(next(self.events), depth + 1)
            below += [key, value]
            if isinstance(key.value, (list, dict)):
                if self.text.startswith("{{", start):
                    # YAML reads `{{ to }}` as a mapping in a mapping. It is reported where the text is used.
                    node.value = self.text[start : self.text.find("}}", start) + 2]
                    if not names_template(node.value):
                        self.problems.append((node.position, "a value that begins with `{` must be in quotes"))
                    continue
                self.problems.append((key.position, "a key cannot be a list or a mapping; write a single word"))
                continue
            name = event.value if isinstance(event, yaml.ScalarEvent) else key.value or ""
            if merges:
                self.problems.append((key.position, "`<<` does not merge mappings here; write the keys themselves"))
            elif name in entries:
                what = f"duplicate key `{shorten(name)}`; the first one is in line {node.keys[name].line}"
                self.problems.append((key.position, what))
            else:
                entries[name], node.keys[name] = value, key.position
        return below

    def _alias(self, event: Any, place: Position, depth: int) -> Node:
        name = shorten(event.anchor)
        if event.anchor not in self.anchors:
            raise Unreadable(place, f"`*{name}` is not defined; there is no `&{name}` before it")
        target = self.anchors[event.anchor]
        if target is None:
            raise Unreadable(place, f"`*{name}` is inside its own definition `&{name}`")
        if depth + target.height > MAX_YAML_DEPTH:
            raise _too_deep(place)
        node = replace(target, position=place, raw="")
        self._count(node, target.size)
        return node

    def _count(self, node: Node, size: int) -> None:
        self.total += size
        if self.total > MAX_NODES:
            raise Unreadable(node.position, f"the file has more than {MAX_NODES} values, with its aliases expanded")


def _too_deep(place: Position) -> Unreadable:
    return Unreadable(place, f"lists and mappings are nested more than {MAX_YAML_DEPTH} levels deep here")
