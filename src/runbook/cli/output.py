"""Tells what a command does: in text or JSON lines; and what kept it from beginning, in the same form."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from runbook import errors
from runbook.cli.options import Output, print_error, print_message

if TYPE_CHECKING:
    from runbook.model import Event
    from runbook.report.json_lines import JsonLines
    from runbook.report.layout import Layout


STATUS_BEFORE_RUN = {errors.EXIT_INVALID: "invalid", errors.EXIT_NOT_BEGUN: "not-begun", errors.EXIT_LOCKED: "locked"}
"""How a run ends that has not begun, by its exit status."""


def run_reported(output: Output, last: str, act: Callable[[Callable[[Event], None]], int]) -> None:
    """Run with a report; what keeps it from beginning is said in the report's own form too."""
    with contextlib.ExitStack() as shown:
        code = _run(output, last, act, _report(output, shown))
    raise typer.Exit(code)


def _run(
    output: Output, last: str, act: Callable[[Callable[[Event], None]], int], report: Callable[[Event], None]
) -> int:
    from runbook.model import Event, SystemClock  # noqa: PLC0415

    try:
        return act(report)
    except errors.RunbookError as error:
        code = error.exit_status
        if isinstance(error, errors.DocumentError):
            print_message(error.message)
        elif output is not Output.JSON:
            print_error(error)
        if output is Output.JSON:
            status = STATUS_BEFORE_RUN.get(code, "failed")
            if isinstance(error, errors.Interrupted):
                status = "interrupted"
            data = {"status": status, "exit": code, "reason": error.message}
            report(Event(SystemClock().now(), "", last, {**data, **({"hint": error.hint} if error.hint else {})}))
        return code
    except Exception as error:
        # A mistake of this program's own. Whoever reads the lines is told how it ended all the same.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        reason = f"runbook itself went wrong: {type(error).__name__}: {error}"
        report(Event(SystemClock().now(), "", last, {"status": "failed", "exit": errors.EXIT_FAILED, "reason": reason}))
        return errors.EXIT_FAILED


def _report(output: Output, shown: contextlib.ExitStack) -> Callable[[Event], None]:
    if output is Output.JSON:
        return make_json_lines()
    from runbook.report.text import TextReport  # noqa: PLC0415

    return TextReport(make_layout(output, shown))


def make_json_lines() -> JsonLines:
    """Report in JSON lines."""
    from runbook.report.json_lines import JsonLines  # noqa: PLC0415

    return JsonLines(sys.stdout)


def make_layout(output: Output, shown: contextlib.ExitStack) -> Layout:
    """Make a page for people, on a terminal or in a file, which is closed with `shown`."""
    from runbook.report.layout import Layout, PlainScreen, TerminalScreen  # noqa: PLC0415

    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    screen = TerminalScreen(sys.stdout) if terminal and output is Output.AUTO else PlainScreen(sys.stdout)
    return shown.enter_context(Layout(screen))
