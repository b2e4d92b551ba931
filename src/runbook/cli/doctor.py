"""The command that diagnoses a unit: doctor."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.options import Output, OutputOption, UserOption
from runbook.cli.output import make_layout, print_result
from runbook.cli.runs import open_view

if TYPE_CHECKING:
    from runbook.doctor.findings import UnitDiagnosis
    from runbook.host.systemd.addresses import ManagerScope
    from runbook.model import Port

UnitArgument = Annotated[str, typer.Argument(metavar="UNIT", help="The unit: nginx is nginx.service.")]
PortOption = Annotated[
    list[str] | None,
    typer.Option("--port", metavar="PORT", help="A port that the unit should own; by default all that are found."),
]


def doctor(
    unit: UnitArgument, port: PortOption = None, user: UserOption = False, output: OutputOption = Output.AUTO
) -> None:
    """Report what is wrong with a unit, why, and how to fix it; change nothing."""
    import json  # noqa: PLC0415 - `--help` needs none of it.

    name, ports = _parse(unit, port or [])
    try:
        diagnosis = _diagnose(name, ports, "user" if user else "system")
    except errors.RunbookError as error:
        if output is Output.JSON:
            print_result(json.dumps({"unit": name, "error": error.message, "hint": error.hint}))
        raise
    if output is Output.JSON:
        print_result(json.dumps(diagnosis.evidence()))
    else:
        _print(diagnosis, output)
    raise typer.Exit(errors.EXIT_OK if diagnosis.is_healthy else errors.EXIT_FAILED)


def _parse(unit: str, ports: list[str]) -> tuple[str, list[Port]]:
    """Return the unit's full name and the ports. Raises UsageError."""
    from runbook.util.names import parse_port, parse_unit_name  # noqa: PLC0415 - `--help` needs none of it.

    try:
        return parse_unit_name(unit), [parse_port(port) for port in ports]
    except ValueError as error:
        raise errors.UsageError(str(error)) from error


def _diagnose(name: str, ports: list[Port], scope: ManagerScope) -> UnitDiagnosis:
    """Return the diagnosis. Raises NotBegun if the machine cannot be read, or has no such unit."""
    from runbook.doctor.unit import Doctor  # noqa: PLC0415 - `--help` needs no diagnosis.

    def recorded() -> tuple[Port, ...]:
        from runbook.records.listened import list_listened_ports  # noqa: PLC0415 - Mostly it is not needed.

        return list_listened_ports(scope, name)

    with open_view(scope) as view:
        try:
            return Doctor(view, view, os.geteuid()).diagnose(name, ports, recorded)
        except errors.HostError as error:
            raise errors.NotBegun(error.message, hint=error.hint) from error


def _print(diagnosis: UnitDiagnosis, output: Output) -> None:
    from runbook.report.doctor import print_diagnosis  # noqa: PLC0415

    with contextlib.ExitStack() as screen_end:
        print_diagnosis(diagnosis, make_layout(output, screen_end))
