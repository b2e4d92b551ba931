"""What the commands print: results, messages, errors, and the report of a run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO, cast

import typer

from runbook import errors
from runbook.cli.options import Output
from runbook.cli.result_files import NO_FILES, ResultFiles
from runbook.util import stdio

if TYPE_CHECKING:
    from runbook.events import Event
    from runbook.report.json_lines import JsonLines
    from runbook.report.layout import Layout


STATUS_BEFORE_RUN = {errors.EXIT_INVALID: "invalid", errors.EXIT_NOT_BEGUN: "not-begun", errors.EXIT_LOCKED: "locked"}
"""The status of a run that could not begin, by its exit status."""

LOOKS = "reads the state of the machine"  # what a dry run or a check does between two events

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses
INTERRUPTED_DRAIN = 0.3  # seconds for the last output of a run that was interrupted, which must end within a second


def run_with_report(
    output: Output,
    act: Callable[[Callable[[Event], None]], int],
    *,
    plan: bool = False,
    only_looks: bool = False,
    files: ResultFiles = NO_FILES,
) -> None:
    """Run `act` with a report, and exit with the status that it returns. With `only_looks`, it is no run, but a look.

    In JSON, an error that ends `act` becomes the last event, so that the last line always has a status.
    """
    code = errors.EXIT_FAILED
    with contextlib.ExitStack() as screen_end:
        between = LOOKS if only_looks or plan else ""
        report = _make_report(
            output, screen_end, lambda: INTERRUPTED_DRAIN if code in INTERRUPTED else None, between, files
        )
        try:
            files.check()
            code = act(files.collect(report))
        except errors.RunbookError as error:
            code = error.exit_status
            end = _make_last_event(error, plan=plan)
            files.add(end, problems=error.problems if isinstance(error, errors.DocumentError) else ())
            if output is Output.JSON:
                report(end)
            screen_end.close()  # Standard error may be the same terminal.
            # In every output mode, standard error gets the errors in a file.
            if output is not Output.JSON or isinstance(error, errors.DocumentError):
                print_error(error)
        except Exception as error:
            # A bug of this program. Readers of the report still get a last event.
            trace = _mask_secrets(traceback.format_exc())
            failure = errors.RunbookError(_mask_secrets(f"internal error: {type(error).__name__}: {error}"))
            end = _make_last_event(failure, plan=plan)
            files.add(end)
            report(end)
            screen_end.close()
            print_message(trace)
    for problem in files.write():
        print_message(wrap(f"runbook: {problem}"))
    raise typer.Exit(code)


_secrets: list[str] = []  # the values that no message may contain


def hide_secrets(values: Iterable[str]) -> None:
    """Mask these values in the report of an error of this program, which may quote any of its data."""
    _secrets.extend(filter(None, values))


def _mask_secrets(text: str) -> str:
    from runbook.util.secrets import SecretMask  # noqa: PLC0415

    return str(SecretMask(tuple(_secrets)).mask(text))


def _make_report(
    output: Output,
    screen_end: contextlib.ExitStack,
    find_limit: Callable[[], float | None],
    between: str,
    files: ResultFiles,
) -> Callable[[Event], None]:
    """Return a report. Neither a terminal that is stopped nor a reader that does not read holds up what it reports.

    `screen_end` waits until all is written, for as many seconds as `find_limit` returns, or else as long as it takes.
    """
    if output is Output.JSON:
        from runbook.report.json_lines import JsonLines  # noqa: PLC0415

        return JsonLines(_open_stream(screen_end, find_limit))
    from runbook.report.text import TextReport  # noqa: PLC0415

    if files.annotates or not _has_live_view(output):
        from runbook.report.layout import Layout, PlainScreen  # noqa: PLC0415

        stream = _open_stream(screen_end, find_limit)
        text = TextReport(Layout(PlainScreen(stream)))
        return files.annotate(text, stream, screen_end) if files.annotates else text
    from runbook.model import SystemClock  # noqa: PLC0415
    from runbook.report.live import LiveReport  # noqa: PLC0415

    layout = _make_live_layout(screen_end, find_limit)
    return LiveReport(TextReport(layout), layout, SystemClock(), _read_output, between=between)


def _open_stream(screen_end: contextlib.ExitStack, find_limit: Callable[[], float | None]) -> TextIO:
    """Return standard output, written to in a thread; or standard output itself, if a caller collects it."""
    from runbook.util.background_writer import BackgroundStream  # noqa: PLC0415

    try:
        stream = BackgroundStream(sys.stdout)
    except OSError:
        return sys.stdout
    screen_end.callback(lambda: stream.finish(find_limit()))
    return cast(TextIO, stream)


def _has_live_view(output: Output) -> bool:
    return output is Output.AUTO and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _make_live_layout(screen_end: contextlib.ExitStack, find_limit: Callable[[], float | None]) -> Layout:
    from runbook.report.layout import Layout  # noqa: PLC0415
    from runbook.report.terminal import LiveScreen  # noqa: PLC0415

    screen = LiveScreen(sys.stdout)
    screen_end.callback(lambda: screen.finish(find_limit()))
    return Layout(screen)


def _read_output(path: str, most: int) -> list[str]:
    """Return the last lines of a command's output, with the secrets in them masked."""
    from runbook.records.outputs import read_last_lines  # noqa: PLC0415

    return read_last_lines(path, most, _mask_secrets if _secrets else None)


