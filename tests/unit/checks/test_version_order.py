"""The order of versions of several schemes."""

from __future__ import annotations

import itertools

import pytest

from runbook.checks.version_order import is_lower

SERIES = [
    ["1.9", "1.10", "1.10.1", "2.0", "10.0"],
    ["2026.4.29", "2026.5.5", "2026.10.1"],
    ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1"],
    ["1.1.0.dev4", "1.1.0a1", "1.1.0b2", "1.1.0rc1", "1.1.0", "1.1.0.post1"],
    ["1.1.0~rc1-1", "1.1.0-1", "1.1.0-2", "1.1.0-2+deb12u1", "1.1.0-2+deb12u2"],
    ["1:1.0", "2:0.9"],
    ["1.1.1", "1.1.1a", "1.1.1w", "1.1.2"],
    ["v1.2.3", "1.2.4", "v1.3"],
]


@pytest.mark.parametrize("series", SERIES)
def test_a_series_is_in_order(series: list[str]) -> None:
    for lower, higher in itertools.combinations(series, 2):
        assert is_lower(lower, higher), (lower, higher)
        assert not is_lower(higher, lower), (lower, higher)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.0", "1.0"), ("1.0", "1.0.0"), ("v1.0", "1.0"), ("1.0-gabc", "1.0-gdef"), ("1.0-foo", "1.0-1"), ("abc", "def")],
)
def test_without_a_known_order_neither_is_lower(one: str, other: str) -> None:
    assert not is_lower(one, other)
    assert not is_lower(other, one)


def test_a_version_without_its_epoch_is_compared_as_a_program_prints_it() -> None:
    assert is_lower("1.22.0", "1:1.22.1")
    assert not is_lower("1.22.1", "1:1.22.0")
