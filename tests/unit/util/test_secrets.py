"""Masking secrets, in the forms in which they are written and in pieces."""

from __future__ import annotations

import json
import time
import urllib.parse

import pytest

from runbook.util.secrets import MASK, SecretMask

SECRET = "p4ss'w\"ö\\rd\nof two lines\x7f"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        repr(SECRET),
        repr(SECRET.encode()),
        ascii(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(f"it's {SECRET}"),
        repr(f'it"s {SECRET}'),
        repr(ValueError(f"Invalid header value {f'Bearer {SECRET}'.encode()!r}")),
        repr(repr(SECRET)),
        repr(KeyError(SECRET)),
        urllib.parse.quote(SECRET),
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote_plus(SECRET),
        f"https://anna:{urllib.parse.quote(SECRET, safe='')}@localhost/",
    ],
)
def test_a_secret_is_masked_as_others_write_it(text: str) -> None:
    masked = SecretMask((SECRET,)).mask(text)
    assert MASK in masked
    assert [part for part in ("p4ss", "rd", "of two", "of+two", "of%20two") if part in masked] == []


def test_an_ordinary_secret_has_one_form() -> None:
    assert SecretMask(("hunter2",)).forms == ("hunter2",)
    assert SecretMask().mask({"a": ["b"]}) == {"a": ["b"]}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("token=s3cr3t-to...", "token=***..."),
        ("s3cr... and s3cr3t-t... end", "***... and ***... end"),
        ("s3c...", "s3c..."),
        ("s3cr s3cr3t", "s3cr s3cr3t"),
        ("s3crs3cr3t-token...", "s3cr***..."),
        ("s3crX...", "s3crX..."),
    ],
)
def test_a_piece_before_an_ellipsis(text: str, masked: str) -> None:
    assert SecretMask(("s3cr3t-token-of-many",)).mask(text) == masked


def test_a_piece_of_a_secret_with_dots() -> None:
    assert SecretMask(("abcd...efgh",)).mask("x abcd...ef... y abcd... z") == "x ***... y ***... z"


def test_the_time_grows_with_the_text() -> None:
    """A text of dots, or of the secret's first letters: both took minutes."""
    secret = "-----BEGIN KEY-----" + "k" * 4000
    for text in ("." * 300_000, "-----...." * 30_000, "-" * 300_000, secret[:100] * 3000):
        began = time.process_time()
        SecretMask((secret,)).mask(text)
        assert time.process_time() - began < 2
