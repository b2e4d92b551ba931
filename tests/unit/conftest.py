"""Fixtures and settings of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from runbook.records import lock, store

# The examples are always the same, without a deadline on a busy machine, so that only a change of the code fails.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Redirect the records of runs to a folder of the test, which does not exist yet, and return its path.

    The locks of root's runs are redirected too: another test on this machine may lock a unit of the same name.
    """
    found = tmp_path / "state" / "runbook" / "runs"
    monkeypatch.setattr(store, "runs_folder", lambda: found)
    monkeypatch.setattr(lock, "SYSTEM", tmp_path)
    return found
