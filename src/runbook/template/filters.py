"""The filters of an expression. Their results are limited in size, and none of them calls code of a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runbook.template.namespace import TemplateError, Word

MAX_TEXT = 100_000  # characters of a result. The kernel accepts 128 KiB as one argument (execve(2))


def _replace(text: str, old: str, new: str) -> Word:
    # Checked before the text is made: a chain of replacements could fill the memory.
    _check_size(len(text) + str(text).count(old) * len(new))
    return Word(str(text).replace(old, new))


def _join(items: Sequence[str], between: str = "") -> Word:
    if isinstance(items, str):
        return Word(items)
    _check_size(sum(map(len, items)) + len(items) * len(between))
    return Word(between.join(items))


def _upper(text: str) -> Word:
    _check_size(len(text))  # Upper case is at most three times as long: ΐ becomes three characters.
    return Word(text.upper())


def _check_size(size: int) -> None:
    if size > MAX_TEXT:
        raise TemplateError(f"the result has more than {MAX_TEXT} characters")


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
"""All filters except `raw`, which `expression` handles."""

ARGUMENTS = {
    "default": (1, 2),
    "join": (0, 1),
    "replace": (2, 2),
    "split": (0, 1),
}  # least and most; others take none
