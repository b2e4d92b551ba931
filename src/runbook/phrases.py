"""How messages speak of words that a person wrote."""

from __future__ import annotations

from collections.abc import Iterable


def near(word: str, words: Iterable[str], prefix: str = "") -> str:
    """Suggest what was meant: "; did you mean `version`?", or nothing."""
    import difflib  # noqa: PLC0415 - Only a mistake needs it.

    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def listed(words: Iterable[str]) -> str:
    """Name several things in a sentence: "`a`, `b` and `c`"."""
    *most, last = [f"`{word}`" for word in words] or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def ordinal(number: int) -> str:
    """Give a number as a place in a row: "2nd"."""
    teen = number % 100 // 10 == 1
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def shown(text: str, most: int = 60) -> str:
    """Give a value as it goes into a message: on one line, nothing unprintable, and not too long.

    Printed as it is, a text from a file could move the cursor, or add a line that looks like another message.
    """
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."
