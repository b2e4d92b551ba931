"""The step types and their fields, as a person reads them in a terminal.

A table of rich's would show the same lines, but end them with spaces, and take 28 ms more to load than textwrap.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from runbook.document.reference import FieldReference, StepReference
from runbook.report.layout import WIDTH

KEY_WIDTH = 18
"""Columns of a step type's or a field's name."""


def format_types(entries: Iterable[StepReference]) -> str:
    """List the step types: what each does, in a line or two. What only reads is marked."""
    lines = []
    for entry in entries:
        reads = "" if entry.changes else " Only reads."
        lines += _item(entry.kind, f"{entry.summary}{reads}", 2)
    lines += ["", "runbook steps TYPE tells the fields of one."]
    return "\n".join(lines)


def format_fields(entry: StepReference) -> str:
    """Describe one step type: its own fields first, then those that every step has."""
    lines = [entry.kind]
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
