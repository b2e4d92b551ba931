"""What the pure tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.engine import record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of the test's own for the records of runs; it is not there yet."""
    found = tmp_path / "state" / "runbook" / "runs"
    monkeypatch.setattr(record, "home", lambda: found)
    return found
