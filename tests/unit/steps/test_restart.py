"""The situations of tests/cases/restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cases import cases, run_case


@pytest.mark.parametrize("path", cases("restart"))
def test_case(path: Path) -> None:
    run_case(path)
