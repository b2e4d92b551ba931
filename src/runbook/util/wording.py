"""Words, values and errors as they are written into messages."""

from __future__ import annotations

from collections.abc import Iterable

from runbook.util.stdio import split_lines

CURLY_QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2039\u203a\uff02\uff07"
"""Characters that word processors and web pages put in the place of quotes."""


def suggest(word: str, words: Iterable[str], prefix: str = "") -> str:
    """Return a suggestion to put behind a message: "; did you mean `version`?", or an empty text."""
    import difflib  # noqa: PLC0415 - only errors need it

    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def join_plain(words: Iterable[object]) -> str:
    """Return several things for a sentence: "80, 81 and 82"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last


def join_words(words: Iterable[str]) -> str:
    """Return several words for a sentence: "`a`, `b` and `c`"."""
    *most, last = [f"`{word}`" for word in words] or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def split_hint(sentence: str) -> tuple[str, str]:
    """Split "unknown key `retry`; did you mean `retries`?" in two, at the last `; ` outside of backquotes."""
    at = len(sentence)
    while (at := sentence.rfind("; ", 0, at)) >= 0:
        if sentence.count("`", 0, at) % 2 == 0:
            return sentence[:at], sentence[at + 2 :]
    return sentence, ""


def describe_character(character: str) -> str:
    """Return "the character U+201C (left double quotation mark)"."""
    import unicodedata  # noqa: PLC0415 - only errors need it

    return f"the character U+{ord(character):04X} ({unicodedata.name(character, 'unnamed').lower()})"


def ordinal(number: int) -> str:
    """Return an ordinal number: "2nd"."""
    teen = number % 100 // 10 == 1
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def shorten(text: str, most: int = 60) -> str:
    """Return a text for a message: in one line of at most `most` characters, all of them printable.

    Printed unchanged, a text from a file could move the cursor, or add a line that looks like another message.
    """
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."


MAX_BRIEF = 60  # characters of a command in a sentence
MAX_ERROR = 300  # characters of the text of an exception, which may quote an answer of 64 KiB
MAX_SHOWN_BODY = 60  # characters of an answer's body in a sentence
MAX_LAST_LINE = 200  # characters of the last line of a command's output in a sentence


def describe_last_line(output: str) -> str:
    """Return ": " and the last line that a failed command printed, mostly the cause; empty if it printed nothing."""
    printed = split_lines(output.strip())
    return f": {shorten(printed[-1].strip(), MAX_LAST_LINE)}" if printed else ""


def describe_body(body: str) -> str:
    """Return "; the body is " and its beginning in one line, with control characters escaped; empty for no body."""
    text = repr(body.strip()[: MAX_SHOWN_BODY + 1])[1:-1]
    return f"; the body is `{shorten(text, MAX_SHOWN_BODY)}`" if text else ""


def brief_command(run: str | tuple[str, ...]) -> str:
    """Return a command for a sentence: its first line, shortened, and the number of lines that follow."""
    text = run.strip() if isinstance(run, str) else " ".join(run)
    line, *rest = split_lines(text) or [""]
    more = f" (and {len(rest)} more line{'s' if len(rest) > 1 else ''})" if rest else ""
    most = MAX_BRIEF - len(more)
    return f"`{line if len(line) <= most else f'{line[: most - 3]}...'}`{more}"


def describe_error(error: Exception) -> str:
    """Return the cause of an error without the error number and the path that Python adds."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return shorten(str(error).strip(), MAX_ERROR) or type(error).__name__
