"""The commands about the file format: schema, steps."""

from __future__ import annotations

from typing import Annotated

import typer

from runbook import errors
from runbook.cli.output import print_result


def schema(
    events: Annotated[bool, typer.Option("--events", help="The schema of the JSON lines instead.")] = False,
) -> None:
    """Print the JSON Schema of a runbook, for editors, or of the JSON lines."""
    import json  # noqa: PLC0415

    if events:
        from runbook.report.event_schema import make_event_schema  # noqa: PLC0415

        print_result(json.dumps(make_event_schema(), indent=2))
    else:
        from runbook.document.reference import make_schema  # noqa: PLC0415

        print_result(json.dumps(make_schema(), indent=2))


def steps(
    kind: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="The step type whose fields to list.")] = None,
) -> None:
    """List the step types, or the fields of one."""
    from runbook.cli import tables  # noqa: PLC0415
    from runbook.document import reference  # noqa: PLC0415
    from runbook.util.wording import suggest  # noqa: PLC0415

    entries = {entry.type_name: entry for entry in reference.describe_types()}
    if kind is None:
        print_result(tables.format_types(entries.values()))
    elif kind in entries:
        print_result(tables.format_fields(entries[kind]))
    else:
        meant = suggest(kind, entries)
        raise errors.UsageError(f"unknown step type `{kind}`{meant}", hint="`runbook steps` lists the step types")
