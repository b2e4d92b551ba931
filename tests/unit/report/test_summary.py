"""The summary of a run as a page shows it: rendered by GitHub's own renderer, then read as HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given
from hypothesis import strategies as st

from runbook.report.results import clean_text
from runbook.report.summary import MAX_CELL, MAX_SUMMARY, SummaryReport, escape
from tests.unit.recorded import STARTED, ended, finished
from tests.unit.report.test_junit import FIXED, NOT_BEGUN, REACHED_ONE, Named
from tests.unit.report.test_results import results_of

OURS = {"h3", "p", "strong", "span", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code"}
HOSTILE = [
    "a | b \\| c \\",
    "`x` ``y",
    "<script>alert(1)</script><img src=x onerror=y>",
    "first\n\n# second\r\n| x |\n|---|\n",
    "\x1b[31mred\x1b[0m\x07 \u202e \x00 \ud800",
    "[click](https://evil.example) ![x](//evil) https://evil.example www.evil.example WWW.evil.example",
    "@root #123 $x^2$ a@b.example mailto:a@b.example",
    "</pre></details></summary><h1>",
    "&lt;b&gt; &#124; &amp;",
    "***bold*** __under__ ~~gone~~ :smile:",
    "::error::forged",
    "- [x] task",
]


class Page(HTMLParser):
    """The elements of a page, with their texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[Any] = []
        self.texts: dict[str, list[str]] = {"td": [], "h3": [], "pre": [], "summary": [], "p": []}
        self._open: list[str] = []
        self.feed(cmarkgfm.github_flavored_markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._open.append(tag)
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            if tag in self.texts:
                self.texts[tag][-1] += data


def page_of(*events: Named) -> Page:
    return Page(results_of(*events, into=SummaryReport()).to_file().decode())


def rows_of(page: Page) -> list[list[str]]:
    cells = page.texts["td"]
    return [cells[at : at + 4] for at in range(0, len(cells), 4)]


def test_a_remediated_run() -> None:
    page = page_of(*FIXED)
    assert page.texts["h3"] == ["✅ remediated: web.service runs"]
    assert rows_of(page)[0] == ["fix.check.wait-ready", "failed", "crash-loop: it loops", "1.5s"]
    assert rows_of(page)[-1] == ["fix", "remediated", "crash-loop was fixed", "0.5s"]
    assert page.texts["summary"] == ["log"]  # The failed check has no evidence.
    assert "remediated: web.service runs" in page.texts["pre"][-1]


def test_a_failed_run_has_its_evidence_folded_and_what_was_not_reached() -> None:
    page = page_of(*REACHED_ONE)
    assert page.texts["h3"] == ["❌ failed: web.service runs"]
    assert [row[:2] for row in rows_of(page)] == [["a", "failed"], ["b", "not reached"]]
    assert page.texts["summary"] == ["a: port-not-owned", "log"]
    assert page.texts["pre"][0].strip() == "journal: boom"


def test_a_run_that_could_not_begin_has_its_reason_and_the_next_command() -> None:
    page = page_of(*NOT_BEGUN)
    assert page.texts["h3"] == ["❌ not-begun: no such unit"]
    assert "next did you mean web?" in page.texts["p"]
    assert "table" not in page.tags


@pytest.mark.parametrize(
    ("status", "code", "mark"), [("still-starting", 3, "⚠️"), ("rolled-back", 4, "⚠️"), ("ok", 0, "✅")]
)
def test_the_mark_of_a_status(status: str, code: int, mark: str) -> None:
    assert page_of(STARTED, finished("a"), ended(status, code)).texts["h3"][0].startswith(f"{mark} {status}:")


def test_a_dry_run() -> None:
    planned: dict[str, Any] = {
        "id": "a",
        "type": "run",
        "impact": "mutating",
        "verdict": None,
        "reason": "would run",
        "evidence": {},
    }
    page = page_of(("step-planned", planned), ("plan-finished", {"status": "ok", "exit": 0, "reason": "no change"}))
    assert page.texts["h3"] == ["✅ dry run: no change"]
    assert rows_of(page) == [["a", "would change", "would run", ""]]


def hostile_run(text: str) -> tuple[Named, ...]:
    evidence = {"journal": [text], "output": text, "systemd": [text]}
    start = ("run-started", {**STARTED[1], "name": text})
    failure = finished("a", "failed", reason=text, verdict=text, evidence=evidence)
    return start, failure, ("run-finished", {"status": "failed", "exit": 1, "reason": text, "hint": text, "now": text})


def shown(text: str) -> str:
    return " ".join(clean_text(text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text: str) -> None:
    page = page_of(*hostile_run(text))
    assert set(page.tags) <= OURS
    assert {name for name, _ in page.attributes} <= {"align"}
    assert [len(page.tags), page.tags.count("tr")] == [
        len(page_of(*hostile_run("plain")).tags) + page.tags.count("span"),
        2,
    ]
    assert rows_of(page)[0][2] == shown(f"{text}: {text}")
    assert shown(f"journal: {clean_text(text)}".splitlines()[0]) in shown(page.texts["pre"][0])


@given(st.text(alphabet=st.sampled_from("|\\`*_<>&[]()!#@$~:/w.- \n\r\tab1{}^=+\x1b\u202e\u2028"), max_size=80))
def test_any_text_stays_in_its_cell(text: str) -> None:
    page = Page(f"| a | b |\n|---|---|\n| x | {escape(text)} |\n")
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "span"}
    assert page.texts["td"] == ["x", shown(text)]


def test_a_summary_is_never_longer_than_github_shows() -> None:
    long = "x@$|" * 500
    evidence = {"output": "\n".join(f"line {number} <{'y' * 90}>" for number in range(9000))}
    many = [finished(f"s{number}", "failed", reason=long) for number in range(400)]
    many += [finished("last", "failed", reason=long, evidence=evidence)] * 8
    for taken in (0, 500_000, MAX_SUMMARY - 3000):
        made = results_of(STARTED, *many, ended("failed", 1), into=SummaryReport()).to_file(taken)
        assert taken + len(made) <= MAX_SUMMARY
        page = Page(made.decode())
        assert page.texts["h3"] == ["❌ failed: web.service runs"]
        assert any("rows are left out" in cell for cell in page.texts["td"])
        assert set(page.tags) <= OURS
    assert results_of(STARTED, ended(), into=SummaryReport()).to_file(MAX_SUMMARY - 10) == b""


def test_a_long_output_keeps_its_end_and_names_what_has_the_rest() -> None:
    output = "\n".join(f"line {number}" for number in range(50_000))
    page = page_of(STARTED, finished("a", "failed", evidence={"output": output}), ended("failed", 1))
    assert page.texts["pre"][0].rstrip().endswith("output: line 49999")
    (note,) = [text for text in page.texts["p"] if "left out" in text]
    assert "lines are left out; runbook show 20261130-2000-x6q has them" in note


def test_a_long_text_is_cut() -> None:
    assert len(escape("x" * 9999)) == MAX_CELL
