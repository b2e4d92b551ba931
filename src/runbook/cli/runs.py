"""The commands that carry a runbook out, or look at what it would find."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runbook import errors
from runbook.cli.arguments import find_notices, find_scope, load_recorded, load_runbook, parse_sets, parse_span_option
from runbook.cli.options import (
    FileArgument,
    LockWaitOption,
    Output,
    OutputOption,
    RunArgument,
    SetOption,
    UserOption,
    print_result,
    program_version,
)
from runbook.cli.output import run_reported

if TYPE_CHECKING:
    from runbook.engine.resume import ResumeOptions
    from runbook.engine.runner import RunResult
    from runbook.host.local import LocalHost, LocalView
    from runbook.model import Event


def apply(
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")] = False,
    set_: SetOption = None,
    user: UserOption = False,
    fail_on_remediation: Annotated[
        bool,
        typer.Option("--fail-on-remediation", help="End with status 6 where something had to be fixed."),
    ] = False,
    lock_wait: LockWaitOption = None,
    output: OutputOption = Output.AUTO,
) -> None:
    """Carry a runbook out."""
    patience = parse_span_option("--lock-wait", lock_wait)
    if dry_run:
        _run_planner(file, set_, user, output, lambda planner: planner.plan(), "plan-finished")
        return
    run_reported(output, "run-finished", lambda report: _apply(file, set_, user, fail_on_remediation, patience, report))


def check(
    file: FileArgument, set_: SetOption = None, user: UserOption = False, output: OutputOption = Output.AUTO
) -> None:
    """Look once, now, at every step that only reads; change nothing."""
    _run_planner(file, set_, user, output, lambda planner: planner.check(), "run-finished")


def resume(
    run: RunArgument = None,
    rerun: Annotated[
        list[str] | None, typer.Option("--rerun", metavar="STEP", help="Carry this step out again.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="STEP", help="Take this step as done.")] = None,
    as_recorded: Annotated[
        bool,
        typer.Option("--as-recorded", help="Go on with the runbook as it was read then, though its file has changed."),
    ] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give the run up for good; change nothing.")] = False,
    lock_wait: LockWaitOption = None,
    output: OutputOption = Output.AUTO,
) -> None:
    """Go on with a run that was interrupted, or left alone while its unit was starting."""
    if abandon and (rerun or skip):
        raise errors.UsageError("--abandon does nothing to a step", hint="leave --rerun and --skip out")
    patience = parse_span_option("--lock-wait", lock_wait)

    def act(report: Callable[[Event], None]) -> int:
        from runbook.engine import resume as resuming  # noqa: PLC0415

        if abandon:
            return _abandon(run)
        said = resuming.ResumeOptions(tuple(rerun or ()), tuple(skip or ()))
        return _resume(run, said, as_recorded, patience, report)

    run_reported(output, "run-finished", act)


def _apply(
    file: str,
    set_: list[str] | None,
    user: bool,
    fail_on_remediation: bool,
    patience: float,
    report: Callable[[Event], None],
) -> int:
    from runbook.engine import launch  # noqa: PLC0415
    from runbook.engine.preflight import is_main_of_stopped_unit  # noqa: PLC0415
    from runbook.host.journal.writer import send  # noqa: PLC0415
    from runbook.report.journal import JournalReport  # noqa: PLC0415

    book = load_runbook(file, set_, to_run=True, user=user)
    scope = find_scope(book, user)
    order = launch.RunRequest(
        scope, parse_sets(set_), os.environ, fail_on_remediation, find_notices(scope), program_version(), patience
    )
    with _open_host(scope) as host:
        if not is_main_of_stopped_unit(host, book):
            return launch.start_run(book, order, host, host, (report, JournalReport(scope, send))).exit
    # Standard input is used up: what was read from it is handed on.
    return _run_in_child(book.text if file == "-" else None)


def _resume(
    run: str | None, said: ResumeOptions, as_recorded: bool, patience: float, report: Callable[[Event], None]
) -> int:
    from runbook.engine import launch  # noqa: PLC0415
    from runbook.engine import resume as resuming  # noqa: PLC0415
    from runbook.engine.preflight import is_main_of_stopped_unit  # noqa: PLC0415
    from runbook.host.journal.writer import send  # noqa: PLC0415
    from runbook.records import history  # noqa: PLC0415
    from runbook.report.journal import JournalReport  # noqa: PLC0415

    found = history.find_resumable(run)
    book = load_recorded(found, resuming.restore_environment(found, os.environ), as_recorded=as_recorded)
    scope: Literal["system", "user"] = "user" if found.header.scope == "user" else "system"
    order = launch.RunRequest(
        scope, {}, os.environ, found.header.fail_on_remediation, find_notices(scope), program_version(), patience
    )
    with _open_host(scope) as host:
        if not is_main_of_stopped_unit(host, book):
            return resuming.resume_run(found, book, order, said, host, host, (report, JournalReport(scope, send))).exit
    return _run_in_child()


def _run_in_child(read: str | None = None) -> int:
    """Have the same command carried out by a child, which is free to leave, and wait for it.

    systemd stops a unit's main process wherever it has gone, so the run must be in another one.
    """
    import subprocess  # noqa: PLC0415

    # No signal is passed on: systemd's own, to this process, is the one that the run must outlive.
    given = None if read is None else read.encode()
    code = subprocess.run(sys.orig_argv, input=given, check=False).returncode  # noqa: S603 - the very command this is
    return code if code >= 0 else 128 - code


def _abandon(run: str | None) -> int:
    from runbook.engine import resume as resuming  # noqa: PLC0415
    from runbook.records import history  # noqa: PLC0415

    found = history.find_resumable(run)
    resuming.abandon(found)
    print_result(f"{found.id} is given up; nothing was changed")
    return errors.EXIT_OK


def _run_planner(
    file: str, set_: list[str] | None, user: bool, output: Output, what: Callable[[Any], RunResult], last: str
) -> None:
    """Do what only looks: the host that is handed over has no writing methods."""

    def look(report: Callable[[Event], None]) -> int:
        from runbook.engine.execution.events import Events  # noqa: PLC0415
        from runbook.engine.launch import find_secret_values  # noqa: PLC0415
        from runbook.engine.planner import Planner  # noqa: PLC0415
        from runbook.model import SystemClock  # noqa: PLC0415
        from runbook.records import store  # noqa: PLC0415
        from runbook.records.lock import find_lock_holders  # noqa: PLC0415
        from runbook.spec.state import RunState  # noqa: PLC0415

        book = load_runbook(file, set_)
        scope = find_scope(book, user)
        with _open_view(scope) as view:
            clock = SystemClock()
            # An id for the events; there is no record of a look.
            name = store.new_run_id(clock.now())
            events = Events(name, clock, (report,), find_secret_values(book, os.environ))
            state = RunState(name, book.folder, book.env)
            planner = Planner(
                book,
                view,
                view,
                events,
                state,
                find_notices(scope),
                find_lock_holders=lambda units: find_lock_holders(units, scope),
            )
            return what(planner).exit

    run_reported(output, last, look)


def _open_host(scope: Literal["system", "user"]) -> LocalHost:
    host: LocalHost = _import_local().LocalHost(scope)
    return host


def _open_view(scope: Literal["system", "user"]) -> LocalView:
    view: LocalView = _import_local().LocalView(scope)
    return view


def _import_local() -> Any:
    """Import this machine. PyGObject comes from the distribution, so it may be missing where all else is there."""
    try:
        from runbook.host import local  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in ("gi", "pydbus"):
            raise
        raise errors.NotBegun(
            f"cannot reach systemd: the Python module {error.name} is missing",
            hint="apt install python3-gi, and make the virtual environment with --system-site-packages",
        ) from error
    gc.freeze()
    gc.enable()
    return local
