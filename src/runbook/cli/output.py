"""What the commands print: results, messages, errors, and the report of a run."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING

import typer

from runbook import errors
from runbook.cli.options import Output
from runbook.util import stdio

if TYPE_CHECKING:
    from runbook.events import Event
    from runbook.report.json_lines import JsonLines
    from runbook.report.layout import Layout


STATUS_BEFORE_RUN = {errors.EXIT_INVALID: "invalid", errors.EXIT_NOT_BEGUN: "not-begun", errors.EXIT_LOCKED: "locked"}
"""The status of a run that could not begin, by its exit status."""


def run_with_report(output: Output, act: Callable[[Callable[[Event], None]], int], *, plan: bool = False) -> None:
    """Run `act` with a report, and exit with the status that it returns.

    In JSON, an error that ends `act` becomes the last event, so that the last line always has a status.
    """
    with contextlib.ExitStack() as screen_end:
        report = _make_report(output, screen_end)
        try:
            code = act(report)
        except errors.RunbookError as error:
            code = error.exit_status
            if output is Output.JSON:
                report(_make_last_event(error, plan=plan))
            # In every output mode, standard error gets the errors in a file.
            if output is not Output.JSON or isinstance(error, errors.DocumentError):
                print_error(error)
        except Exception as error:
            # A bug of this program. Readers of the report still get a last event.
            print_message(_mask_secrets(traceback.format_exc()))
            failure = errors.RunbookError(_mask_secrets(f"internal error: {type(error).__name__}: {error}"))
            report(_make_last_event(failure, plan=plan))
            code = errors.EXIT_FAILED
    raise typer.Exit(code)


_secrets: list[str] = []  # the values that no message may contain


def hide_secrets(values: Iterable[str]) -> None:
    """Mask these values in the report of an error of this program, which may quote any of its data."""
    _secrets.extend(filter(None, values))


def _mask_secrets(text: str) -> str:
    from runbook.util.secrets import SecretMask  # noqa: PLC0415

    return str(SecretMask(tuple(_secrets)).mask(text))


def _make_report(output: Output, screen_end: contextlib.ExitStack) -> Callable[[Event], None]:
    if output is Output.JSON:
        return make_json_lines()
    from runbook.report.text import TextReport  # noqa: PLC0415

    return TextReport(make_layout(output, screen_end))


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


def make_layout(output: Output, screen_end: contextlib.ExitStack) -> Layout:
    """Return the layout for text on standard output. Its live line ends with `screen_end`."""
    from runbook.report.layout import Layout, PlainScreen, TerminalScreen  # noqa: PLC0415

    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    screen = TerminalScreen(sys.stdout) if terminal and output is Output.AUTO else PlainScreen(sys.stdout)
    layout = Layout(screen)
    screen_end.callback(layout.idle)
    return layout


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
    if is_json and not {"validate", "doctor", "history", "show", "schema", "steps"} & set(argv[:1]):
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
