"""The layout of text: mark, name, text and time in columns, as wide as the terminal, or else 80 columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from runbook.util.stdio import escape_controls, split_lines
from runbook.util.text_width import break_lines, crop, measure, pad

WIDTH = 80  # of all text that does not go to a terminal
MIN_WIDTH, MAX_WIDTH = 40, 120  # on a terminal. Wider lines are hard to read
NARROW = 72  # below this width there is no column for names: a text begins on the line after its name
MARK = 6
NAME = 21
MIN_TEXT = 20  # the least width of a text, however long the name before it is

MARKS = {  # the colour of each mark
    "..": "bold",
    "ok": "green",
    "fix": "yellow",
    "--": "red",
    "skip": "dim",
    "again": "yellow",
    "note": "yellow",
    "back": "yellow",
    "done": "dim",
}

Piece = tuple[str, str]  # A text and its style in the notation of rich; an empty style is plain

Block = Callable[[int, int], Sequence[Sequence[Piece]]]
"""Returns the lines of the live view, as they are at this moment, for so many columns and at most so many lines."""


class Screen:
    """The destination of lines. It has no live view, unless a derived class shows one."""

    @property
    def width(self) -> int:
        """The number of columns for texts."""
        return WIDTH

    def line(self, pieces: Iterable[Piece]) -> None:
        """Show one line."""
        raise NotImplementedError

    def log(self, pieces: Iterable[Piece]) -> None:
        """Show a line that is only needed without a live view."""
        self.line(pieces)

    def show(self, block: Block | None) -> None:
        """Show this live view below the lines, in place of the one before."""


class PlainScreen(Screen):
    """A file or a pipe: no escape codes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    @property
    def width(self) -> int:
        return find_width(self._out)

    def line(self, pieces: Iterable[Piece]) -> None:
        print("".join(text for text, _ in pieces).rstrip(), file=self._out, flush=True)


class Collector(Screen):
    """Collects lines of a given width."""

    def __init__(self, width: int) -> None:
        self.lines: list[list[Piece]] = []
        self._width = width

    @property
    def width(self) -> int:
        return self._width

    def line(self, pieces: Iterable[Piece]) -> None:
        self.lines.append(list(pieces))


def find_width(out: TextIO) -> int:
    """Return the number of columns for texts: those of a terminal, within limits; elsewhere always the same."""
    try:
        columns = os.get_terminal_size(out.fileno()).columns if out.isatty() else 0
    except (OSError, ValueError):
        columns = 0
    return max(MIN_WIDTH, min(columns, MAX_WIDTH)) if columns else WIDTH  # The size of a serial line is 0.


class Layout:
    """Arranges text in lines on a screen.

    If the terminal or the reader is gone, the run continues, and the text is dropped.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.is_reader_gone = False

    def _show(self, show: Callable[..., None], *shown: object) -> None:
        try:
            if not self.is_reader_gone:
                show(*shown)
        except OSError:
            self.is_reader_gone = True

    def line(self, *pieces: Piece) -> None:
        """Show one line."""
        self._show(self._screen.line, [(_one_line(text), style) for text, style in pieces])

    def show(self, block: Block | None) -> None:
        """Show this live view below the lines, if the screen has one; None shows none."""
        self._show(self._screen.show, block)

    @property
    def width(self) -> int:
        """The number of columns."""
        return self._screen.width

    def heading(self, left: str, right: str) -> None:
        """Show a title, and a small text at the right edge."""
        left, right, width = _one_line(left), _one_line(right), self.width
        room = width - len(right) - 2
        if width < NARROW and measure(left) > room:
            self.sentence(left, style="bold")
            left = ""
        title = _shorten(left, room)
        self.line((title, "bold"), (right.rjust(width - measure(title)), "dim"))
        self.line()

    def entry(self, mark: str, name: str, text: str, time: str = "", *, depth: int = 0) -> None:
        """Show one step: its text in a column, its time at the right edge."""
        for pieces in _entry(mark, name, text, time, depth, self.width):
            self.line(*pieces)

    def log(self, mark: str, name: str, text: str, *, depth: int = 0) -> None:
        """Show an entry on a screen without a live line."""
        for pieces in _entry(mark, name, text, "", depth, self.width):
            self._show(self._screen.log, pieces)

    def detail(self, text: str, *, depth: int = 0) -> None:
        """Show a text that belongs to the entry above."""
        lead = _indent(depth)
        for part in split_lines(text):
            for piece in break_lines(escape_controls(part), self.width - len(lead)) or [""]:
                self.line((lead + piece, ""))

    def quote(self, text: str, *, depth: int = 0, in_one_line: bool = False) -> None:
        """Show a line of a command or a unit, in three lines or in one."""
        lead = f"{_indent(depth)}| "
        room = self.width - len(lead)
        lines = break_lines(_one_line(text), room, max_lines=3, placeholder=" ...")
        for line in [_shorten(_one_line(text), room)] if in_one_line else lines:
            self.line((lead, "dim"), (line, ""))

    def sentence(self, text: str, *, style: str = "") -> None:
        """Show a sentence at the left edge, with its further lines indented."""
        for line in break_lines(_one_line(text), self.width, subsequent_indent="  "):
            self.line((line, style))

    def item(self, name: str, text: str, width: int = MARK) -> None:
        """Show a small name in a column, and a text beside it; nothing if the text is empty."""
        lead = f"  {name:<{width}}"
        for line in break_lines(_one_line(text), self.width - len(lead), break_long_words=self.width < NARROW):
            self.line((lead, "dim"), (line, ""))
            lead = " " * len(lead)


def _indent(depth: int) -> str:
    """Return the spaces before a text that belongs to an entry."""
    return " " * (2 + MARK + 2 * depth + 2)


def _entry(mark: str, name: str, text: str, time: str, depth: int, width: int) -> list[list[Piece]]:
    """Return the lines of one step."""
    indent = "  " * depth
    name, text = _shorten(_one_line(name), width - 2 - MARK - len(indent) - len(time) - 1), _one_line(text)
    marked = (f"  {mark:<{MARK}}", MARKS.get(mark, ""))
    if width < NARROW:
        gap = " " * max(width - 2 - MARK - len(indent) - measure(name) - len(time), 1)
        head = [marked, (f"{indent}{name}{gap}", ""), (time, "dim")]
        return [head, *([(_indent(depth) + line, "")] for line in break_lines(text, width - len(_indent(depth))))]
    column = 2 + MARK + max(NAME, len(indent) + measure(name) + 2)
    if column > 2 + MARK + NAME and column + measure(text) + len(time) + 2 > width:
        # If there is too little room beside a long name, the text begins on the next line.
        head = [marked, (f"{indent}{name}", "")]
        return [head, *_entry("", "", text, time, depth, width)] if text or time else [head]
    room = max(width - column - (len(time) + 2 if time else 0), MIN_TEXT)
    first, *rest = break_lines(text, room) or [""]
    label = pad(f"{indent}{name}", column - 2 - MARK)
    gap = " " * (max(width - column - measure(first) - len(time), 1) if time else 0)
    more = break_lines(" ".join(rest), max(width - column, MIN_TEXT))
    head = [marked, (f"{label}{first}{gap}", ""), (time, "dim")]
    return [head, *([(" " * column + line, "")] for line in more)]


def _shorten(text: str, room: int) -> str:
    return text if measure(text) <= room else crop(text, room - 3) + "..."


_WHITE = str.maketrans("\t\n\x0b\x0c\r", "     ")


def _one_line(text: str) -> str:
    """Return a text on one line, without control characters."""
    return escape_controls(text.translate(_WHITE))
