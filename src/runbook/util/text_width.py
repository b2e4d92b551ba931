"""Texts in the columns of a terminal: some characters take two columns, some none."""

from __future__ import annotations

import textwrap
import unicodedata
from typing import Any

_FILLER = "\0"  # stands for the second column of a wide character; control characters were escaped before
_NO_WIDTH = ("Mn", "Me", "Cf")  # the categories of characters that are put onto the character before


def measure(text: str) -> int:
    """Return the number of columns that a text takes."""
    return len(text) if text.isascii() else sum(map(_measure_one, text))


def pad(text: str, columns: int) -> str:
    """Return a text with spaces behind it, so that it takes so many columns."""
    return text + " " * (columns - measure(text))


def crop(text: str, columns: int) -> str:
    """Return the beginning of a text that takes at most so many columns."""
    if text.isascii():
        return text[:columns]
    taken = 0
    for at, char in enumerate(text):
        taken += _measure_one(char)
        if taken > columns:
            return text[:at]
    return text


def break_lines(text: str, columns: int, **options: Any) -> list[str]:
    """Return the lines of a text, as `textwrap.wrap` does; a hyphen ends no line."""
    if text.isascii() or not any(_measure_one(char) > 1 for char in text):
        return textwrap.wrap(text, columns, break_on_hyphens=False, **options)
    # A wide character at the edge may be cut from its filler, and then takes one column more.
    filled = "".join(char + _FILLER * (_measure_one(char) - 1) for char in text)
    return [line.replace(_FILLER, "") for line in textwrap.wrap(filled, columns - 1, break_on_hyphens=False, **options)]


def _measure_one(char: str) -> int:
    if unicodedata.category(char) in _NO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
