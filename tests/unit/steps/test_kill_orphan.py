"""The situations of tests/cases/kill-orphan."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cases import cases, run_case


@pytest.mark.parametrize("path", cases("kill-orphan"))
def test_case(path: Path) -> None:
    run_case(path)
