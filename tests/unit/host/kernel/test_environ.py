"""Parsing an environment: a whole INVOCATION_ID, the names of variables, and never a piece of a value."""

from __future__ import annotations

import pytest

from runbook.host.kernel import environ

ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"HOME=/root\0INVOCATION_ID={ID}\0X=1\0", ID),
        (f"INVOCATION_ID={ID}", ID),
        (f"OLD_INVOCATION_ID={ID}\0", ""),
        (f"INVOCATION_ID={ID}0\0", ""),
        (f"INVOCATION_ID={ID[:-1]}\0", ""),
        (f"INVOCATION_ID={ID.upper()}\0", ""),
        (f"nginx: worker process\0TION_ID={ID}\0", ""),
        (f"INVOCATION_ID={ID}\nX\0", ""),
        (f"NOTE=it says INVOCATION_ID={ID}\0", ""),
        (f"INVOCATION_ID={ID}\0INVOCATION_ID={ID}\0", ID),
        (f"INVOCATION_ID={ID}\0INVOCATION_ID={ID[::-1]}\0", ""),
        ("", ""),
    ],
)
def test_only_a_whole_invocation_id_counts(text: str, found: str) -> None:
    assert environ.parse_invocation_id(text.encode()) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("HOME=/root\0API_TOKEN=a=b\0X=\0", ("HOME", "API_TOKEN", "X")),
        ("NOTE=two\nlines=1\0X=1", ("NOTE", "X")),
        ("worker: gw\0\0\0QWxhZGRpbg==\0HOME=/root\0", ()),
        ("HOME=/root\0\0bGV0bWVpbg==\0", ("HOME",)),
        ("ker process\0c2VjcmV0=\0", ()),
        ("2=x\0HOME=/root\0", ()),
        ("", ()),
    ],
    ids=["whole", "lines", "written over", "cut", "title", "no name", "none"],
)
def test_names_without_any_piece_of_a_value(text: str, found: tuple[str, ...]) -> None:
    assert environ.parse_names(text.encode()) == found


def test_an_entry_that_is_cut_off_does_not_count() -> None:
    whole = b"A=1\0INVOCATION_ID=" + ID.encode() + b"\0SECRET=abc\0"
    assert environ.cut(whole, len(whole)) == whole
    assert environ.cut(whole, len(whole) - 1).endswith(ID.encode() + b"\0")
    assert environ.parse_invocation_id(environ.cut(whole, 40)) == ""
    assert environ.cut(b"x" * 9, 5) == b""


def test_of_very_many_variables_some_are_named() -> None:
    assert len(environ.parse_names(b"A=\0" * 5000)) == environ.MAX_NAMES
