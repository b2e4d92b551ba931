"""The tables of `runbook steps`."""

from __future__ import annotations

from runbook.cli.tables import format_fields, format_types
from runbook.document.reference import FieldReference, StepReference

INNER = FieldReference("port", "port", "", required=True, description="Where to connect.")
PROBES = FieldReference("probes", "list of mappings", "", False, "What must answer.", fields=(INNER,))
TIMEOUT = FieldReference("timeout", "time span", "2min", False, "How long it takes.", common=True)
DETAILS = "A paragraph.\n\nAnother."
READS = StepReference("wait-ready", "Waits until the unit is healthy.", DETAILS, False, (PROBES, TIMEOUT))
CHANGES = StepReference("a-type-with-a-long-name", "Changes " + "something " * 12 + "now.", "", True, ())


def test_a_type_that_only_reads_is_marked() -> None:
    reads, changes = format_types([READS]), format_types([CHANGES])
    assert "Waits until the unit is healthy. Only reads." in reads
    assert "Only reads" not in changes
    assert reads.splitlines()[-1] == "`runbook steps TYPE` lists the fields of a type."


def test_no_line_is_wider_than_a_terminal_or_ends_with_spaces() -> None:
    for line in (*format_types([READS, CHANGES]).splitlines(), *format_fields(READS).splitlines()):
        assert len(line) <= 80
        assert line == line.rstrip()


def test_own_fields_come_before_those_of_every_step() -> None:
    assert format_fields(READS).splitlines() == [
        "wait-ready",
        "",
        "  Waits until the unit is healthy.",
        "",
        "  A paragraph.",
        "",
        "  Another.",
        "",
        "  fields",
        "    probes             What must answer. (list of mappings)",
        "      port               Where to connect. (port, required)",
        "",
        "  fields of every step",
        "    timeout            How long it takes. (time span, default 2min)",
    ]
