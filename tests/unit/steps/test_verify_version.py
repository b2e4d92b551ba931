"""The situations of tests/cases/verify-version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cases import cases, run_case


@pytest.mark.parametrize("path", cases("verify-version"))
def test_case(path: Path) -> None:
    run_case(path)
