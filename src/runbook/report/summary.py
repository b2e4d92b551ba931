"""The result of a run as Markdown, for the page of a CI job: the verdict, a table of the steps, the rest folded.

All text from outside is escaped: no command, unit or process can add a row, a link, a mention or an element.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from runbook.events import Event, PlanFinished, StepKept, StepPlanned
from runbook.model import Impact, RunStatus, StepStatus
from runbook.report.layout import Layout, PlainScreen
from runbook.report.results import DETAILS, RunResults, clean_text, list_details
from runbook.report.text import MIN_SHOWN_SECONDS, TextReport
from runbook.util.timespan import format_span

MAX_SUMMARY = 1024 * 1024  # bytes of the summary of a step. GitHub shows nothing of a longer one
MAX_CELL = 400  # characters of a text in the table
MAX_DETAILS = 64 * 1024  # bytes of the evidence of one step
SHARES = (0.4, 0.8)  # of the room: where the table and the evidence must end, so that something is left for the log

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", ":": "&#58;", ".": "&#46;"}
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~&@#$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What Markdown reads as markup, and GitHub as a mention, a formula or a link."""


class SummaryReport(RunResults):
    """Collects the events of a run, and makes the Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self._log = io.StringIO()
        self._text = TextReport(Layout(PlainScreen(self._log)))

    def __call__(self, event: Event) -> None:
        """Take one event."""
        super().__call__(event)
        self._text(event)

    def to_file(self, taken: int = 0) -> bytes:
        """Return the Markdown; nothing if there is no room for it behind what is `taken` already."""
        page = _Page(MAX_SUMMARY - taken)
        if not page.add("\n" * bool(taken), *self._describe_end()):
            return b""
        self._add_table(page, SHARES[0])
        for step in self.rows:
            if isinstance(step, StepKept) and step.status == StepStatus.FAILED:
                details = [line for part in _list_evidence(step.evidence) for line in part.splitlines()]
                title = f"{step.id}: {step.verdict or step.status}"
                page.fold(title, details, min(page.find_room(SHARES[1]), MAX_DETAILS), self._where)
        page.fold("log", self._log.getvalue().splitlines(), page.find_room(1.0), self._where)
        return page.text.encode()

    @property
    def _where(self) -> str:
        return f"; `runbook show {self.recorded_run}` has them" if self.recorded_run else ""

    def _describe_end(self) -> Iterator[str]:
        status, reason = self.find_trouble() or ("", "")
        if self.end is not None:
            status, reason = self.end.status, self.end.reason
        is_good = self.end is not None and self.end.exit == 0
        is_half_good = status in (RunStatus.STILL_STARTING, RunStatus.ROLLED_BACK, RunStatus.REMEDIATED)
        mark = "✅" if is_good else "⚠️" if is_half_good else "❌"
        word = "dry run" if isinstance(self.end, PlanFinished) and is_good else status
        sentence = reason if reason.startswith(word) else f"{word}: {reason}"
        yield f"### {mark} {escape(sentence)}\n\n"
        facts = [
            f"**runbook** {escape(self.title)}",
            f"run {self.recorded_run}" if self.recorded_run else "",
            self._describe_exit(),
        ]
        yield " · ".join(filter(None, facts)) + "\n\n"
        for name in ("cause", "back", "now", "hint"):
            if text := str(getattr(self.end, name, "")):
                yield f"**{'next' if name == 'hint' else name}** {escape(text)}\n\n"
        for problem in self.problems:
            yield f"- {escape(str(problem))}\n"

    def _describe_exit(self) -> str:
        took = format_span(round(self.ended - self.began, 1)) if self.ended > self.began else ""
        code = f"exit status {self.end.exit}" if self.end is not None else ""
        return " · ".join(filter(None, (took, code)))

    def _add_table(self, page: _Page, share: float) -> None:
        rows = [*map(_describe_row, self.rows)]
        rows += [(name, "not reached", "", "") for name, one in self.steps.items() if not (one.ends or one.note)]
        if not rows:
            return
        page.add("| step | result | what was found | time |\n|---|---|---|--:|\n")
        for number, row in enumerate(rows):
            line = "| {} |\n".format(" | ".join(map(escape, row)))
            if page.find_room(share) < len(line.encode()):
                page.add(f"| | | {len(rows) - number} more rows are left out{self._where} | |\n")
                break
            page.add(line)
        page.add("\n")


class _Page:
    """Markdown of at most so many bytes."""

    def __init__(self, most: int) -> None:
        self.text = ""
        self._most = most
        self._size = 0

    def find_room(self, share: float) -> int:
        """Return how many bytes are left of this share of the page."""
        return int(self._most * share) - self._size

    def add(self, *texts: str) -> bool:
        """Add texts, if there is room for all of them."""
        text = "".join(texts)
        size = len(text.encode())
        if size > self.find_room(1.0):
            return False
        self.text += text
        self._size += size
        return True

    def fold(self, title: str, lines: Sequence[str], room: int, where: str) -> None:
        """Add lines that one click shows. If there is no room for all, the first ones are left out."""
        shown = [html.escape(clean_text(line)) for line in lines]
        around = "<details><summary>{}</summary>\n\n{}<pre>\n{}\n</pre>\n\n</details>\n\n"
        head = html.escape(_shorten(" ".join(clean_text(title).split())))
        room -= len(around) + len(head.encode()) + 200
        kept = list(_take_last(shown, room))
        left_out = len(shown) - len(kept)
        note = f"The first {left_out} lines are left out{where}.\n\n" if left_out else ""
        if shown:
            self.add(around.format(head, note, "\n".join(kept)))


def escape(text: str) -> str:
    """Return a text from outside for one line of Markdown, in which it is nothing but text."""
    line = _shorten(" ".join(clean_text(text).split()))
    return _SPECIAL.sub(_escape_one, line)


def _escape_one(found: re.Match[str]) -> str:
    one = found[0]
    # GitHub looks for mentions and formulas in the finished page, where a backslash is not seen any more.
    return f"<span>{one}</span>" if one in "@#$" else _ESCAPES.get(one, f"\\{one}")


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def _take_last(lines: Sequence[str], room: int) -> Iterable[str]:
    first = len(lines)
    while first and (room := room - len(lines[first - 1].encode()) - 1) >= 0:
        first -= 1
    return lines[first:]


def _list_evidence(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was printed, then the facts as the record has them."""
    yield from list_details(evidence)
    facts = {key: value for key, value in evidence.items() if key not in DETAILS}
    if facts:
        yield json.dumps(facts, indent=1, ensure_ascii=False, default=str)


def _describe_row(step: StepKept | StepPlanned) -> tuple[str, str, str, str]:
    if isinstance(step, StepPlanned):
        words = {
            Impact.MUTATING: "would change",
            Impact.READ_ONLY: step.verdict or "reads",
            Impact.NONE: "nothing to do",
        }
        return step.id, words.get(Impact(step.impact), "not known yet"), step.reason, ""
    reason = step.reason
    if step.status == StepStatus.FAILED and step.verdict:
        reason = f"{step.verdict}: {reason}"
    took = format_span(round(step.seconds, 2)) if step.seconds >= MIN_SHOWN_SECONDS else ""
    return step.id, step.status, reason, took
