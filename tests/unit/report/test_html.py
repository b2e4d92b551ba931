"""The pages for a browser: complete, without a script, and with every text escaped."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from runbook.records.history import RunRecord
from runbook.report.html import MAX_PAGE_TEXT, make_history_page, make_run_page
from tests.unit.recorded import STARTED, begun, ended, finished, wrote

pytestmark = pytest.mark.usefixtures("home")

EVIL = "</pre></summary><script>alert(1)</script><img src=x onerror='x'>\" & ]]> \x1b[31m \u202e \ud800 {{ 7 * 7 }}"


def page_of(past: RunRecord, outputs: Iterable[tuple[str, str]] = ()) -> str:
    return make_run_page(past.summary_event(), list(past.read()), "the story", outputs).decode()


def test_a_page_is_complete_in_itself_and_runs_nothing() -> None:
    text = page_of(wrote(begun(), STARTED, finished("x"), ended()))
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert "default-src 'none'" in text
    assert "<li>1 step</li><li>1 changed</li>" in text
    assert "<small>2026-09-21T14:13:21.000Z step-finished x changed job-done</small>" in text
    for word in ("<script", "http://", "https://", "src=", "@import"):
        assert word not in text


def test_hostile_text_stays_text() -> None:
    """In the title, a name, a reason, the output of a command, a unit, a PID, a key of the evidence."""
    holders = [{"pid": EVIL, "role": EVIL, "unit": EVIL, "user": EVIL}]
    facts = {"ActiveState": EVIL, "SubState": EVIL, "ports": [{"port": EVIL, "holders": holders}]}
    events = [
        ("run-started", {"name": EVIL, "units": [EVIL]}),
        ("step-started", {"id": EVIL, "type": EVIL, "name": EVIL, "units": [EVIL]}),
        finished(EVIL, "failed", reason=EVIL, evidence={EVIL: EVIL, "output": EVIL, **facts}),
    ]
    past = wrote(begun(), *events, (EVIL, {"x": EVIL}), ended(EVIL))
    index = make_history_page([(past.summary_event(), past.read())], EVIL).decode()
    for text in (page_of(past, [(EVIL, EVIL)]), index):
        for word in ("<script", "<img", "</pre></summary>", "\x1b", "\u202e"):
            assert word not in text.lower()
        assert "{{ 7 * 7 }}" in text
    assert page_of(past).count("&lt;script&gt;") > 10


def test_a_huge_output_is_cut() -> None:
    past = wrote(begun(), STARTED, finished("x"), ended())
    text = page_of(past, [("output/x.log", "x" * (MAX_PAGE_TEXT + 5))])
    assert "… 5 more characters" in text


def test_equal_results_are_one_step_and_waits_are_counted() -> None:
    wait = ("step-waiting", {"id": "x", "type": "run", "reason": "the port", "seconds": 0.0, "left": 1.0})
    text = page_of(wrote(begun(), STARTED, wait, wait, finished("x"), finished("x"), ended()))
    assert "</b> \u00d72" in text
    text = page_of(wrote(begun(), STARTED, wait, wait, finished("x"), ended()))
    assert "<li>the port (2 times)</li>" in text


def test_the_index_lists_what_was_upgraded_and_how_it_ended() -> None:
    past = wrote(begun(), STARTED, finished("update", evidence={"from": "1.0", "to": "1.1"}), ended())
    text = make_history_page([(past.summary_event(), past.read())], "runs").decode()
    assert "update: 1.0 → 1.1" in text
    assert "✓ changed" in text
    assert past.id in text
