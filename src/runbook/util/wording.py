"""How messages speak of words that a person wrote."""

from __future__ import annotations

from collections.abc import Iterable

from runbook.util.stdio import split_lines


def suggest(word: str, words: Iterable[str], prefix: str = "") -> str:
    """Suggest what was meant: "; did you mean `version`?", or nothing."""
    import difflib  # noqa: PLC0415 - Only a mistake needs it.

    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def join_words(words: Iterable[str]) -> str:
    """Name several things in a sentence: "`a`, `b` and `c`"."""
    *most, last = [f"`{word}`" for word in words] or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def ordinal(number: int) -> str:
    """Give a number as a place in a row: "2nd"."""
    teen = number % 100 // 10 == 1
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def shorten(text: str, most: int = 60) -> str:
    """Give a value as it goes into a message: on one line, nothing unprintable, and not too long.

    Printed as it is, a text from a file could move the cursor, or add a line that looks like another message.
    """
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."


MAX_BRIEF = 60
"""Characters of a command in a sentence."""


MAX_LAST_LINE = 200
"""Characters of a command's last line in a sentence."""


def describe_last_line(output: str) -> str:
    """Give the last line that a failed command printed, to stand behind how it ended; mostly it says why."""
    printed = split_lines(output.strip())
    return f": {shorten(printed[-1].strip(), MAX_LAST_LINE)}" if printed else ""


def brief_command(run: str | tuple[str, ...]) -> str:
    """Name a command in a sentence: its first line, shortened, and that there are more."""
    text = run.strip() if isinstance(run, str) else " ".join(run)
    line, *rest = split_lines(text) or [""]
    more = f" (and {len(rest)} more line{'s' if len(rest) > 1 else ''})" if rest else ""
    most = MAX_BRIEF - len(more)
    return f"`{line if len(line) <= most else f'{line[: most - 3]}...'}`{more}"


def describe_error(error: Exception) -> str:
    """Say what went wrong, without Python's own decoration."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
