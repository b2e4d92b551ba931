"""The two screens of a terminal: one for lines alone, and one with a live view below them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TextIO

from rich.console import Console
from rich.text import Text

from runbook.report.echo import EchoSwitch, is_in_foreground
from runbook.report.layout import Block, Piece, Screen, find_width
from runbook.util.background_writer import BackgroundWriter, encode
from runbook.util.text_width import crop, measure

REPAINT_INTERVAL = 0.25  # seconds between two paintings
DEFAULT_SIZE = os.terminal_size((80, 24))  # of a terminal that does not report its size

BEGIN_FRAME, END_FRAME = "\x1b[?2026h", "\x1b[?2026l"
"""The terminal shows what is between these at once; one that does not support it ignores them."""

ERASE_LINE, ERASE_BELOW = "\x1b[2K", "\x1b[J"


class TerminalScreen(Screen):
    """A terminal: colours, unless NO_COLOR is set."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        # It renders, and writes nothing: if the terminal is gone, it would exit the program.
        self._console = Console(file=io.StringIO(), force_terminal=out.isatty(), highlight=False, soft_wrap=True)

    @property
    def width(self) -> int:
        return find_width(self._out)

    def line(self, pieces: Iterable[Piece]) -> None:
        print(self._render(pieces), file=self._out, flush=True)

    def log(self, pieces: Iterable[Piece]) -> None:
        """Ignore it: the live view shows it."""

    def _render(self, pieces: Iterable[Piece]) -> str:
        """Return the pieces with the codes for their styles."""
        with self._console.capture() as text:
            self._console.print(Text.assemble(*(piece for piece in pieces if piece[0])), end="")
        return text.get()


class Painter:
    """Makes the text that changes a terminal: lines that stay, and below them a live view that is repainted in place.

    The cursor stays visible, at the beginning of the line below. So the screen is clean whenever the program ends, even
    by SIGKILL.
    """

    def __init__(self, render: Callable[[Iterable[Piece]], str]) -> None:
        self._render = render
        self._painted: list[list[Piece]] = []
        self._columns = 0

    def forget(self) -> None:
        """Assume that the cursor is no longer below what was painted, which is left as it is."""
        self._painted = []

    def paint(self, lines: Sequence[str], block: list[list[Piece]], columns: int) -> str:
        """Return what adds `lines` and shows `block` on a terminal of so many columns; empty if it does so already."""
        resized = columns != self._columns
        if not lines and block == self._painted and not resized:
            return ""
        # A terminal that became narrower has broken each line that is too long into several.
        up = sum(max(1, -(-_measure(line) // columns)) for line in self._painted)
        known: list[list[Piece]] = [] if lines or resized else self._painted
        parts = [BEGIN_FRAME, f"\x1b[{up}A" if up else "", "\r", "" if known else ERASE_BELOW]
        parts += [f"{line}\r\n" for line in lines]
        for at, pieces in enumerate(block):
            is_same = at < len(known) and known[at] == pieces
            parts.append("\r\n" if is_same else f"{ERASE_LINE}{self._render(pieces)}\r\n")
        parts += [ERASE_BELOW if len(block) < len(known) else "", END_FRAME]
        self._painted, self._columns = block, columns
        return "".join(parts)


class _Update(NamedTuple):
    """What the thread that paints is handed."""

    lines: list[str]  # lines that stay
    block: Block | None  # the live view that follows them


class LiveScreen(TerminalScreen):
    """A terminal with a live view below the lines. It is written to in a thread, which may block."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._lines: list[str] = []
        self._block: Block | None = None  # this and the painter are only for the thread
        self._painter = Painter(self._render)
        self._is_continued = threading.Event()  # after Ctrl-Z: the shell has written below
        self._undo = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():
            former = signal.signal(signal.SIGCONT, lambda *_: self._is_continued.set())
            self._undo.callback(signal.signal, signal.SIGCONT, signal.SIG_DFL if former is None else former)
        self._echo = EchoSwitch(out.fileno())
        self._undo.callback(self._echo.close)
        self._writer = BackgroundWriter[_Update](out.fileno(), self._make_frame, REPAINT_INTERVAL)

    def line(self, pieces: Iterable[Piece]) -> None:
        self._lines.append(self._render(pieces))

    def show(self, block: Block | None) -> None:
        """Show the lines since the last call, and below them this live view."""
        lines, self._lines = self._lines, []
        self._writer.put(_Update(lines, block))

    def finish(self, limit: float | None = None) -> None:
        """Remove the live view, and wait until all lines are written; at most `limit` seconds."""
        with contextlib.suppress(OSError):
            self.show(None)
        self._writer.close(limit)
        self._undo.close()

    def _make_frame(self, updates: list[_Update]) -> bytes:
        lines = [line for update in updates for line in update.lines]
        self._block = updates[-1].block if updates else self._block
        # In the background it must not paint over other output.
        may_paint, size = is_in_foreground(self._out.fileno()), self._find_size()
        if self._is_continued.is_set() or not may_paint:
            self._is_continued.clear()
            self._painter.forget()
        block = self._draw_block(size) if may_paint else []
        if block:
            self._echo.switch_off()
        return encode(self._painter.paint(lines, block, size.columns), self._out)

    def _draw_block(self, size: os.terminal_size) -> list[list[Piece]]:
        """Return the lines of the live view. None is wider than the terminal, and the cursor has a line below them."""
        if self._block is None:
            return []
        most = max(size.lines - 1, 1)
        try:
            lines = self._block(self.width, most)
        except Exception as error:  # An error of this program. It must not end the output.
            lines = [[(f"the live view failed: {type(error).__name__}: {error}", "red")]]
        return [list(_crop(line, size.columns)) for line in lines[:most]]

    def _find_size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._out.fileno())
        except OSError:
            return DEFAULT_SIZE
        return size if size.columns and size.lines else DEFAULT_SIZE


def _measure(pieces: Sequence[Piece]) -> int:
    return sum(measure(text) for text, _ in pieces)


def _crop(pieces: Iterable[Piece], columns: int) -> Iterable[Piece]:
    for text, style in pieces:
        yield (shown := crop(text, columns)), style
        columns -= measure(shown)
