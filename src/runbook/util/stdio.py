"""Standard input, output and error, whatever they are: closed, full, a pipe whose reader has gone, a terminal."""

from __future__ import annotations

import os
import re
import sys

STREAM_NAMES = ("stdin", "stdout", "stderr")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters; and those that turn the direction of a line, or end it: it would read otherwise than it is."""


def open_missing_streams() -> None:
    """Put /dev/null where a stream is missing.

    It is missing to Python too (None); and the next file to be opened would get its number, and what is printed.
    """
    for number, name in enumerate(STREAM_NAMES):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        # A name with bytes that are no UTF-8 is shown with escapes; it is no reason to fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_streams() -> None:
    """Write what is still to be written. What nobody takes is dropped, and does not change the exit status.

    Else Python tries again at its very end, and ends with status 120.
    """
    for number, streams in ((1, (sys.stdout, sys.__stdout__)), (2, (sys.stderr, sys.__stderr__))):
        for stream in streams:
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def split_lines(text: str) -> list[str]:
    """Give the lines of what somebody else wrote. They end at a newline and nowhere else.

    str.splitlines() also ends them at \\x0b, \\x1c, \\x85 and the like: what stands behind one of those in a log would
    look like a line of its own, of whoever it names.
    """
    *most, last = text.split("\n")
    return [*most, last] if last else most


def escape_controls(text: str) -> str:
    """Show control characters as what they are: \\x1b. Only tabs and ends of lines are let through.

    A terminal obeys them, and what a command printed or a process is called is somebody else's word.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode-escape").decode("ascii"), text)
