"""Lines for people: a mark, a name, a text and a time, in columns, at most 80 wide."""

from __future__ import annotations

import textwrap
from typing import TextIO

WIDTH = 80
MARK = 6
NAME = 20


GREEN, YELLOW, RED, DIM = "32", "33", "31", "2"
MARKS = {
    "ok": GREEN,
    "fix": YELLOW,
    "--": RED,
    "skip": DIM,
    "again": YELLOW,
    "note": YELLOW,
    "": "",
}


class Page:
    """Writes lines to a terminal or a file. Colour only where it is a terminal's.

    A terminal that went away does not end the run: what cannot be printed any more is dropped.
    """

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out: TextIO | None = out
        self._colour = colour

    def line(self, text: str = "") -> None:
        """Print one line."""
        if self._out is None:
            return
        try:
            print(text.rstrip(), file=self._out, flush=True)
        except OSError:
            self._out = None

    def raw(self, text: str) -> None:
        """Print as it is, without an end of line: for the line that is written over."""
        if self._out is None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            self._out = None

    def paint(self, text: str, colour: str) -> str:
        """Colour a text, where there are colours."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour and text.strip() else text

    def heading(self, left: str, right: str) -> None:
        """Print a title, with something small at the right edge."""
        room = WIDTH - len(right) - 2
        title = left if len(left) <= room else left[: room - 3] + "..."
        self.line(self.paint(title, "1") + right.rjust(WIDTH - len(title)))
        self.line()

    def entry(self, mark: str, name: str, text: str, time: str = "", *, depth: int = 0) -> None:
        """Print one step: its text is wrapped under itself, its time stands at the right edge."""
        indent = "  " * depth
        head = f"  {mark:<{MARK}}{indent}"
        column = len(head) + max(NAME - len(indent), len(name) + 2)
        room = WIDTH - column - (len(time) + 2 if time else 0)
        first, *rest = textwrap.wrap(text, max(room, 20)) or [""]
        painted = f"  {self.paint(f'{mark:<{MARK}}', MARKS.get(mark, ''))}{indent}"
        start = f"{painted}{name}".ljust(column + len(painted) - len(head)) + first
        pad = WIDTH - column - len(first) - len(time)
        self.line(start + " " * max(pad, 1) + self.paint(time, DIM) if time else start)
        for more in textwrap.wrap(" ".join(rest), WIDTH - column) if rest else []:
            self.line(" " * column + more)

    def below(self, text: str, *, depth: int = 0) -> None:
        """Print what belongs to the entry above it."""
        lead = " " * (2 + MARK + 2 * depth + 2)
        for part in text.splitlines():
            for piece in textwrap.wrap(part, WIDTH - len(lead), break_on_hyphens=False) or [""]:
                self.line(lead + piece)

    def words(self, text: str, *, colour: str = "") -> None:
        """Print a sentence from the left edge, its further lines indented."""
        for number, piece in enumerate(textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False)):
            self.line(("  " if number else "") + self.paint(piece, colour))
