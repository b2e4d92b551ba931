"""Builders of records of runs."""

from __future__ import annotations

from typing import Any

from runbook.events import Event
from runbook.records import history, store
from runbook.records.history import RunRecord
from runbook.records.store import EventWriter, RunFolder, RunHeader

BEGAN = 1_790_000_000.0


def header(name: str, **fields: Any) -> RunHeader:
    """Return the header of a run."""
    known = {
        "file": "/root/upgrade.yaml",
        "cwd": "/root",
        "scope": "system",
        "user": "root",
        "began": BEGAN,
        "boot": "boot",
        "version": "1",
    }
    return RunHeader(id=name, **{**known, **fields})


def begun(began: float = BEGAN) -> RunFolder:
    """Create the record of a run without events."""
    kept = store.create_folder(began)
    kept.write_header(header(kept.id, began=began), "steps: [restart]\n")
    return kept


def wrote(kept: RunFolder, *events: tuple[str, dict[str, Any]], at: float = BEGAN) -> RunRecord:
    """Write events, one second apart, and return the run as it is read from disk."""
    writer = EventWriter(kept, lambda _: None)
    for number, (event, data) in enumerate(events):
        writer(Event(at + number, kept.id, event, data))
    writer.close()
    return history.find_run(kept.id)


STARTED = ("run-started", {"name": "upgrade web", "file": "x.yaml", "unit": "web.service", "units": ["web.service"]})


def acting(name: str) -> tuple[str, dict[str, Any]]:
    """Return the event of a step that begins to act."""
    return "step-acting", {"id": name, "type": "run", "reason": "run it", "evidence": {}}


def finished(name: str, status: str = "changed", **data: Any) -> tuple[str, dict[str, Any]]:
    """Return the event of a step that has finished."""
    known = {"verdict": "job-done", "reason": "it is so", "attempts": 1, "seconds": 0.5, "evidence": {}}
    return "step-finished", {"id": name, "type": "run", "status": status, **known, **data}


def ended(status: str = "changed", code: int = 0) -> tuple[str, dict[str, Any]]:
    """Return the last event of a run."""
    return "run-finished", {"status": status, "exit": code, "reason": "web.service runs"}
