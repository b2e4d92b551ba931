"""The result of a run as JUnit XML, which CI servers show: a test case for each step, nested steps too.

The format is that of Jenkins (junit-10.xsd of its xunit plugin), of which GitLab reads a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from runbook.events import (
    Event,
    Observed,
    Payload,
    PlanFinished,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFinished,
    StepKept,
    StepPlanned,
    StepStarted,
)
from runbook.model import RunStatus, StepStatus
from runbook.util.stdio import escape_controls

NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 does not permit
PASSED = (RunStatus.OK, RunStatus.CHANGED, RunStatus.REMEDIATED)
WHOLE_RUN = "the run"  # the name of the test case for what no step is to blame for


@dataclass
class _Case:
    """A test case: what one step came to. A check of a `remediate` step may finish several times."""

    name: str
    ends: list[StepKept] = field(default_factory=list)
    note: str = ""  # why there is no end, or what was planned

    @property
    def seconds(self) -> float:
        return sum(end.seconds for end in self.ends)


class JUnitReport:
    """Collects the events of a run, and makes the XML."""

    def __init__(self) -> None:
        self._begin: RunStarted | RunResumed | Observed | None = None
        self._end: RunFinished | PlanFinished | None = None
        self._run, self._began, self._ended = "", 0.0, 0.0
        self._cases: dict[str, _Case] = {}

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self._began, self._ended, self._run = self._began or event.time, event.time, event.run or self._run
        if event.payload is not None:
            self._take(event.payload)

    def _take(self, payload: Payload) -> None:
        match payload:
            case RunStarted() | RunResumed() | Observed():
                self._begin = self._begin or payload
                for step in getattr(payload, "steps", ()):
                    self._find_case(step["id"])
            case StepStarted():
                self._find_case(payload.id)
            case StepKept():
                self._find_case(payload.id).ends.append(payload)
            case StepPlanned():
                self._find_case(payload.id).note = payload.reason
            case RunFinished() | PlanFinished():
                self._end = payload

    def _find_case(self, name: str) -> _Case:
        return self._cases.setdefault(name, _Case(name))

    def to_xml(self) -> bytes:
        """Return the XML. A run that has not ended is an error in it."""
        name = (self._begin.name or self._begin.file if self._begin else "") or "runbook"
        suite = Element("testsuite", {"name": _clean(name)})
        properties = SubElement(suite, "properties")
        for key, value in self._list_properties():
            SubElement(properties, "property", {"name": key, "value": _clean(value)})
        for case in self._cases.values():
            self._add_outcome(_add_case(suite, name, case.name, case.seconds), case)
        if trouble := self._find_trouble():
            _add(_add_case(suite, name, WHOLE_RUN, 0.0), "error", *trouble)
        counts = {
            "tests": len(suite.findall("testcase")),
            **{f"{kind}s": len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error")},
            "skipped": len(suite.findall("testcase/skipped")),
            "time": f"{max(0.0, self._ended - self._began):.3f}",
        }
        suite.attrib |= {key: str(value) for key, value in counts.items()}
        suite.set("timestamp", datetime.fromtimestamp(self._began, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
        whole = Element("testsuites", {key: str(value) for key, value in counts.items() if key != "skipped"})
        whole.append(suite)
        indent(whole)
        text: bytes = tostring(whole, encoding="utf-8", xml_declaration=True)
        return text + b"\n"

    def _list_properties(self) -> Iterator[tuple[str, str]]:
        yield "run-id", self._run
        if self._begin is not None:
            yield "file", self._begin.file
            yield "unit", self._begin.unit or ""
        if self._end is not None:
            yield "status", self._end.status
            yield "exit", str(self._end.exit)
            yield "reason", self._end.reason
            if self._end.hint:
                yield "next", self._end.hint

    def _add_outcome(self, into: Element, case: _Case) -> None:
        last = case.ends[-1] if case.ends else None
        if last is None:
            _add(into, "skipped", "", case.note or "not reached")
        elif last.status == StepStatus.SKIPPED:
            _add(into, "skipped", "", last.reason)
        elif last.status == StepStatus.FAILED and not self._is_fixed(case.name):
            _add(into, "failure", last.verdict or "", last.reason, "\n".join(_list_details(last.evidence)))
        said = [_describe(end) for end in case.ends if end.status != StepStatus.SKIPPED]
        if said:
            SubElement(into, "system-out").text = _clean("\n".join(said))

    def _is_fixed(self, name: str) -> bool:
        """True if a step that contains this one ended well: its check had failed, and was fixed."""
        outer = name.rpartition(".")[0]
        while outer:
            case = self._cases.get(outer)
            if case is not None and case.ends and case.ends[-1].status != StepStatus.FAILED:
                return True
            outer = outer.rpartition(".")[0]
        return False

    def _find_trouble(self) -> tuple[str, str] | None:
        """Return the status and the sentence of a run that ended badly without a failed step."""
        if self._end is None:
            return "cut-short", "the run has not ended"
        failed = any(case.ends and case.ends[-1].status == StepStatus.FAILED for case in self._cases.values())
        is_well = self._end.status in PASSED and self._end.exit == 0
        if is_well or (failed and self._end.status != RunStatus.INTERRUPTED):
            return None
        hint = f"; next: {self._end.hint}" if self._end.hint else ""
        return self._end.status, f"{self._end.reason}{hint}"


def _add_case(suite: Element, of: str, name: str, seconds: float) -> Element:
    # A full stop in `classname` separates packages.
    words = {"classname": _clean(of.replace(".", "_")), "name": _clean(name), "time": f"{seconds:.3f}"}
    return SubElement(suite, "testcase", words)


def _add(into: Element, kind: str, type_: str, message: str, text: str = "") -> None:
    words = {"message": message} if kind == "skipped" else {"type": type_, "message": message}
    SubElement(into, kind, {key: _clean(value) for key, value in words.items()}).text = _clean(text) or None


def _describe(end: StepKept) -> str:
    kept = "" if isinstance(end, StepFinished) else " in an earlier part of the run"
    verdict = f" ({end.verdict})" if end.verdict else ""
    return f"{end.status}{verdict}{kept}: {end.reason}"


def _list_details(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the evidence of a failure: what a command printed, and the journal of the unit."""
    for key in ("output", "systemd", "journal"):
        found = evidence.get(key, ())
        lines: Iterable[object] = found.splitlines() if isinstance(found, str) else found
        yield from (f"{key}: {line}" for line in lines)


def _clean(text: str) -> str:
    """Return a text without what XML does not permit, and with escapes for other control characters."""
    return NOT_XML.sub("\ufffd", escape_controls(text))
