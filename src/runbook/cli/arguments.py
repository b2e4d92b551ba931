"""From the arguments of a command to a runbook and the manager that it is for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runbook import errors
from runbook.cli.output import print_error, print_message, wrap
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.document import Source
    from runbook.host.systemd.addresses import ManagerScope
    from runbook.records.history import RunRecord
    from runbook.spec.notification import Notification
    from runbook.spec.runbook import Runbook

RESTART = "restart"  # the command of a run without a file


def load_runbook(file: str, set_: list[str] | None, *, to_run: bool = False, user: bool = False) -> Runbook:
    """Return the runbook in a file.

    If other users can write the file, root is refused `to_run` it and is warned otherwise. `user` is the option
    `--user`. Raises DocumentError, UsageError and NotBegun.
    """
    from runbook import document  # noqa: PLC0415
    from runbook.document.trust import find_distrust, find_sudo_uid  # noqa: PLC0415

    source = document.read_source(file)
    why = find_distrust(source, euid=os.geteuid(), sudo_uid=find_sudo_uid(os.environ))
    if why and to_run:
        raise errors.NotBegun(f"cannot run {file} as root: {why}", hint=_trust_hint(source, file, set_, user))
    if why:
        print_message(wrap(f"warning: root would refuse to run it: {why}"))
    return document.parse(source.data, file, sets=parse_sets(set_), folder=source.folder)


def _trust_hint(source: Source, file: str, set_: list[str] | None, user: bool) -> str:
    """Return what to do with a runbook that root refuses: run it as its owner if it is for a user manager."""
    import pwd  # noqa: PLC0415

    from runbook import document  # noqa: PLC0415
    from runbook.host.systemd.addresses import run_as_user_hint  # noqa: PLC0415

    # The file may be invalid as well, and its owner unknown. The refusal counts, not the hint.
    with contextlib.suppress(errors.RunbookError, KeyError):
        for_user = user or document.parse(source.data, file, sets=parse_sets(set_)).scope == "user"
        if source.status is not None and for_user:
            owner = source.status.st_uid
            return run_as_user_hint(pwd.getpwuid(owner).pw_name if owner else "USER")
    return "users who can write there could run commands as root; correct it with chown root and chmod go-w"


def add_machine_notifications(book: Runbook) -> Runbook:
    """Return the runbook with the entries of `/etc/runbook/notify.yaml`, which apply to every run.

    Raises DocumentError if that file is wrong, and NotBegun if root must not trust it.
    """
    from runbook.document.notifications import MACHINE_FILE  # noqa: PLC0415

    try:
        os.lstat(MACHINE_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return book
    except PermissionError:
        pass  # The folder is closed to this user, who gets the message about the file.
    entries = load_machine_file(MACHINE_FILE)
    return book.model_copy(update={"machine_notify": entries}) if entries else book


def load_machine_file(path: str, *, to_run: bool = True) -> tuple[Notification, ...]:
    """Return the entries of a file for the whole machine. A user that cannot read it gets a message, and none."""
    import socket  # noqa: PLC0415

    from runbook import document  # noqa: PLC0415
    from runbook.document.notifications import parse_machine_file  # noqa: PLC0415
    from runbook.document.trust import find_distrust  # noqa: PLC0415

    if to_run and os.geteuid() != 0 and not os.access(path, os.R_OK):
        print_message(wrap(f"note: {path} cannot be read, so nothing in it is notified"))
        return ()
    source = document.read_source(path)
    if to_run and (why := find_distrust(source, euid=os.geteuid(), sudo_uid=None)):
        hint = "its commands would run as root; correct it with chown root and chmod go-w"
        raise errors.NotBegun(f"cannot use {path}: {why}", hint=hint)
    return parse_machine_file(source.data, os.environ, socket.gethostname(), path)


def describe_notifications(book: Runbook) -> tuple[str, ...]:
    """Return who is notified of the end of a run, a sentence each."""
    from runbook.document.notifications import MACHINE_FILE  # noqa: PLC0415

    of_machine = (f"{MACHINE_FILE} {entry.describe()}" for entry in book.machine_notify)
    return (*(f"the runbook {entry.describe()}" for entry in book.notify), *of_machine)


def validate_file(file: str, set_: list[str] | None) -> tuple[str, ...]:
    """Return what to report about a valid file. Raises DocumentError and UsageError."""
    from runbook.document.draft import describe_missing  # noqa: PLC0415
    from runbook.document.notifications import MACHINE_FILE  # noqa: PLC0415

    if os.path.exists(file) and os.path.exists(MACHINE_FILE) and os.path.samefile(file, MACHINE_FILE):  # noqa: PTH110, PTH121
        return tuple(entry.describe() for entry in load_machine_file(file, to_run=False))
    book = load_runbook(file, set_)
    try:
        book = add_machine_notifications(book)
    except errors.RunbookError as error:
        # The runbook is valid, and may be for another machine.
        print_message(wrap("warning: every run on this machine would be refused:"))
        print_error(error)
    return (*filter(None, [describe_missing(book.text)]), *describe_notifications(book))


def find_notices(scope: ManagerScope, book: Runbook | None = None) -> tuple[str, ...]:
    """Return what an operator should know about this machine and the file, if any, before the run begins."""
    from runbook.document.draft import describe_missing  # noqa: PLC0415
    from runbook.host.systemd.addresses import describe_no_linger  # noqa: PLC0415

    of_file = (_describe_folder(book), describe_missing(book.text)) if book is not None else ()
    return tuple(filter(None, (describe_no_linger(scope), *of_file)))


def _describe_folder(book: Runbook) -> str:
    """Return why commands do not start in the folder of the file; empty if they do."""
    if book.path == "-" or book.folder != Path("/"):
        return ""
    folder = Path(book.path).absolute().parent
    if folder.resolve() == Path("/"):
        return ""
    return f"its commands start in /, because other users can put files into {folder}; `cwd` names another folder"


def parse_sets(pairs: list[str] | None) -> dict[str, str]:
    """Return the names and values of `--set`. Raises UsageError."""
    values = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise errors.UsageError(f"cannot read --set {pair}: write NAME=VALUE")
        values[name] = value
    return values


def repeat_options(pairs: list[str] | None, *, user: bool) -> list[str]:
    """Return `--set` and `--user` as the words of another command for the same runbook."""
    return [*(["--user"] if user else []), *(word for pair in pairs or () for word in ("--set", pair))]


def find_fix_command(book: Runbook) -> str:
    """Return the command that does what a `runbook restart` does, and fixes what it finds; empty if that one does.

    A restart without a proof has nothing to fix.
    """
    import shlex  # noqa: PLC0415

    command, *words = shlex.split(book.path)
    return "" if "--fix" in words or len(book.steps) == 1 else shlex.join(["runbook", command, "--fix", *words])


def parse_span_option(option: str, text: str | None) -> float:
    """Return the time span of an option in seconds, 0 if the option is absent. Raises UsageError."""
    from runbook.util.timespan import parse_span  # noqa: PLC0415

    try:
        return parse_span(text) if text is not None else 0.0
    except ValueError as error:
        raise errors.UsageError(f"cannot read {option}: {error}") from error


def find_scope(book: Runbook, user: bool) -> ManagerScope:
    """Return the manager that a runbook is for. Raises UsageError if `--user` contradicts the file."""
    if user and "scope" in book.model_fields_set and book.scope == "system":
        raise errors.UsageError(f"--user contradicts `scope: system` in {book.path}", hint="remove one of the two")
    return "user" if user else book.scope


def load_runbook_of_run(past: RunRecord, env: Mapping[str, str], *, as_recorded: bool) -> Runbook:
    """Return the runbook of a run as it was when the run began.

    Raises NotBegun if its file has changed since, unless `as_recorded`.
    """
    from runbook import document  # noqa: PLC0415
    from runbook.records.store import open_file  # noqa: PLC0415

    header, path = past.header, past.folder.runbook_path
    try:
        with open_file(path) as file:
            text = file.read()
    except OSError as error:
        raise errors.NotBegun(f"cannot resume {past.id}: {path}: {describe_error(error)}") from error
    if (
        header.file != "-"
        and header.command != RESTART
        and not as_recorded
        and (why := _describe_change(header.file, text))
    ):
        raise errors.NotBegun(
            f"cannot resume {past.id}: {header.file} {why}",
            hint="--as-recorded continues with the runbook as it was; runbook apply starts anew with the file as it is",
        )
    return document.parse(text, header.file, sets=header.sets, environ=env, folder=Path(header.cwd))


def _describe_change(file: str, text: bytes) -> str:
    """Return how a file differs from the recorded `text`; empty if it does not."""
    from runbook import document  # noqa: PLC0415

    try:
        # Opening a named pipe would block until another process writes to it.
        if Path(file).exists() and not Path(file).is_file():
            return "is no longer a regular file"
        return "" if document.read_source(file).data == text else "has changed since the run began"
    except OSError as error:
        return f"cannot be read any more: {describe_error(error)}"
    except errors.UsageError as error:
        return f"cannot be read any more: {error.message.partition(': ')[2]}"
