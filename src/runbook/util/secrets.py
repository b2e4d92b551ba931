"""Masks secrets in texts and files: their values, as they were given and as other programs write them."""

from __future__ import annotations

import json
import shlex
import urllib.parse
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from runbook.model import frozen

MASK = "***"  # the text that replaces a secret
ELLIPSIS = "..."  # the end of a text that was shortened for a sentence
MIN_SECRET_PART = 4  # the length from which on a part of a secret is masked
MIN_SECRET_LINE = 8  # the same for a line of a secret that has several: reports show text line by line


@frozen
class SecretMask:
    """Masks some secrets."""

    secrets: tuple[str, ...] = ()  # values, not names

    def mask(self, value: Any) -> Any:
        """Return a value with the secrets in it masked."""
        if not self.secrets:
            return value
        if isinstance(value, str):
            for secret in self.forms:
                value = _mask_cut(value.replace(secret, MASK), secret)
            return value
        if isinstance(value, Mapping):
            return {key: self.mask(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask(item) for item in value]
        return value

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """The forms that a secret can have in a text, the longest first, as one may be a part of another."""
        forms = set[str]()
        for secret in self.secrets:
            plain = {secret, secret.strip(), shlex.quote(secret).strip("'")}
            lines = [line.strip() for line in secret.splitlines()]
            plain.update(line for line in lines if len(lines) > 1 and len(line) >= MIN_SECRET_LINE)
            forms |= plain | set(_rewritten(secret.strip()))
            forms.update(form for line in plain if line in lines for form in _quoted(line))
        return tuple(sorted(forms - {""}, key=len, reverse=True))


def _rewritten(text: str) -> Iterator[str]:
    """Yield how other programs write a text: quoted by repr() and in JSON, once or twice, and in a URL."""
    for form in set(_quoted(text)):
        yield form
        yield from _quote_marks(form.replace("\\", "\\\\"))
    yield urllib.parse.quote(text, errors="surrogateescape")
    yield urllib.parse.quote(text, "", errors="surrogateescape")
    yield urllib.parse.quote_plus(text, errors="surrogateescape")


def _quoted(text: str) -> Iterator[str]:
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    for form in (repr(text)[1:-1], ascii(text)[1:-1], repr(text.encode(errors="surrogateescape"))[2:-1]):
        yield from _quote_marks(form.replace("\\'", "'"))


def _quote_marks(text: str) -> Iterator[str]:
    """Yield a text with either quotation mark escaped, and with none: that depends on the text around it."""
    yield from (text, text.replace("'", "\\'"), text.replace('"', '\\"'))


def _mask_cut(text: str, secret: str) -> str:
    """Mask the beginning of a secret before an ELLIPSIS, where a text was shortened within the secret."""
    at, done, parts = 0, 0, list[str]()
    head = secret[:MIN_SECRET_PART]
    while len(secret) > MIN_SECRET_PART and (at := text.find(head, at)) >= 0:
        # Of the secret, so much is here. The ellipsis ends it.
        end = text.rfind(ELLIPSIS, at + MIN_SECRET_PART, at + _count_common(text, at, secret) + len(ELLIPSIS))
        if end >= 0:
            parts += [text[done:at], MASK]
            at = done = end
        else:
            at += 1
    return "".join((*parts, text[done:])) if parts else text


def _count_common(text: str, at: int, secret: str) -> int:
    """Return how many characters of a text, from `at` on, are the beginning of a secret."""
    least, most = 0, len(secret)
    while least < most:
        middle = (least + most + 1) // 2
        if text.startswith(secret[:middle], at):
            least = middle
        else:
            most = middle - 1
    return least
