"""The commands that need no systemd: about files, and about the step types."""

from __future__ import annotations

from typing import Annotated

import typer

from runbook import errors
from runbook.cli.arguments import load_runbook
from runbook.cli.options import FilesArgument, SetOption, print_error, print_message, print_result


def validate(files: FilesArgument, set_: SetOption = None) -> None:
    """Check files, and report every mistake. Needs no systemd."""
    problems = 0
    for file in files:
        try:
            load_runbook(file, set_)
        except errors.DocumentError as error:
            problems += len(error.problems)
            print_message(error.message)
        except errors.RunbookError as error:
            problems += 1
            print_error(error)
    if problems:
        print_message(f"{problems} error{'' if problems == 1 else 's'}")
        raise typer.Exit(errors.EXIT_INVALID)
    print_result(f"{len(files)} file{'' if len(files) == 1 else 's'}, no mistakes")


def schema() -> None:
    """Print the JSON Schema of a runbook, for editors."""
    import json  # noqa: PLC0415

    from runbook.document import reference  # noqa: PLC0415

    print_result(json.dumps(reference.make_schema(), indent=2))


def steps(
    kind: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="A step type, for its fields.")] = None,
) -> None:
    """List the step types; with TYPE, its fields."""
    from runbook.cli import tables  # noqa: PLC0415
    from runbook.document import reference  # noqa: PLC0415
    from runbook.util.wording import suggest  # noqa: PLC0415

    entries = {entry.kind: entry for entry in reference.describe_types()}
    if kind is None:
        print_result(tables.format_types(entries.values()))
    elif kind in entries:
        print_result(tables.format_fields(entries[kind]))
    else:
        meant = suggest(kind, entries)
        raise errors.UsageError(f"unknown step type `{kind}`{meant}", hint="runbook steps lists them")
