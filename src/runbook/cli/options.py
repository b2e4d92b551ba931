"""What the commands have in common: their options, and how they speak to a person."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import Annotated

import typer

from runbook import errors
from runbook.util import stdio


class Output(StrEnum):
    """How a command reports."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="The runbook; - for standard input.")]
FilesArgument = Annotated[list[str], typer.Argument(metavar="FILE...", help="The runbooks.")]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="The run's id, or the end of it; by default the latest.")
]
OutputOption = Annotated[
    Output, typer.Option("--output", help="auto: for people; plain: the same without colours; json: one object a line.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the runbook's `vars`."),
]
LockWaitOption = Annotated[
    str | None,
    typer.Option("--lock-wait", metavar="SPAN", help="Wait so long for another run on the same unit to end."),
]
UserOption = Annotated[bool, typer.Option("--user", help="Talk to your own user manager, not to the system's.")]


def print_error(error: errors.RunbookError) -> None:
    """Say what went wrong, and what to do."""
    print_message(wrap(f"runbook: {error.message}"))
    if error.hint:
        print_message(wrap(f"  {error.hint}"))


def wrap(text: str) -> str:
    """Break a sentence into lines as wide as all others; a path stays whole, to be copied."""
    import textwrap  # noqa: PLC0415

    lines = textwrap.wrap(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def print_result(text: str) -> None:
    """Print a result."""
    typer.echo(stdio.escape_controls(text))


def print_message(text: str) -> None:
    """Say something beside the result: on standard error."""
    # Where nobody takes it, there is nobody left to tell.
    with contextlib.suppress(OSError):
        typer.echo(stdio.escape_controls(text), err=True)


def program_version() -> str:
    """Give the version of this program."""
    from importlib.metadata import version  # noqa: PLC0415

    return version("systemd-runbook")
