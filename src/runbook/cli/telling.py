"""The commands that tell of past runs, from their records alone: they need neither systemd nor the runbook's file."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.base import Output, OutputOption, RunArgument, say, wrapped
from runbook.cli.base import show as put
from runbook.cli.reporting import json_lines, page
from runbook.util.wording import in_words

if TYPE_CHECKING:
    from runbook.records.history import Past

NEWEST = 20
"""So many runs are listed unless all are asked for."""


def history(
    all_: Annotated[bool, typer.Option("--all", help=f"List all runs, not only the newest {NEWEST}.")] = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """List past runs, the latest first: those of the user who asks."""
    from itertools import islice  # noqa: PLC0415

    from runbook.records import history as past  # noqa: PLC0415
    from runbook.records import store  # noqa: PLC0415
    from runbook.report.story import history as listed  # noqa: PLC0415

    runs = past.runs()
    told = (one.summary() for one in islice(runs, None if all_ else NEWEST))
    with contextlib.ExitStack() as shown:
        if output is Output.JSON:
            lines = json_lines()
            for summary in told:
                lines(summary)
        else:
            listed(told, page(output, shown))
    more = 0 if all_ else len(runs) - NEWEST
    if more > 0 and output is not Output.JSON:
        put(f"{more} older: runbook history --all")
    if not runs:
        say(wrapped(f"no run is recorded in {store.home()}; each user's runs are recorded by themselves"))
    for folder in past.unreadable():
        say(wrapped(f"warning: {folder} cannot be read; another version of runbook may have made it"))


def show(
    run: RunArgument = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on showing until the run ends, or its program does.")
    ] = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write a page for a browser instead.")
    ] = None,
    output: OutputOption = Output.AUTO,
) -> None:
    """Tell one run step by step, with its evidence, and what to do next."""
    if html is not None and (follow or output is Output.JSON):
        raise errors.UsageError("--html writes a page: neither --follow nor --output json goes with it")
    from runbook.records import history as past  # noqa: PLC0415

    found = past.find(run)
    if html is not None:
        _write(found, Path(html))
        return
    # Ctrl-C ends the following with a status of its own, not the program by a signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _tell(found, follow, output)


def _tell(found: Past, follow: bool, output: Output) -> None:
    from runbook.report.story import Story  # noqa: PLC0415

    events = found.follow(time.sleep) if follow else iter(found.events)
    with contextlib.ExitStack() as shown:
        if output is Output.JSON:
            lines = json_lines()
            for event in events:
                lines(event)
                if lines.unread:  # A run may go on for hours after `| head`.
                    return
            return
        sheet = page(output, shown)
        story = Story(sheet)
        story.begin(found.summary())
        for event in events:
            story(event)
            if sheet.unread:
                return
        story.end(found.again().summary())


def _write(found: Past, file: Path) -> None:
    """Write the page where it is asked for. Raises UsageError."""
    from runbook.records.store import replace_file  # noqa: PLC0415
    from runbook.report.html import Sheet  # noqa: PLC0415
    from runbook.report.layout import Page  # noqa: PLC0415
    from runbook.report.story import Story  # noqa: PLC0415

    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise errors.UsageError(f"cannot write {file}: it is there, and no file", hint="name another one")
    sheet = Sheet()
    story = Story(Page(sheet))
    summary = found.summary()
    story.begin(summary)
    for event in found.events:
        story(event)
    story.end(summary)
    try:
        replace_file(file, sheet.page(f"{found.title}: run {found.id}", found.events))
    except OSError as error:
        raise errors.RunbookError(f"cannot write {file}: {in_words(error)}") from error
    put(f"{file} tells run {found.id}; only you can read it")
