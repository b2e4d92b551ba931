"""The commands about past runs: history, show. They read the records only, neither systemd nor the runbook's file."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.judged_folder import check_file, write_judged
from runbook.cli.options import Output, OutputOption, RunArgument
from runbook.cli.output import make_json_lines, make_layout, print_message, print_result, wrap
from runbook.cli.result_files import FILE_KINDS, make_report, write_file
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.events import Event
    from runbook.records.history import RunRecord
    from runbook.report.layout import Layout
    from runbook.report.story import StoryReport

MAX_ROWS = 20  # runs that are listed without `--all` and `-n`
PAGE_WIDTH = 80  # columns of the text in a page
MAX_PAGE_OUTPUT = 64_000  # bytes of the output of one command in a page


def history(
    all_: Annotated[bool, typer.Option("--all", help=f"List all runs, not only the newest {MAX_ROWS}.")] = False,
    number: Annotated[
        int | None, typer.Option("-n", "--number", metavar="N", min=1, help="List the newest N runs.")
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", metavar="UNIT", help="List only runs on this unit.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="List only runs that began since then: 2h, today, 2026-11-30 12:00."
        ),
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write an HTML page to FILE instead.")
    ] = None,
    output: OutputOption = Output.AUTO,
) -> None:
    """List your past runs, the latest first."""
    from runbook.records import store  # noqa: PLC0415
    from runbook.records.history import list_runs, list_unreadable  # noqa: PLC0415
    from runbook.report.story import print_history  # noqa: PLC0415

    if all_ and number is not None:
        raise errors.UsageError("cannot combine --all with -n")
    if html is not None and output is Output.JSON:
        raise errors.UsageError("cannot combine --html with --output json")
    recorded = list_runs()
    runs = _select(recorded, unit, since)
    rows = runs if all_ else runs[: number or MAX_ROWS]
    if html is not None:
        _write_index(rows, Path(html))
        return
    summaries = (run.summary_event() for run in rows)
    with contextlib.ExitStack() as screen_end:
        if output is Output.JSON:
            lines = make_json_lines()
            for summary in summaries:
                lines(summary)
        else:
            print_history(summaries, make_layout(output, screen_end))
    if len(rows) < len(runs) and output is not Output.JSON:
        print_result(f"{len(runs) - len(rows)} older: runbook history --all")
    if recorded and not runs:
        print_message("no recorded run fits --unit and --since")
    if not recorded:
        print_message(wrap(f"no run is recorded in {store.runs_folder()}; each user has a separate history"))
    for folder in list_unreadable():
        print_message(wrap(f"warning: {folder} cannot be read; another version of runbook may have written it"))


def _select(runs: list[RunRecord], unit: str | None, since: str | None) -> list[RunRecord]:
    """Return the runs on a unit, and since a time, as far as these are given. Raises UsageError."""
    from runbook.util.names import parse_unit_name  # noqa: PLC0415
    from runbook.util.timespan import parse_past  # noqa: PLC0415

    try:
        began = parse_past(since, time.time()) if since is not None else 0.0
        name = parse_unit_name(unit) if unit is not None else ""
    except ValueError as error:
        raise errors.UsageError(str(error)) from error
    return [run for run in runs if run.header.began >= began and (not name or name in run.units)]


def show(
    run: RunArgument = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new events until the run ends or its process exits.")
    ] = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write an HTML page to FILE instead.")
    ] = None,
    junit: Annotated[
        str | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML to FILE instead.")
    ] = None,
    summary: Annotated[
        str | None, typer.Option("--summary", metavar="FILE", help="Write a summary in Markdown to FILE instead.")
    ] = None,
    code_quality: Annotated[
        str | None,
        typer.Option("--code-quality", metavar="FILE", help="Write what failed to FILE, as GitLab's Code Quality."),
    ] = None,
    output: OutputOption = Output.AUTO,
) -> None:
    """Show one run step by step, with its evidence, and what to do next."""
    named = {"html": html, **dict(zip(FILE_KINDS, (junit, summary, code_quality), strict=True))}
    files = {kind: Path(file) for kind, file in named.items() if file is not None}
    if files and (follow or output is Output.JSON):
        raise errors.UsageError(f"cannot combine --{next(iter(files))} with --follow or --output json")
    from runbook.records.history import find_run  # noqa: PLC0415

    record = find_run(run)
    for kind, path in files.items():
        _write_page(record, path) if kind == "html" else _write_kind(record, kind, path)
    if files:
        return
    # With Python's handler, Ctrl-C ends `--follow` with status 130 and not by the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _print_run(record, follow, output)


def _print_run(record: RunRecord, follow: bool, output: Output) -> None:
    with contextlib.ExitStack() as screen_end:
        if output is not Output.JSON:
            _show_story(record, make_layout(output, screen_end, live=follow), follow=follow)
            return
    lines = make_json_lines()
    for event in record.follow(time.sleep) if follow else record.read():
        lines(event)
        if lines.is_reader_gone:  # After `| head` exits, the run may still take hours.
            return


def _show_story(record: RunRecord, layout: Layout, *, follow: bool = False) -> None:
    from runbook.report.story import StoryReport  # noqa: PLC0415

    story, summary = StoryReport(layout), record.summary_event()
    story.begin(summary)
    report = _follow_live(story, layout) if follow else story
    for event in record.follow(time.sleep) if follow else record.read():
        report(event)
        if layout.is_reader_gone:
            return
    story.end(record.reload().summary_event() if follow or record.is_running else summary)


def _follow_live(story: StoryReport, layout: Layout) -> Callable[[Event], None]:
    from runbook.model import SystemClock  # noqa: PLC0415
    from runbook.report.live import LiveReport  # noqa: PLC0415

    return LiveReport(story, layout, SystemClock())


def _write_page(record: RunRecord, file: Path) -> None:
    """Write the HTML page of a run. Raises NotBegun and RunbookError."""
    from runbook.report.html import make_run_page  # noqa: PLC0415
    from runbook.report.layout import Collector, Layout  # noqa: PLC0415

    check_file(file)
    screen = Collector(PAGE_WIDTH)
    _show_story(record, Layout(screen))
    story = "\n".join("".join(text for text, _ in line).rstrip() for line in screen.lines)
    summary = record.summary_event()
    _replace(file, make_run_page(summary, list(record.read()), story, _read_outputs(summary)))
    print_result(f"wrote run {record.id} to {file}; only you can read the file")


def _read_outputs(summary: Event) -> Iterator[tuple[str, str]]:
    """Yield the name and the last part of each output of a command, without those that cannot be read.

    The secrets in an output are masked when its command has ended, so there is none before the end of the run.
    """
    from runbook.records.store import open_file  # noqa: PLC0415

    for one in summary.data["printed"] if summary.data.get("exit") is not None else ():
        with contextlib.suppress(OSError), open_file(Path(one["file"])) as stream:
            stream.seek(max(0, one["bytes"] - MAX_PAGE_OUTPUT))
            text = stream.read(MAX_PAGE_OUTPUT).decode(errors="backslashreplace")
            cut = f", the last {MAX_PAGE_OUTPUT} of" if one["bytes"] > MAX_PAGE_OUTPUT else ","
            yield f"output/{Path(one['file']).name}{cut} {one['bytes']} bytes", text


def _write_index(runs: list[RunRecord], file: Path) -> None:
    """Write the HTML page of several runs. Raises NotBegun and RunbookError."""
    from runbook.report.html import make_history_page  # noqa: PLC0415

    check_file(file)
    listed = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    _replace(file, make_history_page(((run.summary_event(), run.read()) for run in runs), f"runbook: {listed}"))
    print_result(f"wrote {listed} to {file}; only you can read the file")


def _replace(file: Path, page: bytes) -> None:
    try:
        write_judged(file, page)
    except OSError as error:
        raise errors.RunbookError(f"cannot write {file}: {describe_error(error)}") from error


def _write_kind(record: RunRecord, kind: str, file: Path) -> None:
    """Write one of the kinds of files that a run can write itself. Raises NotBegun and RunbookError."""
    check_file(file)
    try:
        write_file(file, make_report(kind, record.read()))
    except OSError as error:
        raise errors.RunbookError(f"cannot write {file}: {describe_error(error)}") from error
    print_result(f"wrote run {record.id} to {file}")
