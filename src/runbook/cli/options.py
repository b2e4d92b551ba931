"""The arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """The format in which a command reports."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="The runbook; - reads standard input.")]
FilesArgument = Annotated[list[str], typer.Argument(metavar="FILE...", help="The runbooks.")]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="The run's id, or the end of it; by default the latest run.")
]
OutputOption = Annotated[
    Output,
    typer.Option(
        "--output", help="auto: text, with colours on a terminal; plain: text; json: one JSON object per line."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the runbook's `vars`.")
]
LockWaitOption = Annotated[
    str | None,
    typer.Option("--lock-wait", metavar="SPAN", help="If another run has the lock of a unit, wait for it this long."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")]
FailOnRemediationOption = Annotated[
    bool, typer.Option("--fail-on-remediation", help="Exit with status 6 if something had to be fixed.")
]
JUnitOption = Annotated[
    str | None, typer.Option("--junit", metavar="FILE", help="Write the result as JUnit XML to FILE, too.")
]
SummaryOption = Annotated[
    str | None, typer.Option("--summary", metavar="FILE", help="Write a summary in Markdown to FILE, too.")
]
CodeQualityOption = Annotated[
    str | None,
    typer.Option("--code-quality", metavar="FILE", help="Write what failed to FILE, too, as GitLab's Code Quality."),
]
AnnotateOption = Annotated[
    bool, typer.Option("--annotate", help="Print what failed as GitHub's annotations, too, as if in GitHub Actions.")
]
PortsOption = Annotated[
    list[str] | None,
    typer.Option("--port", metavar="PORT", help="A port that the unit must own, instead of those found."),
]
UserOption = Annotated[bool, typer.Option("--user", help="Use your own user manager, not the system manager.")]


def program_version() -> str:
    """Return the version of this program."""
    from importlib.metadata import version  # noqa: PLC0415

    return version("systemd-runbook")
