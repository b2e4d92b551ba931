"""The layout of text: mark, name, text and time in columns, at most 80 characters wide."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TextIO

from runbook.util.stdio import escape_controls, split_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

WIDTH = 80
MARK = 6
NAME = 21
MIN_TEXT = 20  # the least width of a text, however long the name before it is

MARKS = {  # the colour of each mark
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

_wrap = partial(textwrap.wrap, break_on_hyphens=False)


class Screen:
    """The destination of lines. It has no live line, unless a derived class shows one."""

    def line(self, pieces: Iterable[Piece]) -> None:
        """Show one line."""
        raise NotImplementedError

    def log(self, pieces: Iterable[Piece]) -> None:
        """Show a line that is only needed without a live line."""
        self.line(pieces)

    def status(self, text: str) -> None:
        """Show the current step on the live line, until the next status replaces it."""

    def close(self) -> None:
        """Remove the live line."""


class PlainScreen(Screen):
    """A file or a pipe: no escape codes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def line(self, pieces: Iterable[Piece]) -> None:
        print("".join(text for text, _ in pieces).rstrip(), file=self._out, flush=True)


class TerminalScreen(Screen):
    """A terminal: colours, unless NO_COLOR is set, and a live line for the current step."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415 - other screens do not need it

        class ForgivingConsole(Console):
            """Raises BrokenPipeError if the terminal is gone; rich would exit the program."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

        self._console: Console = ForgivingConsole(file=out, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._since = 0.0

    def line(self, pieces: Iterable[Piece]) -> None:
        from rich.text import Text  # noqa: PLC0415

        self._console.print(Text.assemble(*(piece for piece in pieces if piece[0])))

    def log(self, pieces: Iterable[Piece]) -> None:
        """Ignore it: the live line shows it."""

    def status(self, text: str) -> None:
        from rich.text import Text  # noqa: PLC0415

        if self._status is None:
            self._since = time.monotonic()
            self._status = self._console.status("")
            self._status.start()
        since = self._since

        class Ticking:
            """Counts the seconds in every frame, so that a long wait does not look like a hang."""

            def __rich__(self) -> Text:
                waited = f"{time.monotonic() - since:.0f}s"
                return Text(f"{text[: WIDTH - len(waited) - 6]}  {waited}", style="dim")

        self._status.update(Ticking())

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


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

    def status(self, text: str) -> None:
        """Show the current step on the live line, if the screen has one."""
        self._show(self._screen.status, _one_line(text))

    def idle(self) -> None:
        """Remove the live line."""
        self._show(self._screen.close)

    def heading(self, left: str, right: str) -> None:
        """Show a title, and a small text at the right edge."""
        left, right = _one_line(left), _one_line(right)
        room = WIDTH - len(right) - 2
        title = left if len(left) <= room else left[: room - 3] + "..."
        self.line((title, "bold"), (right.rjust(WIDTH - len(title)), "dim"))
        self.line()

    def entry(self, mark: str, name: str, text: str, time: str = "", *, depth: int = 0) -> None:
        """Show one step: its text in a column, its time at the right edge."""
        for pieces in _entry(mark, name, text, time, depth):
            self.line(*pieces)

    def log(self, mark: str, name: str, text: str, *, depth: int = 0) -> None:
        """Show an entry on a screen without a live line."""
        for pieces in _entry(mark, name, text, "", depth):
            self._show(self._screen.log, pieces)

    def detail(self, text: str, *, depth: int = 0) -> None:
        """Show a text that belongs to the entry above."""
        lead = _indent(depth)
        for part in split_lines(text):
            for piece in _wrap(escape_controls(part), WIDTH - len(lead)) or [""]:
                self.line((lead + piece, ""))

    def quote(self, text: str, *, depth: int = 0) -> None:
        """Show a line of a command or a unit."""
        lead = f"{_indent(depth)}| "
        for line in _wrap(_one_line(text), WIDTH - len(lead), max_lines=3, placeholder=" ..."):
            self.line((lead, "dim"), (line, ""))

    def sentence(self, text: str, *, style: str = "") -> None:
        """Show a sentence at the left edge, with its further lines indented."""
        for line in _wrap(_one_line(text), WIDTH, subsequent_indent="  "):
            self.line((line, style))

    def item(self, name: str, text: str, width: int = MARK) -> None:
        """Show a small name in a column, and a text beside it; nothing if the text is empty."""
        lead = f"  {name:<{width}}"
        for line in _wrap(_one_line(text), WIDTH - len(lead), break_long_words=False):
            self.line((lead, "dim"), (line, ""))
            lead = " " * len(lead)


def _indent(depth: int) -> str:
    """Return the spaces before a text that belongs to an entry."""
    return " " * (2 + MARK + 2 * depth + 2)


def _entry(mark: str, name: str, text: str, time: str, depth: int) -> list[list[Piece]]:
    """Return the lines of one step."""
    name, text = _one_line(name), _one_line(text)
    indent = "  " * depth
    column = 2 + MARK + max(NAME, len(indent) + len(name) + 2)
    if column > 2 + MARK + NAME and column + len(text) + len(time) + 2 > WIDTH:
        # If there is too little room beside a long name, the text begins on the next line.
        head = [(f"  {mark:<{MARK}}", MARKS.get(mark, "")), (f"{indent}{name}", "")]
        return [head, *_entry("", "", text, time, depth)] if text or time else [head]
    room = max(WIDTH - column - (len(time) + 2 if time else 0), MIN_TEXT)
    first, *rest = _wrap(text, room) or [""]
    label = f"{indent}{name}".ljust(column - 2 - MARK)
    gap = max(WIDTH - column - len(first) - len(time), 1) if time else 0
    more = _wrap(" ".join(rest), max(WIDTH - column, MIN_TEXT))
    head = [(f"  {mark:<{MARK}}", MARKS.get(mark, "")), (f"{label}{first}{' ' * gap}", ""), (time, "dim")]
    return [head, *([(" " * column + line, "")] for line in more)]


_WHITE = str.maketrans("\t\n\x0b\x0c\r", "     ")


def _one_line(text: str) -> str:
    """Return a text on one line, without control characters."""
    return escape_controls(text.translate(_WHITE))