def _make_last_event(error: errors.RunbookError, *, plan: bool) -> Event:
    from runbook.events import Event, PlanFinished, RunFinished  # noqa: PLC0415
    from runbook.model import SystemClock  # noqa: PLC0415

    code = error.exit_status
    is_interrupted = isinstance(error, errors.Interrupted)
    status = "interrupted" if is_interrupted else STATUS_BEFORE_RUN.get(code, "failed")
    kind = PlanFinished if plan else RunFinished
    end = kind(status=status, exit=code, reason=error.message, hint=error.hint)
    return Event.of(SystemClock().now(), "", end)


def make_json_lines() -> JsonLines:
    """Return a report that prints one JSON object per line."""
    from runbook.report.json_lines import JsonLines  # noqa: PLC0415

    return JsonLines(sys.stdout)


def make_layout(output: Output, screen_end: contextlib.ExitStack, *, live: bool = False) -> Layout:
    """Return the layout for text on standard output; with `live`, for a live view, which ends with `screen_end`."""
    from runbook.report.layout import Layout, PlainScreen  # noqa: PLC0415

    if not _has_live_view(output):
        return Layout(PlainScreen(sys.stdout))
    if live:
        return _make_live_layout(screen_end, lambda: None)
    from runbook.report.terminal import TerminalScreen  # noqa: PLC0415

    return Layout(TerminalScreen(sys.stdout))


def print_error(error: errors.RunbookError) -> None:
    """Print an error and its hint on standard error; of a wrong file, one line for each problem."""
    if isinstance(error, errors.DocumentError):
        # Not wrapped: editors and grep read FILE:LINE:COLUMN from the start of a line.
        print_message(error.message)
        return
    print_message(wrap(f"runbook: {error.message}"))
    if error.hint:
        print_message(wrap(f"  {error.hint}"))


def print_problems(file: str, error: errors.RunbookError) -> None:
    """Print the errors in a file as JSON on standard output, one object a line.

    A file that cannot be read is one error, which has no line.
    """
    import json  # noqa: PLC0415

    whole_file: list[dict[str, object]] = [
        {"file": file, "line": None, "column": None, "message": error.message, "hint": error.hint}
    ]
    problems = (
        [asdict(problem) for problem in error.problems] if isinstance(error, errors.DocumentError) else whole_file
    )
    for problem in problems:
        print_result(json.dumps(problem))


def report_usage_error(argv: Sequence[str], message: str) -> None:
    """Print the last event of a command that was to report a run in JSON and whose arguments are wrong."""
    is_json = "--output=json" in argv or ("--output", "json") in pairwise(argv)
    # The other commands do not report a run.
    if is_json and not {"doctor", "init", "validate", "history", "show", "guard", "schema", "steps"} & set(argv[:1]):
        error = errors.UsageError(message[:1].lower() + message[1:].rstrip("."))
        make_json_lines()(_make_last_event(error, plan="--dry-run" in argv))


def wrap(text: str) -> str:
    """Break a sentence into lines of 80 characters. A path is never broken, so that it can be copied."""
    import textwrap  # noqa: PLC0415

    lines = textwrap.wrap(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def print_result(text: str) -> None:
    """Print a result on standard output."""
    typer.echo(stdio.escape_controls(text))


def print_message(text: str) -> None:
    """Print a message on standard error."""
    # If standard error cannot be written, there is no other place for a message.
    with contextlib.suppress(OSError):
        typer.echo(stdio.escape_controls(text), err=True)
