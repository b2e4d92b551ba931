"""The command line: the only folder that reads argv, prints, and chooses the exit status.

doctor.py      doctor
runs.py        apply, check, remediate, resume
validate.py    validate
restart.py     restart
init_unit.py   init
guard.py       guard
past_runs.py   history, show
reference.py   schema, steps
tables.py      the tables of `runbook steps`
arguments.py   from the arguments to a runbook
options.py     arguments and options that several commands share
group.py       the group of all commands
preload.py     the modules that a run may need later
output.py      text or JSON lines, messages and errors

Modules that only some commands need are imported inside functions: `--help` loads neither D-Bus nor pydantic.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated, ClassVar

import typer
from typer._click.exceptions import UsageError  # typer has no public name for it.

from runbook import errors
from runbook.cli import doctor, guard, init_unit, past_runs, reference, restart, runs, validate
from runbook.cli.group import Functions, LazyGroup, Notes
from runbook.cli.options import program_version
from runbook.cli.output import print_error, print_message, print_result, report_usage_error
from runbook.util import stdio


class Commands(LazyGroup):
    """The commands of `runbook`."""

    functions: ClassVar[Functions] = {
        "doctor": doctor.doctor,
        "apply": runs.apply,
        "check": runs.check,
        "remediate": runs.remediate,
        "restart": restart.restart,
        "init": init_unit.init,
        "validate": validate.validate,
        "resume": runs.resume,
        "history": past_runs.history,
        "show": past_runs.show,
        "guard": guard.guard,
        "schema": reference.schema,
        "steps": reference.steps,
    }
    notes: ClassVar[Notes] = {
        "Exit status": {
            str(errors.EXIT_OK): "The host is as it should be; doctor: healthy.",
            str(errors.EXIT_FAILED): "A step failed; check, doctor: something is wrong, or unread.",
            str(errors.EXIT_INVALID): "The command line or the file is invalid.",
            str(errors.EXIT_STILL_STARTING): "Not ready in time, but still starting.",
            str(errors.EXIT_ROLLED_BACK): "Failed; the previous version serves again.",
            str(errors.EXIT_NOT_BEGUN): "Could not begin.",
            str(errors.EXIT_REMEDIATED): "Fixed, with --fail-on-remediation.",
            str(errors.EXIT_LOCKED): "Another run has the lock of a unit.",
            "130, 143": "Interrupted by SIGINT (130) or SIGTERM (143).",
        },
        "Marks in the output": {
            "ok": "The step passed.",
            "--": "The step failed.",
            "fix": "A step of a fix.",
            "..": "The step is still running.",
            "|": "A line that a command or a unit wrote.",
        },
    }


app = typer.Typer(
    name="runbook",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_result(f"runbook {program_version()}")
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Upgrade a systemd service, and report success only if systemd and the kernel agree."""


def main() -> None:
    """Run the command `runbook`."""
    # The modules loaded at the start hold no garbage: a collection would only take time.
    gc.disable()
    # This program runs as root: no package may add its code as a plugin. To search for plugins takes 5 ms, too.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    # Until a run installs its own handler, Ctrl-C ends the program at once, as SIGTERM does: nothing was changed yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stdio.open_missing_streams()
    status = _run_app()
    stdio.flush_streams()
    gc.freeze()  # Python collects once more at exit, although it is disabled: 20 ms.
    sys.exit(status)


def _run_app() -> int | str | None:
    """Run the command and return its exit status."""
    try:
        return app(standalone_mode=False) or errors.EXIT_OK
    except UsageError as error:
        error.show()
        report_usage_error(sys.argv[1:], error.format_message())
        return error.exit_code
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
