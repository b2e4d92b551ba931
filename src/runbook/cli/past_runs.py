"""The commands that tell of past runs, from their records alone: they need neither systemd nor the runbook's file."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.options import Output, OutputOption, RunArgument, print_message, wrap
from runbook.cli.options import print_result as put
from runbook.cli.output import make_json_lines, make_layout
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.records.history import RunRecord

MAX_LISTED = 20
"""So many runs are listed unless all are asked for."""


def history(
    all_: Annotated[bool, typer.Option("--all", help=f"List all runs, not only the newest {MAX_LISTED}.")] = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """List past runs, the latest first: those of the user who asks."""
    from itertools import islice  # noqa: PLC0415

    from runbook.records import history as past  # noqa: PLC0415
    from runbook.records import store  # noqa: PLC0415
    from runbook.report.story import print_history as listed  # noqa: PLC0415

    runs = past.list_runs()
    told = (one.summary_event() for one in islice(runs, None if all_ else MAX_LISTED))
    with contextlib.ExitStack() as shown:
        if output is Output.JSON:
            lines = make_json_lines()
            for summary in told:
                lines(summary)
        else:
            listed(told, make_layout(output, shown))
    more = 0 if all_ else len(runs) - MAX_LISTED
    if more > 0 and output is not Output.JSON:
        put(f"{more} older: runbook history --all")
    if not runs:
        print_message(wrap(f"no run is recorded in {store.runs_folder()}; each user's runs are recorded by themselves"))
    for folder in past.list_unreadable():
        print_message(wrap(f"warning: {folder} cannot be read; another version of runbook may have made it"))


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

    found = past.find_run(run)
    if html is not None:
        _write_page(found, Path(html))
        return
    # Ctrl-C ends the following with a status of its own, not the program by a signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _print_run(found, follow, output)


def _print_run(found: RunRecord, follow: bool, output: Output) -> None:
    from runbook.report.story import StoryReport  # noqa: PLC0415

    events = found.follow(time.sleep) if follow else iter(found.events)
    with contextlib.ExitStack() as shown:
        if output is Output.JSON:
            lines = make_json_lines()
            for event in events:
                lines(event)
                if lines.is_reader_gone:  # A run may go on for hours after `| head`.
                    return
            return
        sheet = make_layout(output, shown)
        story = StoryReport(sheet)
        story.begin(found.summary_event())
        for event in events:
            story(event)
            if sheet.is_reader_gone:
                return
        story.end(found.reload().summary_event())


def _write_page(found: RunRecord, file: Path) -> None:
    """Write the page where it is asked for. Raises UsageError."""
    from runbook.records.store import replace_file  # noqa: PLC0415
    from runbook.report.html import HtmlScreen  # noqa: PLC0415
    from runbook.report.layout import Layout  # noqa: PLC0415
    from runbook.report.story import StoryReport  # noqa: PLC0415

    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise errors.UsageError(f"cannot write {file}: it is there, and no file", hint="name another one")
    sheet = HtmlScreen()
    story = StoryReport(Layout(sheet))
    summary = found.summary_event()
    story.begin(summary)
    for event in found.events:
        story(event)
    story.end(summary)
    try:
        replace_file(file, sheet.page(f"{found.title}: run {found.id}", found.events))
    except OSError as error:
        raise errors.RunbookError(f"cannot write {file}: {describe_error(error)}") from error
    put(f"{file} tells run {found.id}; only you can read it")
