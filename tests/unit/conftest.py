"""Fixtures and settings of the unit tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from runbook.engine.execution.stream import EventStream
from runbook.events import Event, Payload
from runbook.records import lock, store
from tests.events import validated

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


@pytest.fixture(autouse=True, scope="session")
def _validated_events() -> Iterator[None]:
    """Fail a test with an event that is not as its schema describes it."""
    emit = EventStream.emit

    def check(stream: EventStream, payload: Payload) -> Event:
        event = emit(stream, payload)
        validated(json.loads(event.to_line()))
        return event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventStream, "emit", check)
        yield
