"""The command that diagnoses a unit, or the whole machine: doctor."""

from __future__ import annotations

import contextlib
import os
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.options import Output, UserOption
from runbook.cli.output import make_layout, print_result
from runbook.cli.runs import open_view

if TYPE_CHECKING:
    from runbook.doctor.findings import MachineDiagnosis, UnitDiagnosis
    from runbook.host.systemd.addresses import ManagerScope
    from runbook.model import Port


class DoctorOutput(StrEnum):
    """The format in which the doctor reports."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"
    PROMETHEUS = "prometheus"


UnitArgument = Annotated[
    str | None,
    typer.Argument(metavar="[UNIT]", help="The unit: nginx is nginx.service. Without one, the whole machine."),
]
FormatOption = Annotated[
    DoctorOutput,
    typer.Option(
        "--output",
        help="auto: text, with colours on a terminal; plain: text; json: one JSON object; prometheus: metrics of the "
        "whole machine for the textfile collector.",
    ),
]
PortOption = Annotated[
    list[str] | None,
    typer.Option("--port", metavar="PORT", help="A port that the unit should own; by default all that are found."),
]


def doctor(
    unit: UnitArgument = None,
    port: PortOption = None,
    user: UserOption = False,
    output: FormatOption = DoctorOutput.AUTO,
) -> None:
    """Report what is wrong with a unit, or with the whole machine, why, and how to fix it; change nothing."""
    if unit is None:
        _diagnose_machine(bool(port), user, output)
    else:
        _diagnose_unit(unit, port or [], user, output)


def _diagnose_unit(unit: str, port: list[str], user: bool, output: DoctorOutput) -> None:
    import json  # noqa: PLC0415 - `--help` needs none of it.

    if output is DoctorOutput.PROMETHEUS:
        raise errors.UsageError("--output prometheus is for the whole machine: leave out UNIT")
    name, ports = _parse(unit, port)
    try:
        diagnosis = _diagnose(name, ports, "user" if user else "system")
    except errors.RunbookError as error:
        if output is DoctorOutput.JSON:
            print_result(json.dumps({"unit": name, "error": error.message, "hint": error.hint}))
        raise
    if output is DoctorOutput.JSON:
        print_result(json.dumps(diagnosis.evidence()))
    else:
        _print(diagnosis, output)
    raise typer.Exit(errors.EXIT_OK if diagnosis.is_healthy else errors.EXIT_FAILED)


def _diagnose_machine(has_ports: bool, user: bool, output: DoctorOutput) -> None:
    import json  # noqa: PLC0415 - `--help` needs none of it.

    if has_ports or user:
        option = "--port" if has_ports else "--user"
        raise errors.UsageError(f"{option} needs UNIT: without one, the doctor looks at all ports and all managers")
    try:
        found = _look_at_machine()
    except errors.RunbookError as error:
        if output is DoctorOutput.JSON:
            print_result(json.dumps({"error": error.message, "hint": error.hint}))
        raise
    if output is DoctorOutput.JSON:
        print_result(json.dumps(found.evidence()))
    elif output is DoctorOutput.PROMETHEUS:
        from runbook.report.prometheus import format_metrics  # noqa: PLC0415

        print_result(format_metrics(found, time.time()).rstrip("\n"))
    else:
        _print(found, output)
    raise typer.Exit(errors.EXIT_OK if found.is_healthy else errors.EXIT_FAILED)


def _look_at_machine() -> MachineDiagnosis:
    """Return the diagnosis of the machine. Raises NotBegun if it cannot be read."""
    from runbook.doctor.machine import MachineDoctor  # noqa: PLC0415

    with open_view("system") as view:
        try:
            return MachineDoctor(view, view, os.geteuid()).diagnose()
        except errors.HostError as error:
            raise errors.NotBegun(error.message, hint=error.hint) from error


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


def _print(found: UnitDiagnosis | MachineDiagnosis, output: DoctorOutput) -> None:
    from runbook.doctor.findings import UnitDiagnosis  # noqa: PLC0415
    from runbook.report.doctor import print_diagnosis, print_machine  # noqa: PLC0415

    with contextlib.ExitStack() as screen_end:
        page = make_layout(Output(output), screen_end)
        if isinstance(found, UnitDiagnosis):
            print_diagnosis(found, page)
        else:
            print_machine(found, page)
