"""Shows the events that come through a pipe as `runbook apply` shows those of a run, and confirms each one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import typer

from runbook.cli.options import Output
from runbook.cli.output import run_with_report
from runbook.errors import Interrupted
from runbook.events import Event, RunFinished


def interrupt(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum)


def main(output: str, events: str, confirmed: str, looks: str = "") -> None:
    def act(report: Callable[[Event], None]) -> int:
        signal.signal(signal.SIGHUP, lambda *_: None)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, interrupt)
        try:
            return follow(report)
        except Interrupted as error:
            end = RunFinished(status="interrupted", exit=error.exit_status, reason=error.message)
            report(Event.of(time.time(), "run-1", end))
            return error.exit_status
        finally:
            for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_DFL)

    def follow(report: Callable[[Event], None]) -> int:
        with Path(events).open() as lines, Path(confirmed).open("w") as answers:
            for line in lines:
                if line.startswith("exit "):
                    return int(line.split()[1])
                report(Event.from_line(line))
                print("shown", file=answers, flush=True)
        return 1

    try:
        run_with_report(Output(output), act, only_looks=bool(looks))
    except typer.Exit as end:
        # The test may have removed the pipe, and is its only reader.
        with contextlib.suppress(FileNotFoundError):
            os.write(os.open(confirmed, os.O_RDWR), b"ended\n")
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
