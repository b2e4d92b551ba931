"""Words, values and errors as they are written into messages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runbook.util.wording import (
    brief_command,
    describe_error,
    describe_last_line,
    join_words,
    ordinal,
    shorten,
    split_hint,
    suggest,
)


def test_a_suggestion_is_a_word_that_resembles() -> None:
    assert suggest("verison", ["version", "unit"]) == "; did you mean `version`?"
    assert suggest("verison", ["version"], "vars.") == "; did you mean `vars.version`?"
    assert suggest("xyz", ["version", "unit"]) == ""


def test_words_are_joined_for_a_sentence() -> None:
    assert [join_words(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "nothing",
        "`a`",
        "`a` and `b`",
        "`a`, `b` and `c`",
    ]


def test_numbers_are_counted_in_english() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111)
    assert [ordinal(number) for number in numbers] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "103rd", "111th"]
    )


def test_a_value_in_a_message_is_one_short_printable_line() -> None:
    assert shorten("a" * 60) == "a" * 60
    assert shorten("a" * 61) == "a" * 57 + "..."
    assert shorten("abcdef", 5) == "ab..."
    assert shorten("a\nb\x1b[2J") == "a\ufffdb\ufffd[2J"


def test_a_command_in_a_message_is_its_first_line() -> None:
    assert brief_command("npm install x") == "`npm install x`"
    assert brief_command(("echo", "a b")) == "`echo a b`"
    assert brief_command("\ncd /srv\nmake\n") == "`cd /srv` (and 1 more line)"
    assert brief_command("a\nb\nc\n") == "`a` (and 2 more lines)"
    assert len(brief_command("x" * 100 + "\ny\nz")) == 62


def test_the_last_line_of_an_output_follows_a_colon() -> None:
    assert describe_last_line("trying\nno space left\n\n") == ": no space left"
    assert describe_last_line(" \n") == ""
    assert len(describe_last_line("x" * 500)) == 202


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "no answer in time"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "no such file or directory"),
        (ValueError("embedded null byte"), "embedded null byte"),
        (OSError("odd"), "odd"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_error_is_described_without_number_and_path(error: Exception, text: str) -> None:
    assert describe_error(error) == text


def test_the_helpers_load_no_library() -> None:
    code = "import sys; import runbook.util.names, runbook.util.timespan; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"jinja2", "pydantic", "yaml"} & set(result.stdout.split())


@pytest.mark.parametrize(
    ("sentence", "message", "hint"),
    [
        ("unknown key `x`; did you mean `y`?", "unknown key `x`", "did you mean `y`?"),
        ("`a; b` is no unit", "`a; b` is no unit", ""),
        ("`a; b` is no unit; write `c; d`", "`a; b` is no unit", "write `c; d`"),
        ("a; b; c", "a; b", "c"),
        ("nothing", "nothing", ""),
    ],
)
def test_a_hint_is_what_follows_the_last_semicolon(sentence: str, message: str, hint: str) -> None:
    assert split_hint(sentence) == (message, hint)
