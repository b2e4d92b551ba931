"""Standard input, output and error in every state: closed, full, a pipe without a reader, a terminal."""

from __future__ import annotations

import os
import re
import sys

STREAM_NAMES = ("stdin", "stdout", "stderr")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that end a line or reverse its direction, which can make it read differently."""


def open_missing_streams() -> None:
    """Open /dev/null in the place of each stream that is closed.

    Otherwise the next file that is opened gets the stream's number, and the output of this program. In `sys`, a
    closed stream is None.
    """
    for number, name in enumerate(STREAM_NAMES):
        try:
            os.fstat(number)
        except OSError:
            # open(2) returns the lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        # A file name may contain bytes that are not UTF-8: print escapes instead of failing.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_streams() -> None:
    """Write what is still buffered. If it cannot be written, drop it without a change of the exit status.

    Otherwise Python tries again when it exits, and exits with status 120.
    """
    for number, streams in ((1, (sys.stdout, sys.__stdout__)), (2, (sys.stderr, sys.__stderr__))):
        for stream in streams:
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def split_lines(text: str) -> list[str]:
    """Return the lines of a text from outside this program. Only a newline ends a line.

    str.splitlines() also ends a line at \\x0b, \\x1c, \\x85 and others. A process could then forge a log line of
    another process by printing one of these.
    """
    *most, last = text.split("\n")
    return [*most, last] if last else most


def escape_controls(text: str) -> str:
    """Return a text with its control characters as escapes: \\x1b. Tabs and newlines stay.

    A terminal obeys control characters, and output of commands and names of processes can contain any of them.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode-escape").decode("ascii"), text)
