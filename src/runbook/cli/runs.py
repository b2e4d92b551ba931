"""The commands that take a runbook or continue a run: apply, check, remediate, resume."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runbook import errors
from runbook.cli.arguments import (
    RESTART,
    add_machine_notifications,
    describe_notifications,
    find_fix_command,
    find_notices,
    find_scope,
    load_runbook,
    load_runbook_of_run,
    parse_sets,
    parse_span_option,
    repeat_options,
)
from runbook.cli.options import (
    AnnotateOption,
    CodeQualityOption,
    DryRunOption,
    FailOnRemediationOption,
    FileArgument,
    JUnitOption,
    LockWaitOption,
    Output,
    OutputOption,
    RunArgument,
    SetOption,
    SummaryOption,
    UserOption,
    program_version,
)
from runbook.cli.output import (
    hide_secrets,
    print_result,
    run_with_report,
)
from runbook.cli.result_files import ResultFiles, choose_files

if TYPE_CHECKING:
    from runbook.engine.launch import RunRequest
    from runbook.engine.resume import ResumeOptions
    from runbook.events import Event, RunFinished
    from runbook.host.local import LocalHost, LocalView
    from runbook.host.systemd.addresses import ManagerScope
    from runbook.report.journal import JournalReport
    from runbook.spec.runbook import Runbook

    Report = Callable[[Event], None]
    Start = Callable[[LocalHost, JournalReport], RunFinished]


ONLY_REMEDIATIONS = "only the `remediate` steps are carried out: no update, no restart, no rollback"


def apply(
    file: FileArgument,
    dry_run: DryRunOption = False,
    set_: SetOption = None,
    user: UserOption = False,
    fail_on_remediation: FailOnRemediationOption = False,
    lock_wait: LockWaitOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    code_quality: CodeQualityOption = None,
    annotate: AnnotateOption = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Run a runbook."""
    files = choose_files(output, junit=junit, summary=summary, code_quality=code_quality, annotate=annotate)
    if dry_run:
        _run_planner(file, set_, user, output, files, plan=True, lock_wait=lock_wait)
        return
    run_with_report(
        output, lambda report: _apply(file, set_, user, fail_on_remediation, lock_wait, report), files=files
    )


