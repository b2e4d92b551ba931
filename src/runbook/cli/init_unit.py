"""`runbook init`: writes a first runbook for a unit, from what is found of it now."""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runbook import errors
from runbook.cli.options import PortsOption, UserOption
from runbook.cli.output import print_message, print_result, wrap
from runbook.cli.runs import open_view
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.document.init.survey import Named, Survey
    from runbook.host.systemd.addresses import ManagerScope


def init(
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="The unit.")],
    port: PortsOption = None,
    write: Annotated[str | None, typer.Option("--write", metavar="FILE", help="Write it into this new file.")] = None,
    user: UserOption = False,
) -> None:
    """Write a first runbook for a unit, from what is found of it now."""
    named = _read_names(unit, port, user=user)
    if write is not None:
        _check_is_new(Path(write))
    survey = _survey(named)
    suggested = f"{survey.unit.name.rpartition('.')[0].rstrip('@')}.yaml"
    text = _make_text(survey, write or suggested)
    for notice in survey.notices:
        print_message(wrap(f"note: {notice}"))
    if write is None:
        print_result(text.rstrip("\n"))
    else:
        _write_new_file(Path(write), text)
        _warn_of_writers(write)
    _describe_next(survey, named, text, write, suggested)


def _read_names(unit: str, ports: list[str] | None, *, user: bool) -> Named:
    """Return what the command line names. Raises UsageError."""
    from runbook.document.init.survey import Named  # noqa: PLC0415
    from runbook.util.names import parse_port, parse_unit_name  # noqa: PLC0415

    try:
        return Named(parse_unit_name(unit), tuple(dict.fromkeys(map(parse_port, ports or ()))), user)
    except ValueError as error:
        raise errors.UsageError(str(error)) from error


def _survey(named: Named) -> Survey:
    from runbook.document.init.lookup import Lookup  # noqa: PLC0415
    from runbook.document.init.survey import make_survey  # noqa: PLC0415
    from runbook.records.listened import list_listened_ports  # noqa: PLC0415

    scope: ManagerScope = "user" if named.user else "system"
    try:
        with open_view(scope) as view:
            return make_survey(Lookup(view, view), named, partial(list_listened_ports, scope))
    except errors.HostError as error:
        raise errors.NotBegun(error.message, hint=error.hint) from error


def _make_text(survey: Survey, file: str) -> str:
    """Return the runbook, which the reader of runbooks has accepted."""
    from runbook.document import parse  # noqa: PLC0415
    from runbook.document.init.text import write_first_runbook  # noqa: PLC0415

    text = write_first_runbook(survey, file, os.uname().nodename, time.time())
    parse(text, file)
    return text


def _check_is_new(file: Path) -> None:
    if file.is_symlink() or file.exists():
        raise errors.NotBegun(f"cannot write {file}: it exists already", hint="name another file, or remove that one")


def _write_new_file(file: Path, text: str) -> None:
    """Write a file as a whole, or not at all. Raises NotBegun if there is one of that name by now."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as new:
                new.write(text)
                new.flush()
                os.fchmod(new.fileno(), 0o644)
                os.fsync(new.fileno())
            os.link(name, file)  # Fails if the name is taken: a rename would replace that file.
        finally:
            Path(name).unlink()
    except FileExistsError:
        _check_is_new(file)
        raise
    except OSError as error:
        raise errors.NotBegun(f"cannot write {file}: {describe_error(error)}") from error


def _warn_of_writers(file: str) -> None:
    from runbook.document.source import read_source  # noqa: PLC0415
    from runbook.document.trust import find_distrust, find_sudo_uid  # noqa: PLC0415

    if why := find_distrust(read_source(file), euid=os.geteuid(), sudo_uid=find_sudo_uid(os.environ)):
        print_message(wrap(f"warning: root would refuse to run it: {why}"))


def _describe_next(survey: Survey, named: Named, text: str, written: str | None, suggested: str) -> None:
    import shlex  # noqa: PLC0415

    from runbook.document.draft import FILL_IN, count_missing  # noqa: PLC0415

    if written is not None:
        print_message(f"{written} is written")
    if missing := count_missing(text):
        lines = f"line{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        print_message(wrap(f"to be completed: {lines}, marked {FILL_IN}"))
    runbook = "runbook" if named.user else "sudo runbook"
    if written is None:
        ports = [word for port in named.ports for word in ("--port", str(port))]
        words = [*(["--user"] if named.user else []), *ports, survey.unit.name, "--write", suggested]
        print_message(f"next: {runbook} init {shlex.join(words)}")
    else:
        print_message(f"next: {runbook} apply --dry-run {shlex.quote(written)}")
