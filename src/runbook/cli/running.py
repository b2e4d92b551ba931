"""The commands that carry a runbook out, or look at what it would find."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runbook import errors
from runbook.cli.base import (
    FileArgument,
    LockWaitOption,
    Output,
    OutputOption,
    RunArgument,
    SetOption,
    UserOption,
    program_version,
    show,
)
from runbook.cli.reading import load, notices, recorded, scope_of, sets, span_of
from runbook.cli.reporting import reported

if TYPE_CHECKING:
    from runbook.engine.resume import Resumption
    from runbook.engine.runner import RunEnd
    from runbook.host.local import LocalHost
    from runbook.model import Event


def apply(
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")] = False,
    set_: SetOption = None,
    user: UserOption = False,
    fail_on_remediation: Annotated[
        bool,
        typer.Option("--fail-on-remediation", help="End with status 6 where something had to be mended."),
    ] = False,
    lock_wait: LockWaitOption = None,
    output: OutputOption = Output.AUTO,
) -> None:
    """Carry a runbook out."""
    patience = span_of("--lock-wait", lock_wait)
    if dry_run:
        _look(file, set_, user, output, lambda planner: planner.plan(), "plan-finished")
        return
    reported(output, "run-finished", lambda report: _apply(file, set_, user, fail_on_remediation, patience, report))


def check(
    file: FileArgument, set_: SetOption = None, user: UserOption = False, output: OutputOption = Output.AUTO
) -> None:
    """Look once, now, at every step that only reads; change nothing."""
    _look(file, set_, user, output, lambda planner: planner.check(), "run-finished")


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
    patience = span_of("--lock-wait", lock_wait)

    def act(report: Callable[[Event], None]) -> int:
        from runbook.engine import resume as resuming  # noqa: PLC0415

        if abandon:
            return _abandon(run)
        said = resuming.Resumption(tuple(rerun or ()), tuple(skip or ()))
        return _resume(run, said, as_recorded, patience, report)

    reported(output, "run-finished", act)


def _apply(
    file: str,
    set_: list[str] | None,
    user: bool,
    fail_on_remediation: bool,
    patience: float,
    report: Callable[[Event], None],
) -> int:
    from runbook.engine import launch  # noqa: PLC0415
    from runbook.engine.preflight import needs_another_process  # noqa: PLC0415
    from runbook.host.journal.writer import send  # noqa: PLC0415
    from runbook.report.journal import Journal  # noqa: PLC0415

    book = load(file, set_, to_run=True, user=user)
    scope = scope_of(book, user)
    order = launch.Order(
        scope, sets(set_), os.environ, fail_on_remediation, notices(scope), program_version(), patience
    )
    with _machine(scope) as host:
        if not needs_another_process(host, book):
            return launch.begin(book, order, host, host, (report, Journal(scope, send))).exit
    # Standard input is used up: what was read from it is handed on.
    return _by_another_process(book.text if file == "-" else None)


def _resume(
    run: str | None, said: Resumption, as_recorded: bool, patience: float, report: Callable[[Event], None]
) -> int:
    from runbook.engine import launch  # noqa: PLC0415
    from runbook.engine import resume as resuming  # noqa: PLC0415
    from runbook.engine.preflight import needs_another_process  # noqa: PLC0415
    from runbook.host.journal.writer import send  # noqa: PLC0415
    from runbook.records import history  # noqa: PLC0415
    from runbook.report.journal import Journal  # noqa: PLC0415

    found = history.resumable(run)
    book = recorded(found, resuming.surroundings(found, os.environ), as_recorded=as_recorded)
    scope: Literal["system", "user"] = "user" if found.header.scope == "user" else "system"
    order = launch.Order(
        scope, {}, os.environ, found.header.fail_on_remediation, notices(scope), program_version(), patience
    )
    with _machine(scope) as host:
        if not needs_another_process(host, book):
            return resuming.go_on(found, book, order, said, host, host, (report, Journal(scope, send))).exit
    return _by_another_process()


def _by_another_process(read: str | None = None) -> int:
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

    found = history.resumable(run)
    resuming.abandon(found)
    show(f"{found.id} is given up; nothing was changed")
    return errors.EXIT_OK


def _look(
    file: str, set_: list[str] | None, user: bool, output: Output, what: Callable[[Any], RunEnd], last: str
) -> None:
    """Do what only looks: the host that is handed over has no writing methods."""

    def look(report: Callable[[Event], None]) -> int:
        from runbook.engine.execution.events import Events  # noqa: PLC0415
        from runbook.engine.launch import secrets_of  # noqa: PLC0415
        from runbook.engine.planner import Planner  # noqa: PLC0415
        from runbook.host.interface import ReadOnlyHost  # noqa: PLC0415
        from runbook.model import SystemClock  # noqa: PLC0415
        from runbook.records import store  # noqa: PLC0415
        from runbook.records.lock import holders  # noqa: PLC0415
        from runbook.spec.state import RunState  # noqa: PLC0415

        book = load(file, set_)
        scope = scope_of(book, user)
        with _machine(scope) as host:
            clock = SystemClock()
            # An id for the events; there is no record of a look.
            name = store.new_id(clock.now())
            events = Events(name, clock, (report,), secrets_of(book, os.environ))
            state = RunState(name, book.folder, book.env)
            planner = Planner(
                book,
                ReadOnlyHost(host),
                host,
                events,
                state,
                notices(scope),
                locked=lambda units: holders(units, scope),
            )
            return what(planner).exit

    reported(output, last, look)


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
    gc.freeze()
    gc.enable()
    return LocalHost(scope)
