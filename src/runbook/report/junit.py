"""The result of a run as JUnit XML, which CI servers show: a test case for each step, nested steps too.

The format is that of Jenkins (junit-10.xsd of its xunit plugin), of which GitLab reads a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from runbook.events import StepFinished, StepKept
from runbook.model import StepStatus
from runbook.report.results import RunResults, StepResult, clean_text, list_details

WHOLE_RUN = "the run"  # the name of the test case for what no step is to blame for


class JUnitReport(RunResults):
    """Collects the events of a run, and makes the XML."""

    def to_file(self, taken: int = 0) -> bytes:
        """Return the XML. A run that has not ended is an error in it."""
        name = self.title
        suite = Element("testsuite", {"name": clean_text(name)})
        properties = SubElement(suite, "properties")
        for key, value in self._list_properties():
            SubElement(properties, "property", {"name": key, "value": clean_text(value)})
        for case in self.steps.values():
            self._add_outcome(_add_case(suite, name, case.name, case.seconds), case)
        if trouble := self.find_trouble():
            _add(_add_case(suite, name, WHOLE_RUN, 0.0), "error", *trouble)
        counts = {
            "tests": len(suite.findall("testcase")),
            **{f"{kind}s": len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error")},
            "skipped": len(suite.findall("testcase/skipped")),
            "time": f"{max(0.0, self.ended - self.began):.3f}",
        }
        suite.attrib |= {key: str(value) for key, value in counts.items()}
        suite.set("timestamp", datetime.fromtimestamp(self.began, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
        whole = Element("testsuites", {key: str(value) for key, value in counts.items() if key != "skipped"})
        whole.append(suite)
        indent(whole)
        text: bytes = tostring(whole, encoding="utf-8", xml_declaration=True)
        return text + b"\n"

    def _list_properties(self) -> Iterator[tuple[str, str]]:
        yield "run-id", self.run
        if self.begin is not None:
            yield "file", self.begin.file
            yield "unit", self.begin.unit or ""
        if self.end is not None:
            yield "status", self.end.status
            yield "exit", str(self.end.exit)
            yield "reason", self.end.reason
            if self.end.hint:
                yield "next", self.end.hint

    def _add_outcome(self, into: Element, case: StepResult) -> None:
        last = case.ends[-1] if case.ends else None
        if last is None:
            _add(into, "skipped", "", case.note or "not reached")
        elif last.status == StepStatus.SKIPPED:
            _add(into, "skipped", "", last.reason)
        elif self.has_failed(case):
            _add(into, "failure", last.verdict or "", last.reason, "\n".join(list_details(last.evidence)))
        said = [_describe(end) for end in case.ends if end.status != StepStatus.SKIPPED]
        if said:
            SubElement(into, "system-out").text = clean_text("\n".join(said))


def _add_case(suite: Element, of: str, name: str, seconds: float) -> Element:
    # A full stop in `classname` separates packages.
    words = {"classname": clean_text(of.replace(".", "_")), "name": clean_text(name), "time": f"{seconds:.3f}"}
    return SubElement(suite, "testcase", words)


def _add(into: Element, kind: str, type_: str, message: str, text: str = "") -> None:
    words = {"message": message} if kind == "skipped" else {"type": type_, "message": message}
    SubElement(into, kind, {key: clean_text(value) for key, value in words.items()}).text = clean_text(text) or None


def _describe(end: StepKept) -> str:
    kept = "" if isinstance(end, StepFinished) else " in an earlier part of the run"
    verdict = f" ({end.verdict})" if end.verdict else ""
    return f"{end.status}{verdict}{kept}: {end.reason}"
