"""Finds which other manager of this machine has a unit, by the folders of its unit files (systemd.unit(5)).

No other manager is asked: root does not call into the bus of a user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from runbook.host.queries import Answer, OtherManagers, OtherManagersQuery

SYSTEM_FOLDERS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
USER_FOLDERS = (*SYSTEM_FOLDERS, "/usr/local/share/systemd", "/usr/share/systemd")
HOME_FOLDERS = (".config/systemd", ".local/share/systemd")
MADE_FOLDERS = ("transient", "generator", "generator.early", "generator.late")  # for units that programs make
RUNTIME = Path("/run/user")
MAX_USERS = 20  # how many users' folders are searched


class OtherManagerSearch:
    """Searches for one unit."""

    def __init__(self, query: OtherManagersQuery) -> None:
        self._query = query
        stem, _, suffix = query.unit.rpartition(".")
        # An instance has the file of its template.
        template = [f"{stem.partition('@')[0]}@.{suffix}"] if "@" in stem else []
        self._names = [query.unit, *template]

    def run(self) -> Answer[OtherManagers]:
        """Return the managers that have a file of the unit."""
        if self._query.of_user:
            return Answer(True, "", OtherManagers(system=self._is_in(_list_system_folders())))
        accounts = [one for one in _list_accounts() if self._is_in(_list_user_folders(one))]
        me = os.geteuid()
        own = me != 0 and any(one.pw_uid == me for one in accounts)
        users = tuple(one.pw_name for one in accounts if one.pw_uid != me)
        return Answer(True, "", OtherManagers(own=own, users=users))

    def abort(self) -> None:
        """Do nothing: what hangs is a call of the kernel, or a name server."""

    def _is_in(self, folders: Iterator[str]) -> bool:
        return any(_is_unit_file(f"{folder}/{name}") for folder in folders for name in self._names)


def _is_unit_file(path: str) -> bool:
    """True for a file, or a link to one; a unit that is masked is a link to /dev/null."""
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    return False


def _list_system_folders() -> Iterator[str]:
    yield from (f"{folder}/system" for folder in SYSTEM_FOLDERS)
    yield from (f"/run/systemd/{made}" for made in MADE_FOLDERS)


def _list_user_folders(account: pwd.struct_passwd) -> Iterator[str]:
    runtime = f"{RUNTIME}/{account.pw_uid}/systemd"
    yield from (f"{account.pw_dir}/{folder}/user" for folder in HOME_FOLDERS)
    yield from (f"{runtime}/{made}" for made in ("user", *MADE_FOLDERS))
    yield from (f"{folder}/user" for folder in USER_FOLDERS)


def _list_accounts() -> Iterator[pwd.struct_passwd]:
    """Yield the caller; for root instead the user behind sudo, and the users that have a manager."""
    uids = [os.geteuid()]
    if not uids[0]:
        running = (int(path.name) for path in sorted(RUNTIME.glob("*")) if path.name.isdecimal())
        uids = [uid for uid in (int(os.environ.get("SUDO_UID", "0")), *running) if uid]
    for uid in [*dict.fromkeys(uids)][:MAX_USERS]:
        with contextlib.suppress(KeyError, OverflowError):
            yield pwd.getpwuid(uid)
