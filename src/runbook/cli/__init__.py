"""The command line: the only room that reads argv, prints, and chooses the exit status.

options.py     options, and how a person is spoken to
arguments.py   from the words of a command line to a runbook
output.py      text or JSON lines
runs.py        apply, check, resume
reference.py   validate, schema, steps
past_runs.py   history, show

What only some commands need is imported where they need it: `--help` loads neither D-Bus nor pydantic.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import Annotated

import typer

from runbook import errors
from runbook.cli import past_runs, reference, runs
from runbook.cli.options import print_error, print_message, print_result, program_version
from runbook.util import stdio

app = typer.Typer(
    name="runbook",
    help="Upgrade a systemd service, and believe it only when systemd and the kernel agree.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print_result(f"runbook {program_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Upgrade a systemd service, and believe it only when systemd and the kernel agree."""


for command in (
    runs.apply,
    runs.check,
    reference.validate,
    runs.resume,
    past_runs.history,
    past_runs.show,
    reference.schema,
    reference.steps,
):
    app.command()(command)


def main() -> None:
    """Be the command `runbook`."""
    # What is loaded stays: there is no garbage among it to be looked for.
    gc.disable()
    # Until a run takes it, Ctrl-C ends the program as SIGTERM does: at once, and with nothing touched.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stdio.open_missing_streams()
    status = _status()
    stdio.flush_streams()
    gc.freeze()  # Nor at the end, when Python looks for some all the same: that takes 20 ms.
    sys.exit(status)


def _status() -> int | str | None:
    try:
        app()
    except SystemExit as end:
        return end.code
    except errors.RunbookError as error:
        print_error(error)
        return error.exit_status
    except BrokenPipeError:
        return errors.EXIT_FAILED
    except OSError as error:
        print_message(f"runbook: cannot print: {(error.strerror or str(error)).lower()}")
        return errors.EXIT_FAILED
    return errors.EXIT_OK


if __name__ == "__main__":
    main()
