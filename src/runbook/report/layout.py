"""Lines for people: a mark, a name, a text and a time, in columns, at most 80 wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from runbook.streams import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

WIDTH = 80
MARK = 6
NAME = 21
LEAST_TEXT = 20
"""Characters that a text keeps for itself, however long the name before it."""

MARKS = {"ok": "green", "fix": "yellow", "--": "red", "skip": "dim", "again": "yellow", "note": "yellow"}
"""The colour of each mark, where there are colours."""

Piece = tuple[str, str]
"""A text and its style, in rich's words; no style for plain."""


class Screen(Protocol):
    """Where lines go."""

    def line(self, pieces: Iterable[Piece]) -> None:
        """Show one line."""

    def status(self, text: str) -> None:
        """Show what is under way, until the next line or status takes its place."""

    def close(self) -> None:
        """Take the status away."""


class Plain:
    """A file or a pipe: no escape codes, nothing that is written over."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def line(self, pieces: Iterable[Piece]) -> None:
        """Print one line."""
        print("".join(text for text, _ in pieces).rstrip(), file=self._out, flush=True)

    def status(self, text: str) -> None:
        """Show nothing: a file keeps everything that was ever under way."""

    def close(self) -> None:
        """Do nothing."""


class Terminal:
    """A terminal: colours (but with NO_COLOR), and a last line that says what is under way."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415 - nobody else pays for it

        class Patient(Console):
            """Leaves it to the page what a terminal that went away means; rich would end the program."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

        self._console: Console = Patient(file=out, highlight=False, soft_wrap=True)
        self._status: Status | None = None

    def line(self, pieces: Iterable[Piece]) -> None:
        """Print one line above what is under way."""
        from rich.text import Text  # noqa: PLC0415

        self._console.print(Text.assemble(*(piece for piece in pieces if piece[0])))

    def status(self, text: str) -> None:
        """Show what is under way."""
        from rich.text import Text  # noqa: PLC0415

        words = Text(text[: WIDTH - 4], style="dim")
        if self._status is None:
            self._status = self._console.status(words)
            self._status.start()
        else:
            self._status.update(words)

    def close(self) -> None:
        """Take the last line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class Page:
    """Lays lines out on a screen.

    A terminal or a reader that went away does not end the run: what cannot be shown any more is dropped.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen: Screen | None = screen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.close()

    def line(self, *pieces: Piece) -> None:
        """Show one line."""
        try:
            if self._screen is not None:
                self._screen.line([(_flat(text), style) for text, style in pieces])
        except OSError:
            self._screen = None

    def status(self, text: str) -> None:
        """Show what is under way, where that can be written over."""
        try:
            if self._screen is not None:
                self._screen.status(_flat(text))
        except OSError:
            self._screen = None

    def heading(self, left: str, right: str) -> None:
        """Show a title, with something small at the right edge."""
        left, right = _flat(left), _flat(right)
        room = WIDTH - len(right) - 2
        title = left if len(left) <= room else left[: room - 3] + "..."
        self.line((title, "bold"), (right.rjust(WIDTH - len(title)), "dim"))
        self.line()

    def entry(self, mark: str, name: str, text: str, time: str = "", *, depth: int = 0) -> None:
        """Show one step: its text is wrapped under itself, its time stands at the right edge."""
        name, text = _flat(name), _flat(text)
        indent = "  " * depth
        column = 2 + MARK + max(NAME, len(indent) + len(name) + 2)
        room = max(WIDTH - column - (len(time) + 2 if time else 0), LEAST_TEXT)
        first, *rest = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        label = f"{indent}{name}".ljust(column - 2 - MARK)
        gap = max(WIDTH - column - len(first) - len(time), 1) if time else 0
        self.line((f"  {mark:<{MARK}}", MARKS.get(mark, "")), (f"{label}{first}{' ' * gap}", ""), (time, "dim"))
        for more in textwrap.wrap(" ".join(rest), max(WIDTH - column, LEAST_TEXT), break_on_hyphens=False):
            self.line((" " * column + more, ""))

    def below(self, text: str, *, depth: int = 0) -> None:
        """Show what belongs to the entry above it."""
        lead = " " * (2 + MARK + 2 * depth + 2)
        for part in text.splitlines():
            for piece in textwrap.wrap(visible(part), WIDTH - len(lead), break_on_hyphens=False) or [""]:
                self.line((lead + piece, ""))

    def words(self, text: str, *, style: str = "", indent: str = "") -> None:
        """Show a sentence from the left edge, its further lines indented."""
        lines = textwrap.wrap(_flat(text), WIDTH, initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False)
        for line in lines:
            self.line((line, style))


_WHITE = str.maketrans("\t\n\x0b\x0c\r", "     ")


def _flat(text: str) -> str:
    """Give a text as it stands on one line."""
    return visible(text.translate(_WHITE))
