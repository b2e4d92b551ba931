"""Where a YAML error was made, and what it is. The parser reports where it noticed the error, often lines later.

A quote or a bracket that is not closed is reported where it opens, a missing `:` in the line that lacks it. A
character that only looks like a space, a dash or a colon is named, whatever error it led to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

import yaml

from runbook.steps import registry
from runbook.util.wording import CURLY_QUOTES, describe_character


class Position(NamedTuple):
    """A position in a file. Lines and columns count from 1, as in editors."""

    line: int
    column: int


Found = tuple[Position, str]  # where the error was made, and a sentence


def position_of(mark: Any) -> Position:
    """Return the position of one of PyYAML's marks."""
    return Position(mark.line + 1, mark.column + 1)


@dataclass
class Trail:
    """What the parser read before an error."""

    last: Any = None  # the last event
    long_quote: Any = (
        None  # the last quoted text that covers several lines; its quote may be the one that is not closed
    )
    collections: list[Any] = field(default_factory=list)  # the events that began the open lists and mappings

    def add(self, event: Any) -> None:
        """Add the next event."""
        if isinstance(event, yaml.CollectionStartEvent):
            self.collections.append(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.collections.pop()
        elif isinstance(event, yaml.ScalarEvent) and event.style in QUOTES and spans_lines(event):
            self.long_quote = event
        self.last = event


QUOTES = ("'", '"')  # the styles of a scalar in quotes
_BLOCKS = ("|", ">")
_STRUCTURE = re.compile(r"\s*(?:-\s|[\w-]+:(?:\s|$))")
"""How a line of a runbook begins. A text in quotes that contains such lines was probably meant to end before them."""


def spans_lines(event: Any) -> bool:
    """True if a scalar ends in another line than it begins."""
    return bool(event.start_mark.line != event.end_mark.line)


def describe_syntax_error(error: yaml.MarkedYAMLError, trail: Trail, text: str) -> Found:
    """Return where the error was made, and what is wrong in the words of a runbook's author."""
    failure = _Failure(error, trail, text.split("\n"))
    searches = (
        _find_tab,
        _find_open_quote,
        _find_text_behind_quote,
        _find_address,
        _find_open_bracket,
        _find_missing_dash,
        _find_bad_line,
        _find_rest,
    )
    return next(found for search in searches if (found := search(failure)))


@dataclass
class _Failure:
    """An error of the parser, and the text that it read."""

    error: yaml.MarkedYAMLError
    trail: Trail
    lines: list[str]

    @cached_property
    def raw(self) -> str:
        return f"{self.error.problem or ''} {self.error.context or ''}"

    @cached_property
    def at(self) -> Position:
        """Where the parser noticed it."""
        mark = self.error.problem_mark or self.error.context_mark
        return position_of(mark) if mark else Position(1, 1)

    @cached_property
    def begin(self) -> Position:
        """Where what the parser was reading begins; the same as `at` if it reports no other place."""
        return position_of(self.error.context_mark) if self.error.context_mark else self.at

    def line(self, number: int) -> str:
        """Return a line; empty in front of the first and behind the last."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def indent(self, number: int) -> int:
        """Return how many spaces a line begins with."""
        return _indent(self.line(number))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _find_tab(failure: _Failure) -> Found | None:
    line, at = failure.line(failure.at.line), failure.at
    if "tab character" in failure.raw or line[at.column - 1 : at.column] == "\t":
        return at, "a tab is here, and YAML cannot be indented with tabs; use spaces"
    if indent := re.match(r" *(?=\t)", line):
        return Position(at.line, indent.end() + 1), "this line is indented with a tab; use spaces"
    return None


def describe_open_quote(event: Any, lines: list[str], *, wrong: bool = False) -> str:
    """Return that a quoted text of several lines was meant to end before them; empty if it was not.

    A line that is indented no further than the one with the quote cannot be in the text, by the rules of YAML, which
    PyYAML does not check. If the file is `wrong`, a line counts that only looks like one of the file.
    """
    first, last = event.start_mark.line, event.end_mark.line
    indent = _indent(lines[first])
    for line in lines[first + 1 : last + 1]:
        if _STRUCTURE.match(line) and (wrong or _indent(line) <= indent):
            how = f"close it in its line (the next {event.style} is in line {last + 1})"
            return f"the quote that opens here is not closed; {how}"
    return ""


def _find_open_quote(failure: _Failure) -> Found | None:
    """Find a quote that is not closed in its line: the parser takes the next quote of the file for its end."""
    quoted = failure.trail.long_quote
    if quoted is not None and (sentence := describe_open_quote(quoted, failure.lines, wrong=True)):
        return position_of(quoted.start_mark), sentence
    begin = failure.line(failure.begin.line)[failure.begin.column - 1 : failure.begin.column]
    if begin in QUOTES and re.search("end of stream|document indicator|could not find expected ':'", failure.raw):
        return failure.begin, "the quote that opens here is not closed; close it in its line"
    return None


def _find_text_behind_quote(failure: _Failure) -> Found | None:
    last = failure.trail.last
    if not isinstance(last, yaml.ScalarEvent) or last.style not in QUOTES:
        return None
    end, line = position_of(last.end_mark), failure.line(failure.at.line)
    if failure.at.line != end.line or line[end.column - 1 : failure.at.column - 1].strip():
        return None
    if line[failure.at.column - 1 : failure.at.column] in ("", ":", ",", "]", "}", "#"):
        return None
    inner = "''" if last.style == "'" else '\\"'
    how = f"put the whole value in quotes, and write {inner} for a {last.style} in it"
    return failure.at, f"text follows the closing {last.style}; {how}"


def _find_open_bracket(failure: _Failure) -> Found | None:
    """Find a `[` or `{` that is not closed: the lines behind it belong to what is around it, by their indentation."""
    line = failure.line(failure.at.line)
    for event in failure.trail.collections:
        begin = position_of(event.start_mark)
        # Behind the last line there is nothing that could close it.
        over = not line.strip() or failure.indent(failure.at.line) <= failure.indent(begin.line)
        if event.flow_style and begin.line < failure.at.line and over:
            bracket = failure.line(begin.line)[begin.column - 1 : begin.column]
            return begin, f"the `{bracket}` that opens here is not closed; close it, or put the value in quotes"
    return None


_ADDRESS = re.compile(r"""(?<!["'\w])((?:\w+:(?://)?)?\[[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\][^\s,\]}]*)""")


def _find_address(failure: _Failure) -> Found | None:
    """Find an address such as `[::1]:8080` without quotes: YAML reads its `[` as the beginning of a list."""
    found = _ADDRESS.search(failure.line(failure.at.line))
    if found is None:
        return None
    port = "" if "://" in found[1] or re.search(r"\]:\d", found[1]) else ":8080"
    how = f'write it in quotes: "{found[1]}{port}"'
    return Position(failure.at.line, found.start() + 1), f"YAML reads the `[` of `{found[1]}` as a list; {how}"


def _find_missing_dash(failure: _Failure) -> Found | None:
    """Find an item of a list that lacks its `-`."""
    for number in dict.fromkeys((failure.at.line, failure.begin.line)):
        word = re.match(r" *(\w[\w-]*)\s*(?:[:#]|$)", failure.line(number))
        indent = _find_dash_column(failure, number, word[1]) if word else None
        if word and indent is not None:
            where = "" if indent == failure.indent(number) else f" in column {indent + 1}"
            what = f"a `-` is missing before `{word[1]}`; write `- {word[1]}`{where}"
            return Position(number, failure.indent(number) + 1), what
    return None


def _find_dash_column(failure: _Failure, number: int, word: str) -> int | None:
    """Return the indentation of the `-` that a line lacks; None if it lacks none. The lines around it show the list."""
    indent, is_step = failure.indent(number), word in registry()
    above = [line for line in reversed(failure.lines[: number - 1]) if _ends_block(line, indent)]
    below = next((line for line in failure.lines[number:] if _ends_block(line, indent)), "")
    column = list(takewhile(lambda line: _indent(line) == indent, above))
    if not column:
        # `run` is also a field of a step.
        under = above and _is_item(above[0]) and is_step and word != "run"
        return _indent(above[0]) if under else None
    followed = _indent(below) == indent and _is_item(below)
    is_list = _is_item(column[0]) and (is_step or followed or (indent > 0 and all(map(_is_item, column))))
    return indent if is_list else None


def _ends_block(line: str, indent: int) -> bool:
    """True if a line is neither empty, nor a comment, nor indented further than this."""
    return bool(line.strip()) and not line.lstrip().startswith("#") and _indent(line) <= indent


def _is_item(line: str) -> bool:
    return re.match(r" *-(?:\s|$)", line) is not None


def _find_bad_line(failure: _Failure) -> Found | None:
    """Find the line that lacks a `:`, or a space: the parser notices it at the next line."""
    if "could not find expected ':'" in failure.raw:
        return _describe_bad_line(failure, failure.begin.line)
    if re.match(r"\s*-\w", failure.line(failure.at.line)):
        return _describe_bad_line(failure, failure.at.line)
    if "mapping values are not allowed" not in failure.raw:
        return None
    at, line = failure.at, failure.line(failure.at.line)
    if re.search(r":\s", line[: at.column - 1]):
        return at, "there is a second `: ` in this line; put the value in quotes"
    above = next((number for number in range(at.line - 1, 0, -1) if failure.line(number).strip()), 0)
    # Only a line with a `:` can have lines below it that are indented further.
    if above and (failure.indent(above) == failure.indent(at.line) or not re.search(r":(?:\s|$)", failure.line(above))):
        return _describe_bad_line(failure, above)
    return Position(at.line, failure.indent(at.line) + 1), "this line is indented too far: it continues the line above"


def _describe_bad_line(failure: _Failure, number: int) -> Found:
    line = failure.line(number)
    place = Position(number, failure.indent(number) + 1)
    last = failure.trail.last
    if isinstance(last, yaml.ScalarEvent) and last.style in _BLOCKS and not last.value:
        return place, f"the text below a `{last.style}` must be indented further than its key; indent this line"
    if word := re.match(r"\s*-(?![\s-])", line):
        return Position(number, word.end()), "a space is missing after the `-`; write `- ` before the step"
    if word := re.match(r"\s*(?:- +)*([\w-]+):(?=\S)", line):
        return Position(number, word.end(1) + 1), f"a space is missing after the `:`; write `{word[1]}: `"
    key = line.strip().removeprefix("- ").strip()
    shown = f"`{key}`" if re.fullmatch(r"[\w-]{1,40}", key) else "the key in this line"
    return place, f"a `:` is missing after {shown}; write `key: value`"


_SYNTAX = (
    ("scanning an alias", "a value that begins with `*` needs quotes; a port on every address is its number alone"),
    ("expected ',' or '", "a `[` or `{` is not closed, or a comma is missing"),
    ("block sequence entries are not allowed", "a list cannot begin in the middle of a line; begin a new line"),
    ("unexpected end of stream", "a quote or a bracket is not closed"),
    ("expected the node content", "a value is missing"),
    ("expected '?<document start>", "this does not continue the lines above; check its indentation"),
    ("expected <block end>|block mapping|block collection", "the indentation does not match the lines above"),
    ("unknown escape character|expected escape sequence", "unknown escape `\\` in double quotes; use single quotes"),
)
"""Patterns of the messages of PyYAML and libyaml, and what to report instead. The first that matches counts."""


def _find_rest(failure: _Failure) -> Found:
    line, column = failure.line(failure.at.line), failure.at.column
    here = line[column - 1 : column]
    if "cannot start any token" in failure.raw:
        where = f"a value cannot begin with `{here}`; put it in quotes" if here else "a value cannot begin like this"
        return failure.at, where
    if "document start" in failure.raw and (header := _find_section(failure)):
        return header, "this is a file of systemd, not a runbook; a runbook is YAML with `steps:`"
    if "{{" in line and "flow" in failure.raw:
        return failure.at, "`${{ }}` inside `[ ]` or `{ }` must be in quotes"
    if braces := re.search(r"(?<!\$)\{\{", line):
        place = Position(failure.at.line, braces.start() + 1)
        return place, "a value that begins with `{` must be in quotes; a template is `${{ … }}`"
    unknown = "cannot read this as YAML; the error is here or in the lines above"
    return failure.at, next((what for pattern, what in _SYNTAX if re.search(pattern, failure.raw)), unknown)


def _find_section(failure: _Failure) -> Position | None:
    """Return where a header such as `[Service]` is, above the error."""
    numbers = range(1, failure.at.line + 1)
    return next((Position(n, 1) for n in numbers if re.fullmatch(r"\[\w+\]\s*", failure.line(n))), None)


_SPACES = "\u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000"
_DASHES = "\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_COLONS = "\u2236\ufe55\uff1a"
_STRANGE_SPACE = "{} is here, which only looks like a space; type a space in its place, or nothing"
_STRANGE_QUOTE = "{} is here, which only looks like a quote; type ' or \" in its place"
_LOOKALIKES = (
    (f"[ \t-]*([{_SPACES}])", _STRANGE_SPACE),
    (f"[^'\"#]*?:([{_SPACES}])", _STRANGE_SPACE),
    (f"[^'\"#]*?([{_SPACES}])(?::|$)", _STRANGE_SPACE),
    (f"[ \t]*([{_DASHES}])(?=\\s|\\w)", "{} is here, which only looks like a dash; write `-`"),
    (f"[ \t]*(?:- +)*[\\w-]+([{_COLONS}])", "{} is here, which only looks like a colon; write `:`"),
    (rf"[^'\"#]*?(?:^|[:,\[{{-]\s+|[\[{{])([{CURLY_QUOTES}])", _STRANGE_QUOTE),
    (rf".*[\"'].*([{CURLY_QUOTES}])[\s,\]}}]*$", _STRANGE_QUOTE),
)
"""Characters that word processors and web pages put in the place of those that YAML gives a meaning."""


def find_lookalikes(text: str, problems: list[Found]) -> Iterator[Found]:
    """Yield the errors of a file. An error in a line with such a character becomes one about that character."""
    lines = text.split("\n") if problems and not text.isascii() else []
    for place, sentence in problems:
        line = lines[place.line - 1] if place.line <= len(lines) else ""
        matches = ((found, what) for pattern, what in _LOOKALIKES if (found := re.match(pattern, line)))
        found, what = next(matches, (None, ""))
        if found and "the character U+" not in sentence:
            yield Position(place.line, found.start(1) + 1), what.format(describe_character(found[1]))
        else:
            yield place, sentence


def describe_curly_quotes(text: str) -> str:
    """Return that a value without quotes begins with a character that was meant as one; empty if it does not."""
    found = re.match(f"[{CURLY_QUOTES}]", text)
    # A text may begin with an apostrophe, or with a word in such quotes.
    closing = re.search(f"[{CURLY_QUOTES}]", text[1:])
    meant = found and (closing.end() == len(text) - 1 if closing else text[0] not in "\u2019\u203a")
    return _STRANGE_QUOTE.format(describe_character(text[0])) if meant else ""
