"""The metrics of a machine, by the rules of `promtool check metrics` and of the textfile collector."""

from __future__ import annotations

import re

from runbook.doctor.findings import FindingKind, MachineDiagnosis, MachineFinding, Severity
from runbook.report.prometheus import format_metrics

SAMPLE = re.compile(r'([a-z][a-z0-9_]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\d+(?:\.\d+)?(?:e[+-]\d+)?)')


def metrics(*findings: MachineFinding, unseen: tuple[str, ...] = ()) -> str:
    return format_metrics(MachineDiagnosis("web1", 40, 23, 2, findings, unseen, 0.6125), 1_790_000_000.4)


def finding(subject: str, kind: FindingKind = FindingKind.OLD_CODE) -> MachineFinding:
    return MachineFinding(kind, Severity.WARNING, subject, "why", "next", "bob")


def check(text: str) -> None:
    """Check the text as promtool does: HELP and TYPE once and before the samples, no sample twice, good names."""
    assert text.endswith("\n")
    helped: list[str] = []
    typed: list[str] = []
    samples: list[str] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, help_text = line.split(" ", 3)
            assert help_text.endswith(".")
            helped.append(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert (name, kind) == (helped[-1], "gauge")
            assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
            typed.append(name)
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == typed[-1]
            samples.append(line.rpartition(" ")[0])
    assert len(set(helped)) == len(helped) == len(typed)
    assert len(set(samples)) == len(samples)


def test_a_healthy_machine() -> None:
    text = metrics()
    check(text)
    assert "runbook_doctor_healthy 1\n" in text
    assert 'runbook_doctor_findings{severity="warning"} 0\nrunbook_doctor_findings{severity="problem"} 0\n' in text
    assert "runbook_doctor_duration_seconds 0.612\nrunbook_doctor_" not in text.partition("# HELP")[0]
    assert "runbook_doctor_last_run_timestamp_seconds 1790000000\n" in text
    assert "runbook_doctor_finding{" not in text


def test_findings() -> None:
    text = metrics(finding("web.service"), finding("web.service"), finding("db.service"), unseen=("the journal",))
    check(text)
    assert (
        'runbook_doctor_finding{kind="old-code-serving",severity="warning",unit="web.service",user="bob"} 1\n' in text
    )
    assert 'runbook_doctor_findings{severity="warning"} 3\n' in text
    assert "runbook_doctor_healthy 0\n" in text
    assert "runbook_doctor_unseen 1\n" in text


def test_the_values_of_labels_are_escaped() -> None:
    text = metrics(finding('dev-disk-by\\x2dlabel-"a"\nb.service'))
    check(text)
    check(metrics(finding("bell\x07.service")))
    assert r'unit="dev-disk-by\\x2dlabel-\"a\"\nb.service"' in text
