"""The places that a runbook of `runbook init` still has to complete."""

from __future__ import annotations

import pytest

from runbook.document.draft import count_missing, describe_missing


@pytest.mark.parametrize(
    ("text", "numbers", "described"),
    [
        ("name: x\n", [], ""),
        ("# FILL IN: a\n", [1], "line 1 is still marked FILL IN"),
        ("# FILL IN: a\nx\n  # FILL IN: b\n", [1, 3], "lines 1, 3 are still marked FILL IN"),
        ("name: FILL IN\n# Filled in: FILL IN was here\n", [], ""),
    ],
)
def test_the_marked_lines(text: str, numbers: list[int], described: str) -> None:
    assert (count_missing(text), describe_missing(text)) == (numbers, described)
