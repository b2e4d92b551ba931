"""From the words of a command line to a runbook and the manager that it is for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runbook import errors
from runbook.cli.options import print_message, wrap
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.document import Source
    from runbook.records.history import RunRecord
    from runbook.spec.step import Runbook


def load_runbook(file: str, set_: list[str] | None, *, to_run: bool = False, user: bool = False) -> Runbook:
    """Read a runbook. One that others may write is refused to root where it is `to_run`, else only warned of."""
    from runbook import document  # noqa: PLC0415
    from runbook.document.trust import find_distrust  # noqa: PLC0415

    source = document.read_source(file)
    if source.status is not None:
        sudo = os.environ.get("SUDO_UID", "")
        uid = int(sudo) if sudo.isascii() and sudo.isdigit() else None
        why = find_distrust(file, source.status, euid=os.geteuid(), sudo_uid=uid)
        if why and to_run:
            raise errors.NotBegun(f"cannot run {file} as root: {why}", hint=_trust_hint(source, file, set_, user))
        if why:
            print_message(wrap(f"warning: root would refuse to run it: {why}"))
    return document.parse(source.data, file, sets=parse_sets(set_))


def _trust_hint(source: Source, file: str, set_: list[str] | None, user: bool) -> str:
    """Say how a runbook that root refuses is run: by its owner, if it is about a user's own units."""
    import pwd  # noqa: PLC0415

    from runbook import document  # noqa: PLC0415
    from runbook.host.systemd.addresses import run_as_user_hint  # noqa: PLC0415

    with contextlib.suppress(errors.RunbookError, KeyError):
        if source.status is not None and (
            user or document.parse(source.data, file, sets=parse_sets(set_)).scope == "user"
        ):
            owner = source.status.st_uid
            return run_as_user_hint(pwd.getpwuid(owner).pw_name if owner else "USER")
    return "whoever may write it would run commands as root; chown root and chmod go-w mend that"


def find_notices(scope: Literal["system", "user"]) -> tuple[str, ...]:
    """Give what a person should know of this machine before anything is done."""
    from runbook.host.systemd.addresses import describe_no_linger  # noqa: PLC0415

    return tuple(filter(None, (describe_no_linger(scope),)))


def parse_sets(pairs: list[str] | None) -> dict[str, str]:
    """Read what `--set` says. Raises UsageError."""
    found = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise errors.UsageError(f"cannot read --set {pair}: write NAME=VALUE")
        found[name] = value
    return found


def parse_span_option(option: str, text: str | None) -> float:
    """Read an option's time span, in seconds; 0 where it was not given. Raises UsageError."""
    from runbook.util.timespan import parse_span  # noqa: PLC0415

    try:
        return parse_span(text) if text is not None else 0.0
    except ValueError as error:
        raise errors.UsageError(f"cannot read {option}: {error}") from error


def find_scope(book: Runbook, user: bool) -> Literal["system", "user"]:
    """Say whose manager a runbook is for. Raises UsageError where `--user` contradicts the file."""
    if user and "scope" in book.model_fields_set and book.scope == "system":
        raise errors.UsageError(
            f"--user contradicts {book.path}, which says `scope: system`", hint="leave one of the two out"
        )
    return "user" if user else book.scope


def load_recorded(past: RunRecord, env: Mapping[str, str], *, as_recorded: bool) -> Runbook:
    """Read the runbook of a run again, as it was read then.

    Raises NotBegun where its file says something else by now, unless that is to be taken `as_recorded`.
    """
    from runbook import document  # noqa: PLC0415
    from runbook.records.store import open_file  # noqa: PLC0415

    header, kept = past.header, past.folder.runbook
    try:
        with open_file(kept) as opened:
            text = opened.read()
    except OSError as error:
        raise errors.NotBegun(f"cannot resume {past.id}: {kept}: {describe_error(error)}") from error
    if header.file != "-" and not as_recorded and (why := _differs(header.file, text)):
        raise errors.NotBegun(
            f"cannot resume {past.id}: {header.file} {why}",
            hint="--as-recorded goes on with it as it was then; runbook apply begins anew with what it says now",
        )
    return document.parse(text, header.file, sets=header.sets, environ=env, folder=Path(header.cwd))


def _differs(file: str, text: bytes) -> str:
    from runbook import document  # noqa: PLC0415

    try:
        # A pipe that somebody put there would be waited for.
        if Path(file).exists() and not Path(file).is_file():
            return "is no file any more"
        return "" if document.read_source(file).data == text else "has changed since"
    except OSError as error:
        return f"cannot be read any more: {describe_error(error)}"
    except errors.UsageError as error:
        return f"cannot be read any more: {error.message.partition(': ')[2]}"
