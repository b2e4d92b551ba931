"""How bad several findings are together."""

from __future__ import annotations

from runbook.doctor.findings import Severity, worst


def test_the_worst_of_several() -> None:
    assert worst([]) is Severity.OK
    assert worst([Severity.WARNING, Severity.OK]) is Severity.WARNING
    assert worst([Severity.WARNING, Severity.PROBLEM, Severity.OK]) is Severity.PROBLEM
