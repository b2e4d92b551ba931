"""The tables of `runbook steps`, as text for a terminal.

rich's Table would print the same lines with spaces at their ends, and takes 28 ms longer to import than textwrap.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from runbook.document.reference import FieldReference, StepReference
from runbook.report.layout import WIDTH

KEY_WIDTH = 18  # width of the column with the names


def format_types(entries: Iterable[StepReference]) -> str:
    """Return a list of the step types: what each does, and whether it only reads."""
    lines = []
    for entry in entries:
        reads = "" if entry.changes else " Only reads."
        lines += _item(entry.type_name, f"{entry.summary}{reads}", 2)
    lines += ["", "`runbook steps TYPE` lists the fields of a type."]
    return "\n".join(lines)


def format_fields(entry: StepReference) -> str:
    """Return the description of a step type: its own fields first, then those that every step has."""
    lines = [entry.type_name]
    for paragraph in filter(None, [entry.summary, *entry.details.split("\n\n")]):
        lines += ["", *textwrap.wrap(paragraph, WIDTH - 2, initial_indent="  ", subsequent_indent="  ")]
    own = [row for row in entry.rows if not row.common]
    common = [row for row in entry.rows if row.common]
    lines += ["", "  fields", *_rows(own, 4)]
    lines += ["", "  fields of every step", *_rows(common, 4)]
    return "\n".join(lines)


def _rows(rows: Sequence[FieldReference], indent: int) -> list[str]:
    lines = []
    for row in rows:
        default = "required" if row.required else f"default {row.default}" if row.default else ""
        facts = ", ".join(filter(None, (row.type, default)))
        lines += _item(row.key, f"{row.description} ({facts})", indent)
        lines += _rows(row.fields, indent + 2)
    return lines


def _item(name: str, text: str, indent: int) -> list[str]:
    lead = f"{' ' * indent}{name}".ljust(indent + KEY_WIDTH) + " "
    return textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=" " * (indent + KEY_WIDTH + 1))
