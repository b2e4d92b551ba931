"""The filters of an expression. None of them can make much out of little, and none reaches code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runbook.template.scope import TemplateError, Word

MAX_TEXT = 100_000
"""Characters that an expression may give. The kernel takes 128 KiB as one argument (execve(2))."""


def make_too_long() -> TemplateError:
    """Make the error of an expression that gives too much."""
    return TemplateError(f"it gives more than {MAX_TEXT} characters")


def _replace(text: str, old: str, new: str) -> Word:
    # Counted first: a chain of replacements could fill the memory before anybody looks at its end.
    if len(text) + str(text).count(old) * len(new) > MAX_TEXT:
        raise make_too_long()
    return Word(str(text).replace(old, new))


def _join(items: Sequence[str], between: str = "") -> Word:
    if isinstance(items, str):
        return Word(items)
    if sum(map(len, items)) + len(items) * len(between) > MAX_TEXT:
        raise make_too_long()
    return Word(between.join(items))


def _upper(text: str) -> Word:
    if len(text) > MAX_TEXT:
        raise make_too_long()
    return Word(text.upper())


def _split(text: str, at: str | None = None) -> tuple[Word, ...]:
    return tuple(map(Word, str(text).split(at)))


def _default(value: Any, other: Any, or_false: bool = False) -> Any:
    from jinja2 import Undefined  # noqa: PLC0415 - only files with templates pay for it

    return other if isinstance(value, Undefined) or (or_false and not value) else value


FILTERS: dict[str, Callable[..., Any]] = {
    "default": _default,
    "first": lambda items: items[0],
    "join": _join,
    "last": lambda items: items[-1],
    "lower": lambda text: Word(text.lower()),
    "replace": _replace,
    "split": _split,
    "trim": lambda text: Word(text.strip()),
    "upper": _upper,
}
"""The filters there are, beside `raw`."""

ARGUMENTS = {"default": (1, 2), "join": (0, 1), "replace": (2, 2), "split": (0, 1)}
"""How many arguments a filter takes, at least and at most; the others take none."""
