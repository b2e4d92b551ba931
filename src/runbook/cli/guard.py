"""`runbook guard`: makes needrestart restart units through `runbook restart`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.options import Output, OutputOption, PortsOption
from runbook.cli.output import print_message, print_result, wrap
from runbook.cli.restart import HealthyForOption, read_options
from runbook.cli.runs import open_view

if TYPE_CHECKING:
    from runbook.records.needrestart import NeedrestartSettings


def guard(
    units: Annotated[list[str] | None, typer.Argument(metavar="[UNIT...]", help="The services.")] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the guarded units, and whether needrestart would run their hooks.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the hooks of these units; without UNIT, of all.")
    ] = False,
    port: PortsOption = None,
    healthy_for: HealthyForOption = None,
    no_fix: Annotated[bool, typer.Option("--no-fix", help="Only prove the restart; fix nothing.")] = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Make needrestart restart services with proof after upgrades, and within their start limits."""
    if list_ and (remove or units):
        raise errors.UsageError("cannot combine --list with --remove or a unit")
    if list_:
        _list_hooks(output)
    elif os.geteuid() != 0:
        raise errors.NotBegun("only root may write or remove hooks of needrestart", hint="run it as root: sudo …")
    elif remove:
        _remove_hooks(units or [])
    elif not units:
        raise errors.UsageError("which unit? write runbook guard UNIT, or --list")
    else:
        _write_hooks(units, port, healthy_for, fix=not no_fix)


def _write_hooks(units: list[str], ports: list[str] | None, healthy_for: str | None, *, fix: bool) -> None:
    from runbook.records.needrestart import read_settings  # noqa: PLC0415
    from runbook.records.restart_hooks import write_hook  # noqa: PLC0415

    wanted = [read_options(unit, ports, healthy_for, fix=fix, reload=False, user=False) for unit in units]
    program = _find_program()
    names = _find_services([options.unit for options in wanted])
    settings = read_settings(names)
    for options, name in zip(wanted, names, strict=True):
        # The command without its first word and its last, the unit.
        is_new = write_hook(settings.hooks, name, program, options.write_words()[1:-1])
        print_result(f"{name} is {'guarded' if is_new else 'guarded already'}: {settings.hooks / name}")
    for note in _describe_obstacles(settings):
        print_message(wrap(f"note: {note}"))


def _remove_hooks(units: list[str]) -> None:
    from runbook.records.needrestart import HOOKS, read_settings  # noqa: PLC0415
    from runbook.records.restart_hooks import list_hooks, remove_hook  # noqa: PLC0415

    try:
        folder = read_settings(()).hooks
    except errors.NotBegun:
        folder = HOOKS  # It may have been removed, and its configuration is left.
    names = [read_options(unit, None, None, fix=False, reload=False, user=False).unit for unit in units]
    for name in names or [name for name, _ in list_hooks(folder)]:
        done = remove_hook(folder, name)
        print_result(f"{name} is not guarded any more" if done else f"{name} is not guarded")


def _list_hooks(output: Output) -> None:
    from runbook.records.needrestart import HOOKS, read_settings  # noqa: PLC0415
    from runbook.records.restart_hooks import list_hooks  # noqa: PLC0415

    problem, settings = "", None
    try:
        settings = read_settings(())
        found = dict(list_hooks(settings.hooks))
        settings = read_settings(found)
    except errors.NotBegun as error:
        problem, found = f"{error.message}; {error.hint}" if error.hint else error.message, dict(list_hooks(HOOKS))
    folder = settings.hooks if settings is not None else HOOKS
    exists = _find_existing(found) if found else {}
    for name, program in found.items():
        gone = f"systemd has no such unit; runbook guard --remove {name} removes the hook"
        why = gone if exists.get(name) is False else problem
        why = why or (settings.refused.get(name, "") and _describe_refusal(settings, name) if settings else "")
        why = why or ("" if os.access(program, os.X_OK) else f"{program} is missing, so there is no proof")
        why = why or (settings.describe_mode() if settings else "")
        _print_hook(name, folder / name, why, output, exists=exists.get(name))
    if not found and output is not Output.JSON:
        print_message("no unit is guarded")
    for note in [problem] if problem else _describe_obstacles(settings) if settings and not found else []:
        print_message(wrap(f"note: {note}"))


def _find_existing(units: Iterable[str]) -> dict[str, bool]:
    """Return of each unit whether systemd has it; empty if systemd cannot be asked, which a message reports."""
    from runbook.host.facts import LoadState  # noqa: PLC0415

    try:
        with open_view("system") as view:
            return {name: view.unit(name).load_state is not LoadState.NOT_FOUND for name in units}
    except errors.RunbookError as error:
        print_message(wrap(f"note: whether the units still exist is unknown: {error.message}"))
        return {}


def _print_hook(name: str, path: Path, why: str, output: Output, exists: bool | None) -> None:
    import json  # noqa: PLC0415

    if output is Output.JSON:
        print_result(json.dumps({"unit": name, "exists": exists, "file": str(path), "runs": not why, "why": why}))
    else:
        print_result(f"{name}  {path}")
        if why:
            print_result(wrap(f"  but {why}"))


def _describe_obstacles(settings: NeedrestartSettings) -> list[str]:
    refusals = [_describe_refusal(settings, name) for name in settings.refused]
    return list(filter(None, (*refusals, settings.describe_mode())))


def _describe_refusal(settings: NeedrestartSettings, name: str) -> str:
    return f"needrestart does not restart {name}: `$nrconf{{{settings.refused[name]}}}` excludes it"


def _find_services(units: list[str]) -> list[str]:
    """Return systemd's own names of these services, by which needrestart calls them. Raises NotBegun and UsageError."""
    from runbook.host.facts import LoadState  # noqa: PLC0415

    names = []
    try:
        with open_view("system") as view:
            for unit in (view.unit(name) for name in units):
                if not unit.is_service:
                    raise errors.UsageError(f"{unit.name} is not a service: needrestart restarts only services")
                if unit.load_state is LoadState.NOT_FOUND:
                    near = view.find_similar_unit(unit.name)
                    raise errors.NotBegun(unit.describe_not_found(), hint=f"did you mean {near}?" if near else "")
                if unit.refuse_manual_stop:
                    why = "its file has RefuseManualStop=yes, so needrestart does not restart it"
                    raise errors.NotBegun(f"cannot guard {unit.name}: {why}")
                names.append(unit.name)
    except errors.HostError as error:
        raise errors.NotBegun(error.message, hint=error.hint) from error
    return names


def _find_program() -> str:
    """Return the path of this program. Raises NotBegun if another user than root may change what it runs."""
    import runbook  # noqa: PLC0415
    from runbook.document.source import read_source  # noqa: PLC0415
    from runbook.document.trust import find_distrust  # noqa: PLC0415

    program = Path(sys.argv[0]).absolute()
    for path in (str(program), sys.executable, runbook.__file__):
        if why := find_distrust(read_source(path), euid=0, sudo_uid=None):
            hint = "install it where only root may write, for example in /opt/runbook"
            raise errors.NotBegun(f"root must not run {program} at night: {why}", hint=hint)
    if not os.access(program, os.X_OK):
        raise errors.NotBegun(f"cannot find the program that the hooks are to run: {program} is not executable")
    return str(program)
