"""Replaces a later version in a text with the earlier one."""

from __future__ import annotations

import re

import pytest

from runbook.checks.versions import VERSION, find_version, rewrite_versions

BACK = {"1.1.0": "1.0.0", "2:3.1-1+deb12": "2:3.0-9"}


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("1.1.0", "1.0.0"),
        ("v1.1.0 is ready, app-1.1.0", "v1.0.0 is ready, app-1.0.0"),
        ("/srv/app-1.1.0/bin", "/srv/app-1.0.0/bin"),
        ("11.1.0", "11.1.0"),
        ("0.1.1.0", "0.1.1.0"),
        ("1.1.0.2", "1.1.0.2"),
        ("1.1.01, 1.1.0rc1", "1.1.01, 1.1.0rc1"),
        ("1.1.0-rc1, 1.1.0+b1, 1.1.0~rc1, 2:1.1.0", "1.1.0-rc1, 1.1.0+b1, 1.1.0~rc1, 2:1.1.0"),
        (r"1\.1\.0", r"1\.1\.0"),
        ("1.1.0.", "1.0.0."),
        ("ready", "ready"),
    ],
)
def test_only_a_whole_version_is_one(text: str, becomes: str) -> None:
    assert rewrite_versions(text, BACK) == becomes


@pytest.mark.parametrize(
    ("pattern", "becomes"),
    [
        (r'"version": "1\.1\.0"', r'"version": "1\.0\.0"'),
        (re.escape("app 2:3.1-1+deb12"), re.escape("app ") + re.escape("2:3.0-9")),
        (r"0\.1\.1\.0", r"0\.1\.1\.0"),
        (r"1\.1\.0\.2", r"1\.1\.0\.2"),
        (r"1\.1\.0-rc1", r"1\.1\.0-rc1"),
        (r"1\.1\.0\-rc1", r"1\.1\.0\-rc1"),
        (r"v1\.2\.0-rc1$", r"v1\.1\.0\+b1$"),  # By hand, with only its dots quoted.
        ("v1.2.0-rc1$", r"v1\.1\.0\+b1$"),
        ("5", "5"),
    ],
)
def test_in_a_pattern_it_is_quoted(pattern: str, becomes: str) -> None:
    back = {**BACK, "1.2.0-rc1": "1.1.0+b1", "5": "4"}
    assert rewrite_versions(pattern, back, pattern=True) == becomes


def test_one_becomes_the_other_once() -> None:
    assert rewrite_versions("1.2 1.1", {"1.2": "1.1", "1.1": "1.0"}) == "1.1 1.0"


def test_a_number_is_a_version_only_where_it_stands_alone() -> None:
    assert rewrite_versions("5", {"5": "4"}) == "4"
    assert rewrite_versions(r"within 5 s, \d{5}", {"5": "4"}) == r"within 5 s, \d{5}"


def test_the_default_pattern_takes_no_child_and_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    digits = "1" * 200_000  # The square of this is hours, and the test would end at its time-out.
    assert find_version(f"{digits} app 1.2.3-rc1", VERSION) == "1.2.3-rc1"
    assert find_version(f"{digits}.5", VERSION) == f"{digits}.5"
