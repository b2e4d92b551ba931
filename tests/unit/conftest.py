"""What the pure tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from runbook.records import store

# Always the same examples, however long a busy machine takes for one: a failure is the fault of what was changed.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of the test's own for the records of runs; it is not there yet."""
    found = tmp_path / "state" / "runbook" / "runs"
    monkeypatch.setattr(store, "runs_folder", lambda: found)
    return found
