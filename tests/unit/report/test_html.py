"""The page for a browser: complete, without a script, and with every text escaped."""

from __future__ import annotations

import pytest

from runbook.events import Event
from runbook.records.history import RunRecord
from runbook.report.html import HtmlScreen
from runbook.report.layout import Layout
from runbook.report.story import StoryReport
from tests.unit.recorded import BEGAN, STARTED, begun, ended, finished, wrote

pytestmark = pytest.mark.usefixtures("home")


def page_of(past: RunRecord) -> str:
    screen = HtmlScreen()
    story = StoryReport(Layout(screen))
    story.begin(past.summary_event())
    for event in past.read():
        story(event)
    story.end(past.summary_event())
    return screen.page(past.title, past.read()).decode()


def test_a_page_is_complete_in_itself_and_runs_nothing() -> None:
    text = page_of(wrote(begun(), STARTED, finished("x"), ended()))
    assert text.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in text
    assert '<span class="green">' in text
    assert "<details><summary>2026-09-21T14:13:21.000Z step-finished x changed job-done</summary>" in text
    for word in ("<script", "http://", "https://", "src=", "@import"):
        assert word not in text


EVIL = "</pre></summary><script>alert(1)</script><img src=x onerror='x'>\" & \ud800"


def test_hostile_text_stays_text() -> None:
    """In the title, a name, a reason, the output of a command, a command line, a key of the evidence."""
    evidence = {EVIL: EVIL, "output": EVIL, "killed": [{"pid": EVIL, "unit": EVIL, "command": EVIL}]}
    events = [
        ("run-started", {"name": EVIL, "units": [EVIL]}),
        finished(EVIL, "failed", reason=EVIL, evidence=evidence),
    ]
    past = wrote(begun(), *events, (EVIL, {"x": EVIL}), ended(EVIL))
    text = page_of(past)
    for word in ("<script", "<img", "</pre></summary>"):
        assert word not in text.lower()
    assert text.count("&lt;script&gt;") > 10


def test_an_event_is_one_line_of_details() -> None:
    screen = HtmlScreen()
    text = screen.page("x", [Event(BEGAN, "r", "notice", {"text": "hello"})]).decode()
    assert text.count("<details>") == 1
    assert "&quot;text&quot;: &quot;hello&quot;" in text
