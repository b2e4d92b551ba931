"""The columns that a text takes on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.util.text_width import break_lines, crop, measure, pad

WIDE = "\N{CJK UNIFIED IDEOGRAPH-4E2D}"


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), (WIDE * 2, 4), ("e\u0301", 1), ("\N{ROCKET}", 2), ("a\u200db", 2), ("", 0)]
)
def test_a_character_takes_one_two_or_no_columns(text: str, columns: int) -> None:
    assert measure(text) == columns


def test_a_wide_character_that_has_no_room_is_left_out() -> None:
    assert crop(f"ab{WIDE}{WIDE}", 5) == f"ab{WIDE}"
    assert crop("abcdef", 5) == "abcde"


def test_spaces_fill_a_column() -> None:
    assert pad(WIDE, 4) == f"{WIDE}  "


@given(st.text(st.characters(categories=("L", "Mn", "Zs", "So")), max_size=80), st.integers(5, 40))
def test_no_line_is_wider_and_no_character_is_lost(text: str, columns: int) -> None:
    lines = break_lines(text, columns)
    assert max(map(measure, lines), default=0) <= columns
    assert "".join("".join(lines).split()) == "".join(text.split())
