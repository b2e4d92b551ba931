"""Searches, and their time limit."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from runbook.errors import HostError
from runbook.util import regex

A = "a" * 65536


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("b", "abc", ["b"]),
        ("x", "abc", None),
        ("(b)(c)", "abc", ["bc", "b", "c"]),
        ("b+", "abbc", ["bb"]),
        ("x+", "abc", None),
        (r"v(\d+)|w(\d+)", "w12", ["w12", None, "12"]),
        ("☃+", "a☃☃\udcff", ["☃☃"]),
        ("", "", [""]),
        ("a*", "", [""]),
    ],
)
def test_what_is_found(pattern: str, text: str, found: list[str] | None) -> None:
    assert regex.search(pattern, text) == found


@pytest.mark.parametrize("pattern", ["^b$", "^b+$"])
def test_line_by_line(pattern: str) -> None:
    assert regex.search(pattern, "a\nb\nc", multiline=True) == ["b"]
    assert regex.search(pattern, "a\nb\nc") is None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"(a+)+$", "a" * 40 + "b"), (r"(a|a)*$", A + "b"), (r"a*a*b", A), (r"\w+@\w+\.\w+", A), (r"(.*)(.*)(.*)\1x", A)],
)
def test_an_endless_search_is_killed_within_a_second(pattern: str, text: str) -> None:
    # In a thread, as a probe's is: the others go on meanwhile.
    refused: list[HostError] = []

    def look() -> None:
        with pytest.raises(HostError) as caught:
            regex.search(pattern, text)
        refused.append(caught.value)

    thread = threading.Thread(target=look)
    began = time.monotonic()
    thread.start()
    turns = []
    while thread.is_alive():
        turns.append(time.monotonic())
        thread.join(0.01)
    assert "it takes too long" in refused[0].message
    assert time.monotonic() - began < 30  # Unhindered it would take longer than anybody lives.
    assert max(b - a for a, b in itertools.pairwise(turns)) < 2


def test_a_long_search_within_the_limit_succeeds() -> None:
    assert regex.search(r"(\w+) is ready$", "starting …\n" * 5000 + "it is ready") == ["it is ready", "it"]
