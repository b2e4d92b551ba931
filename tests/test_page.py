"""The page of a run in a real browser: no script, no request, no error, and it fits on a phone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from runbook.events import Event, RunRecorded
from runbook.report.html import make_run_page
from tests.unit.report.test_html import EVIL
from tests.unit.report.test_lanes import ACTIVE, DEAD, ORPHAN, OWN, finds, port

OPEN = Path(__file__).parent / "validators" / "open_page.cjs"
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"
SUMMARY = RunRecorded(
    name=EVIL, file="x.yaml", units=["web.service"], scope="system", user="root", status="failed", seconds=9,
    resumable=False, exit=3, reason=EVIL * 5, folder="/x", printed=[],
)  # fmt: skip


def test_a_page_is_drawn_without_a_script_a_request_or_an_error(tmp_path: Path) -> None:
    looks = (
        finds(1, **ACTIVE, **port({**ORPHAN, "unit": "x" * 200})),
        finds(5, **DEAD, **port()),
        finds(9, **ACTIVE, **port(OWN), output=EVIL * 100),
    )
    started = Event(0, "r", "step-started", {"id": "x", "units": ["web.service"]})
    file = tmp_path / "page.html"
    file.write_bytes(make_run_page(Event.of(0, "r", SUMMARY), [started, *looks], EVIL, [(EVIL, "x" * 10_000)]))
    env = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    done = subprocess.run(["node", OPEN, file], capture_output=True, text=True, check=True, timeout=90, env=env)
    found = json.loads(done.stdout)
    assert set(found["requests"]) == {file.as_uri()}
    assert (found["messages"], found["scripts"], found["clashes"]) == ([], 0, 1)
    assert found["widths"] == {f"{scheme} {width}": width for scheme in ("light", "dark") for width in (1200, 360)}
