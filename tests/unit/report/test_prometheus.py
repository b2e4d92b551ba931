"""The metrics of a machine, read by the parser of Prometheus, and by the rules of the textfile collector."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from runbook.doctor.findings import FindingKind, MachineDiagnosis, MachineFinding, Severity
from runbook.report.prometheus import format_metrics


def metrics(*findings: MachineFinding, unseen: tuple[str, ...] = ()) -> str:
    return format_metrics(MachineDiagnosis("web1", 40, 23, 2, findings, unseen, 0.6125), 1_790_000_000.4)


def finding(subject: str, kind: FindingKind = FindingKind.OLD_CODE) -> MachineFinding:
    return MachineFinding(kind, Severity.WARNING, subject, "why", "next", "bob")


def check(text: str) -> list[Sample]:
    """Return the samples that the parser of Prometheus reads; refuse what the textfile collector refuses."""
    assert text.endswith("\n")
    families = [*text_string_to_metric_families(text)]
    names = [one.name for one in families]
    assert len(set(names)) == len(names)
    for one in families:
        assert one.name.startswith("runbook_doctor_")
        assert not one.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert (one.type, one.documentation[-1], bool(one.samples)) == ("gauge", ".", True)
    samples = [sample for one in families for sample in one.samples]
    # Without a TYPE line of its own, a sample makes an untyped family; a time is an error to the collector.
    assert {sample.name for sample in samples} == set(names)
    assert [sample for sample in samples if sample.timestamp is not None] == []
    assert len({(sample.name, *sample.labels.items()) for sample in samples}) == len(samples)
    assert len(samples) == sum(not line.startswith("#") for line in text.splitlines())
    return samples


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


@pytest.mark.parametrize(
    "unit", ['dev-disk-by\\x2dlabel-"a"\nb.service', "a,b={}.service", "\\n.service", "ü.service", "\\"]
)
def test_the_values_of_labels_are_read_as_they_were(unit: str) -> None:
    samples = check(metrics(finding(unit)))
    assert [one.labels["unit"] for one in samples if one.name == "runbook_doctor_finding"] == [unit]


def test_control_characters_are_no_part_of_a_label() -> None:
    text = metrics(finding("bell\x07.service"))
    check(text)
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("one", "other"), [("bell\x07.service", "bell\\x07.service"), ("\udc80.service", "\\udc80.service")]
)
def test_names_that_are_escaped_alike_are_one_series(one: str, other: str) -> None:
    samples = check(metrics(finding(one), finding(other)))
    assert [each.labels["unit"] for each in samples if each.name == "runbook_doctor_finding"] == [other]
    (count,) = [each.value for each in samples if each.labels == {"severity": "warning"}]
    assert count == 2
