"""The filters: what each returns, and the limit that none of them exceeds."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import Undefined

from runbook.template.filters import ARGUMENTS, FILTERS, MAX_TEXT
from runbook.template.namespace import TemplateError, Word


@pytest.mark.parametrize(
    ("name", "value", "arguments", "expected"),
    [
        ("default", Undefined(), ("x",), "x"),
        ("default", "", ("x",), ""),
        ("default", "", ("x", True), "x"),
        ("first", ("a", "b"), (), "a"),
        ("last", ("a", "b"), (), "b"),
        ("join", ("a", "b"), ("+",), "a+b"),
        ("join", "ab", ("+",), "ab"),
        ("lower", "A", (), "a"),
        ("upper", "a", (), "A"),
        ("trim", " a ", (), "a"),
        ("replace", "aa", ("a", "b"), "bb"),
        ("split", "a b", (), ("a", "b")),
        ("split", "a:b", (":",), ("a", "b")),
    ],
)
def test_a_filter_returns(name: str, value: Any, arguments: tuple[Any, ...], expected: Any) -> None:
    assert FILTERS[name](value, *arguments) == expected


def test_a_result_is_a_word_so_that_no_is_false() -> None:
    assert not FILTERS["lower"](Word("NO"))
    assert not FILTERS["split"]("no yes")[0]


@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        ("replace", "a" * 1000, ("a", "b" * 101)),
        ("join", ["a" * 1000] * 101, ()),
        ("join", ["a"] * 1000, ("b" * 100,)),
        ("upper", "a" * (MAX_TEXT + 1), ()),
    ],
)
def test_no_filter_returns_more_than_a_command_accepts(name: str, value: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TemplateError, match=f"more than {MAX_TEXT} characters"):
        FILTERS[name](value, *arguments)


def test_the_number_of_arguments_is_known_for_filters_that_exist() -> None:
    assert ARGUMENTS.keys() <= FILTERS.keys()
    assert all(least <= most for least, most in ARGUMENTS.values())
