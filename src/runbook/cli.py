"""The command line: the only module that reads argv, prints, and chooses the exit status.

What only some commands need is imported where they need it: `--help` loads neither D-Bus nor pydantic.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runbook import errors, streams

if TYPE_CHECKING:
    from runbook.engine.runner import RunEnd
    from runbook.host.local import LocalHost
    from runbook.model import Event
    from runbook.step import Runbook

app = typer.Typer(
    name="runbook",
    help="Upgrade a systemd service, and believe it only when systemd and the kernel agree.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """How a command reports."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="The runbook; - for standard input.")]
FilesArgument = Annotated[list[str], typer.Argument(metavar="FILE...", help="The runbooks.")]
OutputOption = Annotated[
    Output, typer.Option("--output", help="auto: for people; plain: the same without colours; json: one object a line.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the runbook's `vars`."),
]
UserOption = Annotated[bool, typer.Option("--user", help="Talk to your own user manager, not to the system's.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        _print(f"runbook {version('systemd-runbook')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Upgrade a systemd service, and believe it only when systemd and the kernel agree."""


@app.command()
def apply(
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")] = False,
    set_: SetOption = None,
    user: UserOption = False,
    fail_on_remediation: Annotated[
        bool,
        typer.Option("--fail-on-remediation", help="End with status 6 where something had to be mended."),
    ] = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Carry a runbook out."""
    if dry_run:
        _look(file, set_, user, output, lambda planner: planner.plan(), "plan-finished")
        return
    _reported(output, "run-finished", lambda report: _apply(file, set_, user, fail_on_remediation, report))


@app.command()
def check(
    file: FileArgument, set_: SetOption = None, user: UserOption = False, output: OutputOption = Output.AUTO
) -> None:
    """Look once, now, at every step that only reads; change nothing."""
    _look(file, set_, user, output, lambda planner: planner.check(), "run-finished")


@app.command()
def validate(files: FilesArgument, set_: SetOption = None) -> None:
    """Check files, and report every mistake. Needs no systemd."""
    problems = 0
    for file in files:
        try:
            _load(file, set_)
        except errors.DocumentError as error:
            problems += len(error.problems)
            _say(error.message)
        except errors.RunbookError as error:
            problems += 1
            _complain(error)
    if problems:
        _say(f"{problems} error{'' if problems == 1 else 's'}")
        raise typer.Exit(errors.EXIT_INVALID)
    _print(f"{len(files)} file{'' if len(files) == 1 else 's'}, no mistakes")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a runbook, for editors."""
    import json  # noqa: PLC0415

    from runbook import catalogue  # noqa: PLC0415

    _print(json.dumps(catalogue.schema(), indent=2))


@app.command()
def steps(
    kind: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="A step type, for its fields.")] = None,
) -> None:
    """List the step types; with TYPE, its fields."""
    from runbook import catalogue  # noqa: PLC0415
    from runbook.phrases import near  # noqa: PLC0415
    from runbook.report import tables  # noqa: PLC0415

    entries = {entry.kind: entry for entry in catalogue.kinds()}
    if kind is None:
        _print(tables.kinds(entries.values()))
    elif kind in entries:
        _print(tables.fields(entries[kind]))
    else:
        meant = near(kind, entries)
        raise errors.UsageError(f"unknown step type `{kind}`{meant}", hint="runbook steps lists them")


def _apply(
    file: str, set_: list[str] | None, user: bool, fail_on_remediation: bool, report: Callable[[Event], None]
) -> int:
    from runbook.engine import record  # noqa: PLC0415
    from runbook.engine.events import Events  # noqa: PLC0415
    from runbook.engine.runner import Runner  # noqa: PLC0415
    from runbook.model import SystemClock  # noqa: PLC0415
    from runbook.step import RunState  # noqa: PLC0415

    book = _load(file, set_, to_run=True)
    with _machine(_scope(book, user)) as host:
        kept = record.create(SystemClock().now())
        events = Events(kept.id, SystemClock(), (report,), _secrets(book))
        state = RunState(kept.id, book.folder, book.env, kept.outputs)
        return Runner(book, host, host, events, state, fail_on_remediation).run().exit


def _look(
    file: str, set_: list[str] | None, user: bool, output: Output, what: Callable[[Any], RunEnd], last: str
) -> None:
    """Do what only looks: the host that is handed over has no writing methods."""

    def look(report: Callable[[Event], None]) -> int:
        from runbook.engine import record  # noqa: PLC0415
        from runbook.engine.events import Events  # noqa: PLC0415
        from runbook.engine.planner import Planner  # noqa: PLC0415
        from runbook.host.ports import ReadOnlyHost  # noqa: PLC0415
        from runbook.model import SystemClock  # noqa: PLC0415
        from runbook.step import RunState  # noqa: PLC0415

        book = _load(file, set_)
        with _machine(_scope(book, user)) as host:
            clock = SystemClock()
            # An id for the events; there is no record of a look.
            name = record.new_id(clock.now())
            events = Events(name, clock, (report,), _secrets(book))
            planner = Planner(book, ReadOnlyHost(host), host, events, RunState(name, book.folder, book.env))
            return what(planner).exit

    _reported(output, last, look)


def _machine(scope: Literal["system", "user"]) -> LocalHost:
    """Open this machine. PyGObject comes from the distribution, so it may be missing where all else is there."""
    try:
        from runbook.host.local import LocalHost  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in ("gi", "pydbus"):
            raise
        raise errors.NotBegun(
            f"cannot reach systemd: the Python module {error.name} is missing",
            hint="apt install python3-gi, and make the virtual environment with --system-site-packages",
        ) from error
    return LocalHost(scope)


def _reported(output: Output, last: str, act: Callable[[Callable[[Event], None]], int]) -> None:
    """Run with a report; what keeps it from beginning is said in the report's own form too."""
    with contextlib.ExitStack() as shown:
        code = _told(output, last, act, _report(output, shown))
    raise typer.Exit(code)


def _told(
    output: Output, last: str, act: Callable[[Callable[[Event], None]], int], report: Callable[[Event], None]
) -> int:
    from runbook.model import Event, SystemClock  # noqa: PLC0415

    try:
        return act(report)
    except errors.RunbookError as error:
        code = error.exit_status
        if isinstance(error, errors.DocumentError):
            _say(error.message)
        elif output is not Output.JSON:
            _complain(error)
        if output is Output.JSON:
            status = {errors.EXIT_INVALID: "invalid", errors.EXIT_NOT_BEGUN: "not-begun"}.get(code, "failed")
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
        from runbook.report.json_lines import JsonLines  # noqa: PLC0415

        return JsonLines(sys.stdout)
    from runbook.report.layout import Page, Plain, Terminal  # noqa: PLC0415
    from runbook.report.text import Text  # noqa: PLC0415

    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    screen = Terminal(sys.stdout) if terminal and output is Output.AUTO else Plain(sys.stdout)
    return Text(shown.enter_context(Page(screen)))


def _load(file: str, set_: list[str] | None, *, to_run: bool = False) -> Runbook:
    """Read a runbook. One that others may write is refused to root where it is `to_run`, else only warned of."""
    from runbook import document  # noqa: PLC0415
    from runbook.document.trust import distrust  # noqa: PLC0415

    source = document.read_source(file)
    if source.status is not None:
        sudo = os.environ.get("SUDO_UID", "")
        uid = int(sudo) if sudo.isascii() and sudo.isdigit() else None
        why = distrust(file, source.status, euid=os.geteuid(), sudo_uid=uid)
        hint = "whoever may write it would run commands as root; chown root and chmod go-w mend that"
        if why and to_run:
            raise errors.NotBegun(f"cannot run {file} as root: {why}", hint=hint)
        if why:
            _say(f"warning: root would refuse to run it: {why}")
    return document.parse(source.data, file, sets=_sets(set_))


def _sets(pairs: list[str] | None) -> dict[str, str]:
    sets = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise errors.UsageError(f"cannot read --set {pair}: write NAME=VALUE")
        sets[name] = value
    return sets


def _scope(book: Runbook, user: bool) -> Literal["system", "user"]:
    if user and "scope" in book.model_fields_set and book.scope == "system":
        raise errors.UsageError(
            f"--user contradicts {book.path}, which says `scope: system`", hint="leave one of the two out"
        )
    return "user" if user else book.scope


def _secrets(book: Runbook) -> tuple[str, ...]:
    # The longest first: one may be a part of another.
    return tuple(sorted(filter(None, (os.environ.get(name, "") for name in book.secrets)), key=len, reverse=True))


def _complain(error: errors.RunbookError) -> None:
    _say(f"runbook: {error.message}")
    if error.hint:
        _say(f"  {error.hint}")


def _print(text: str) -> None:
    typer.echo(text)


def _say(text: str) -> None:
    # Where nobody takes it, there is nobody left to tell.
    with contextlib.suppress(OSError):
        typer.echo(streams.visible(text), err=True)


def main() -> None:
    """Be the command `runbook`."""
    streams.provide()
    status = _status()
    streams.settle()
    sys.exit(status)


def _status() -> int | str | None:
    try:
        app()
    except SystemExit as end:
        return end.code
    except errors.RunbookError as error:
        _complain(error)
        return error.exit_status
    except BrokenPipeError:
        return errors.EXIT_FAILED
    except OSError as error:
        _say(f"runbook: cannot print: {(error.strerror or str(error)).lower()}")
        return errors.EXIT_FAILED
    return errors.EXIT_OK


if __name__ == "__main__":
    main()
