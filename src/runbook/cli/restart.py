"""`runbook restart`: a proved restart without a file. It writes the runbook that it is, and runs that."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.arguments import (
    RESTART,
    add_machine_notifications,
    describe_notifications,
    find_fix_command,
    find_notices,
    parse_span_option,
)
from runbook.cli.options import (
    AnnotateOption,
    DryRunOption,
    FailOnRemediationOption,
    JUnitOption,
    LockWaitOption,
    Output,
    OutputOption,
    PortsOption,
    SummaryOption,
    UserOption,
    program_version,
)
from runbook.cli.output import print_message, print_result, run_with_report, wrap
from runbook.cli.result_files import choose_files
from runbook.cli.runs import launch_run, open_view, plan_run

if TYPE_CHECKING:
    from runbook.document.restart import RestartOptions, RestartRunbook
    from runbook.events import Event
    from runbook.host.systemd.addresses import ManagerScope

HealthyForOption = Annotated[
    str | None,
    typer.Option("--healthy-for", metavar="SPAN", help="How long the unit must be healthy afterwards; by default 5s."),
]


def restart(
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="The unit.")],
    port: PortsOption = None,
    healthy_for: HealthyForOption = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="If the proof fails: stop, kill orphans on the port, reset-failed, start.")
    ] = False,
    reload: Annotated[bool, typer.Option("--reload", help="Reload the unit instead.")] = False,
    dry_run: DryRunOption = False,
    show: Annotated[bool, typer.Option("--show", help="Print the runbook that this is; change nothing.")] = False,
    user: UserOption = False,
    fail_on_remediation: FailOnRemediationOption = False,
    lock_wait: LockWaitOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    annotate: AnnotateOption = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Restart a unit, and prove that it is healthy and owns its ports again."""

    def write() -> RestartRunbook:
        return _write_runbook(read_options(unit, port, healthy_for, fix=fix, reload=reload, user=user))

    if show:
        written = write()
        for notice in written.notices:
            print_message(wrap(f"note: {notice}"))
        print_result(written.book.text.rstrip())
        return
    scope: ManagerScope = "user" if user else "system"

    def plan(report: Callable[[Event], None]) -> int:
        parse_span_option("--lock-wait", lock_wait)
        written = write()
        notices = (*find_notices(scope), *written.notices)
        notices += describe_notifications(add_machine_notifications(written.book))
        return plan_run(written.book, scope, notices, report)

    def run(report: Callable[[Event], None]) -> int:
        from runbook.engine.launch import RunRequest  # noqa: PLC0415
        from runbook.host.kernel.accounts import find_operator  # noqa: PLC0415

        seconds, who = parse_span_option("--lock-wait", lock_wait), find_operator(os.environ)
        written = write()
        request = RunRequest(
            scope,
            env=os.environ,
            fail_on_remediation=fail_on_remediation,
            notices=(*find_notices(scope), *written.notices),
            version=program_version(),
            lock_wait=seconds,
            user=who.name,
            user_source=who.source,
            command=RESTART,
            has_file=False,
            fix_command=find_fix_command(written.book),
        )
        return launch_run(add_machine_notifications(written.book), request, report)

    files = choose_files(output, junit=junit, summary=summary, annotate=annotate)
    run_with_report(output, plan if dry_run else run, plan=dry_run, files=files)


def read_options(
    unit: str, ports: list[str] | None, healthy_for: str | None, *, fix: bool, reload: bool, user: bool
) -> RestartOptions:
    """Return what the command line asks for. Raises UsageError."""
    from runbook.document.restart import HEALTHY_FOR, RestartOptions  # noqa: PLC0415
    from runbook.util.names import parse_port, parse_unit_name  # noqa: PLC0415
    from runbook.util.timespan import parse_span  # noqa: PLC0415

    try:
        name, named = parse_unit_name(unit), tuple(dict.fromkeys(map(parse_port, ports or ())))
        span = healthy_for or HEALTHY_FOR
        parse_span(span)
    except ValueError as error:
        raise errors.UsageError(str(error)) from error
    return RestartOptions(name, named, span, fix=fix, reload=reload, user=user)


def _write_runbook(options: RestartOptions) -> RestartRunbook:
    """Look at the unit, and return the runbook. Raises NotBegun if there is no such unit."""
    from runbook.document.restart import write_restart  # noqa: PLC0415
    from runbook.engine.preflight import check_units_exist  # noqa: PLC0415
    from runbook.records.listened import list_listened_ports  # noqa: PLC0415

    scope: ManagerScope = "user" if options.user else "system"
    try:
        with open_view(scope) as view:
            written = write_restart(view, options, partial(list_listened_ports, scope))
            check_units_exist(view, written.book, None)
    except errors.HostError as error:
        raise errors.NotBegun(error.message, hint=error.hint) from error
    return written
