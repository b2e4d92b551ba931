"""Which of two versions is lower: dotted numbers, semantic versions, versions of Debian and of Python."""

from __future__ import annotations

import re
from itertools import zip_longest

_TOKEN = re.compile(r"\d+|[a-z]+|~", re.ASCII)
_EPOCH = re.compile(r"(\d+):(.+)", re.DOTALL)

# Words that mark a version before the release, with their order. `~` marks one too (deb-version(7)).
_BEFORE = {"~": 0, "dev": 1, "snapshot": 1, "nightly": 1, "canary": 1, "alpha": 2, "a": 2, "beta": 3, "b": 3}
_BEFORE |= {"m": 3, "milestone": 3, "pre": 4, "preview": 4, "c": 4, "rc": 4, "cr": 4, "next": 4}
_LETTERS = ("a", "b", "c", "m")  # they mark one only if a number follows: 1.1.1a of OpenSSL comes after 1.1.1


def is_lower(version: str, other: str) -> bool:
    """True if a version is certainly lower than the other one. If that cannot be known, it is not."""
    return _compare(version, other) == -1


def _compare(version: str, other: str) -> int | None:
    """Return -1, 0 or 1; None if the order is not known, as that of two commits."""
    (epoch, mine), (other_epoch, its) = _split_epoch(version), _split_epoch(other)
    if epoch != other_epoch and min(epoch, other_epoch) >= 0:
        return -1 if epoch < other_epoch else 1
    for left, right in zip_longest(_tokens(mine), _tokens(its)):
        order = _compare_tokens(left, right)
        if order != 0:
            return order
    return 0


def _split_epoch(version: str) -> tuple[int, str]:
    """Return Debian's epoch and the rest. A program does not print its epoch, so none may be any: -1."""
    found = _EPOCH.fullmatch(version)
    return (int(found[1]), found[2]) if found else (-1, version)


def _tokens(version: str) -> list[int | str]:
    """Return the numbers and words of a version; a word that marks a version before the release as `<N`."""
    words = _TOKEN.findall(version.lower().removeprefix("v"))
    tokens: list[int | str] = []
    for at, word in enumerate(words):
        numbered = at + 1 < len(words) and words[at + 1].isdigit()
        if word.isdigit():
            tokens.append(int(word))
        elif word in _BEFORE and (word not in _LETTERS or numbered):
            tokens.append(f"<{_BEFORE[word]}")
        else:
            tokens.append(word)
    return tokens


def _compare_tokens(left: int | str | None, right: int | str | None) -> int | None:
    if left == right:
        return 0
    before = [isinstance(one, str) and one.startswith("<") for one in (left, right)]
    if all(before):
        return -1 if str(left) < str(right) else 1
    if any(before):
        return -1 if before[0] else 1
    if left is None or right is None:
        rest = right if left is None else left
        if rest == 0:
            return 0  # 1.0 is 1.0.0.
        return -1 if left is None else 1
    if isinstance(left, int) and isinstance(right, int):
        return -1 if left < right else 1
    if isinstance(left, str) and isinstance(right, str) and len(left) == len(right) == 1:
        return -1 if left < right else 1
    return None