def remediate(
    file: FileArgument,
    dry_run: DryRunOption = False,
    set_: SetOption = None,
    user: UserOption = False,
    fail_on_remediation: FailOnRemediationOption = False,
    lock_wait: LockWaitOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    code_quality: CodeQualityOption = None,
    annotate: AnnotateOption = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Run only the `remediate` steps of a runbook: their checks and, if one fails, their fixes."""
    files = choose_files(output, junit=junit, summary=summary, code_quality=code_quality, annotate=annotate)
    if dry_run:
        _run_planner(file, set_, user, output, files, plan=True, lock_wait=lock_wait, only_remediations=True)
        return
    run_with_report(
        output,
        lambda report: _apply(file, set_, user, fail_on_remediation, lock_wait, report, only_remediations=True),
        files=files,
    )


def check(
    file: FileArgument,
    set_: SetOption = None,
    user: UserOption = False,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    code_quality: CodeQualityOption = None,
    annotate: AnnotateOption = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Run every step that only reads, once; change nothing."""
    files = choose_files(output, junit=junit, summary=summary, code_quality=code_quality, annotate=annotate)
    _run_planner(file, set_, user, output, files, plan=False)


def resume(
    run: RunArgument = None,
    rerun: Annotated[list[str] | None, typer.Option("--rerun", metavar="STEP", help="Run this step again.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="STEP", help="Treat this step as done.")] = None,
    as_recorded: Annotated[
        bool,
        typer.Option(
            "--as-recorded", help="Continue with the runbook as it was when the run began, if its file has changed."
        ),
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Record that the run will not be continued; change nothing.")
    ] = False,
    lock_wait: LockWaitOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    code_quality: CodeQualityOption = None,
    annotate: AnnotateOption = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Continue a run that was interrupted, or that left its unit still starting."""

    def act(report: Report) -> int:
        from runbook.engine.resume import ResumeOptions  # noqa: PLC0415

        if abandon and (rerun or skip):
            raise errors.UsageError("cannot combine --abandon with --rerun or --skip")
        seconds = parse_span_option("--lock-wait", lock_wait)
        if abandon:
            return _abandon(run)
        options = ResumeOptions(tuple(rerun or ()), tuple(skip or ()))
        return _resume(run, options, as_recorded, seconds, report, files)

    files = choose_files(output, junit=junit, summary=summary, code_quality=code_quality, annotate=annotate)
    run_with_report(output, act, files=files)


def _apply(
    file: str,
    set_: list[str] | None,
    user: bool,
    fail_on_remediation: bool,
    lock_wait: str | None,
    report: Report,
    *,
    only_remediations: bool = False,
) -> int:
    seconds = parse_span_option("--lock-wait", lock_wait)
    book = load_runbook(file, set_, to_run=True, user=user)
    hide_secrets(os.environ.get(name, "") for name in book.secrets)
    book = _keep_remediations(book) if only_remediations else book
    book = add_machine_notifications(book)
    scope = find_scope(book, user)
    request = _make_request(scope, book, parse_sets(set_), fail_on_remediation, seconds)
    if only_remediations:
        request = replace(request, command="remediate", notices=(*request.notices, ONLY_REMEDIATIONS))
    # If a child runs it, standard input has been read already.
    return launch_run(book, request, report, book.text if file == "-" else None)


def launch_run(book: Runbook, request: RunRequest, report: Report, text: str | None = None) -> int:
    """Carry out a runbook, and return the exit status. `text` is its text, if it was read from standard input."""
    from runbook.engine import launch  # noqa: PLC0415

    return _run_outside_units(
        book,
        "user" if request.scope == "user" else "system",
        lambda host, journal: launch.start_run(book, request, host, host, (report, journal)),
        text,
    )


def _resume(
    run: str | None,
    options: ResumeOptions,
    as_recorded: bool,
    lock_wait: float,
    report: Report,
    files: ResultFiles,
) -> int:
    from runbook.engine.resume import restore_environment, resume_run  # noqa: PLC0415
    from runbook.records import history  # noqa: PLC0415

    record = history.find_resumable(run)
    if files.are_wanted:
        files.add(*record.read())
    book = load_runbook_of_run(record, restore_environment(record, os.environ), as_recorded=as_recorded)
    hide_secrets(os.environ.get(name, "") for name in book.secrets)
    scope: ManagerScope = "user" if record.header.scope == "user" else "system"
    book = _keep_remediations(book) if record.header.command == "remediate" else book
    book = add_machine_notifications(book)
    request = _make_request(scope, book, {}, record.header.fail_on_remediation, lock_wait)
    if record.header.command == RESTART:
        request = replace(request, notices=find_notices(scope), fix_command=find_fix_command(book))
    return _run_outside_units(
        book, scope, lambda host, journal: resume_run(record, book, request, options, host, host, (report, journal))
    )


def _keep_remediations(book: Runbook) -> Runbook:
    """Return a runbook with its remediations alone. Raises UsageError if it has none."""
    remediations = book.keep_remediations()
    if not remediations.steps:
        hint = "add a `remediate` step with `check` and `fix`; runbook check only checks"
        raise errors.UsageError(f"{book.path} has no `remediate` step", hint=hint)
    return remediations


def _make_request(
    scope: ManagerScope, book: Runbook, sets: dict[str, str], fail_on_remediation: bool, lock_wait: float
) -> RunRequest:
    from runbook.engine.launch import RunRequest  # noqa: PLC0415
    from runbook.host.kernel.accounts import find_operator  # noqa: PLC0415

    notices, who = find_notices(scope, book), find_operator(os.environ)
    version = program_version()
    return RunRequest(scope, sets, os.environ, fail_on_remediation, notices, version, lock_wait, who.name, who.source)


def _run_outside_units(book: Runbook, scope: ManagerScope, start: Start, text: str | None = None) -> int:
    """Return the exit status of `start`, or of a child if this process is the main process of a unit to be stopped."""
    from runbook.cli.preload import load_late_modules  # noqa: PLC0415
    from runbook.engine.preflight import is_main_of_stopped_unit  # noqa: PLC0415
    from runbook.host.journal.writer import send  # noqa: PLC0415
    from runbook.host.kernel.accounts import find_operator  # noqa: PLC0415
    from runbook.report.journal import JournalReport  # noqa: PLC0415

    with _open_host(scope) as host:
        if not is_main_of_stopped_unit(host, book):
            load_late_modules(book, host.call_later)
            who = find_operator(os.environ)
            return start(host, JournalReport(scope, send, who.name, who.source)).exit
    return _run_in_child(text)


def _run_in_child(text: str | None) -> int:
    """Run the same command in a child process, with `text` as its standard input, and return its exit status.

    systemd stops a unit's main process by its PID, in whatever cgroup it is. A child can move to a scope of its own.
    """
    import subprocess  # noqa: PLC0415

    # Signals are not forwarded: systemd sends one to this process when it stops the unit, and the run must survive it.
    stdin = None if text is None else text.encode()
    code = subprocess.run(sys.orig_argv, input=stdin, check=False).returncode  # noqa: S603 - the very command this is
    return code if code >= 0 else 128 - code


def _abandon(run: str | None) -> int:
    from runbook.engine import resume as engine  # noqa: PLC0415
    from runbook.records import history  # noqa: PLC0415

    record = history.find_resumable(run)
    engine.abandon(record)
    print_result(f"{record.id} is abandoned; nothing was changed")
    return errors.EXIT_OK


def _run_planner(
    file: str,
    set_: list[str] | None,
    user: bool,
    output: Output,
    files: ResultFiles,
    *,
    plan: bool,
    lock_wait: str | None = None,
    only_remediations: bool = False,
) -> None:
    """Plan a run, or check once what it would find. The planner's view of the machine has no writing methods."""

    def act(report: Report) -> int:
        parse_span_option("--lock-wait", lock_wait)  # A plan waits for no lock, but a mistake is a mistake.
        book = load_runbook(file, set_, to_run=True, user=user)
        hide_secrets(os.environ.get(name, "") for name in book.secrets)
        book = _keep_remediations(book) if only_remediations else book
        scope = find_scope(book, user)
        options, notices = repeat_options(set_, user=user), find_notices(scope, book)
        if plan:
            notices += describe_notifications(add_machine_notifications(book))
        return plan_run(book, scope, notices, report, options, plan=plan)

    run_with_report(output, act, plan=plan, only_looks=True, files=files)


def plan_run(
    book: Runbook,
    scope: ManagerScope,
    notices: tuple[str, ...],
    report: Report,
    options: Sequence[str] = (),
    *,
    plan: bool = True,
) -> int:
    """Plan a run, or check once what it would find, and return the exit status."""
    from runbook.engine.execution.stream import EventStream  # noqa: PLC0415
    from runbook.engine.launch import find_secret_values  # noqa: PLC0415
    from runbook.engine.planner import Planner  # noqa: PLC0415
    from runbook.model import SystemClock  # noqa: PLC0415
    from runbook.records import store  # noqa: PLC0415
    from runbook.records.lock import find_lock_holders  # noqa: PLC0415
    from runbook.spec.state import RunState  # noqa: PLC0415

    with open_view(scope) as view:
        clock = SystemClock()
        # Events need a run id, although there is no record.
        name = store.new_run_id(clock.now())
        events = EventStream(name, clock, (report,), find_secret_values(book, os.environ))
        state, locks = RunState(name, book.folder, book.env), partial(find_lock_holders, scope=scope)
        planner = Planner(book, view, view, events, state, notices, options, find_lock_holders=locks)
        return (planner.plan() if plan else planner.check()).exit


def _open_host(scope: ManagerScope) -> LocalHost:
    from runbook.records.listened import find_listened  # noqa: PLC0415

    host: LocalHost = _import_local().LocalHost(scope, partial(find_listened, scope))
    return host


def open_view(scope: ManagerScope) -> LocalView:
    """Open this machine for reading. Raises BusUnavailable."""
    from runbook.records.listened import find_listened  # noqa: PLC0415

    view: LocalView = _import_local().LocalView(scope, partial(find_listened, scope))
    return view


def _import_local() -> Any:
    """Import this machine.

    PyGObject comes from the distribution, so it may be missing although pip installed everything else.
    """
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
