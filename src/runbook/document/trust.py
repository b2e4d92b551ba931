"""Whether root may run a file: its commands run as root, so no other user may be able to write it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Mapping

from runbook.document.source import Entry, Source
from runbook.host.kernel.accounts import find_user_name


def find_distrust(source: Source, *, euid: int, sudo_uid: int | None) -> str:
    """Return why root should not run a file; empty if it may, and for every other user.

    The file, and every folder and link on the way to it, must belong to root or to the user behind sudo, and must not
    be writable by others, as sshd's StrictModes= demands. A sticky folder such as /tmp may be writable.
    """
    if euid != 0 or source.status is None:
        return ""
    trusted = {0} if sudo_uid is None else {0, sudo_uid}
    if why := _describe_writable(source.status, trusted):
        return f"{source.path} {why}"
    return _find_distrust_above(source.above, trusted)


def find_folder_distrust(above: Iterable[Entry], *, euid: int, sudo_uid: int | None) -> str:
    """Return why root should not write into a folder, which is among the entries; empty if it may.

    Another user could put a link in its place, or in that of a folder above it.
    """
    return _find_distrust_above(tuple(above), {0, sudo_uid or 0}) if euid == 0 else ""


def find_sudo_uid(environ: Mapping[str, str]) -> int | None:
    """Return the user behind sudo; None if there is none."""
    sudo = environ.get("SUDO_UID", "")
    return int(sudo) if sudo.isascii() and sudo.isdigit() else None


def _find_distrust_above(above: tuple[Entry, ...], trusted: set[int]) -> str:
    for entry in reversed(above):
        if stat.S_ISLNK(entry.status.st_mode):
            # The mode of a link has no meaning.
            why = _describe_owner(entry.status, trusted)
            name = f"the link {entry.path}"
        else:
            # In a sticky folder, a user can replace only their own files (unlink(2), EPERM).
            why = (
                _describe_owner(entry.status, trusted) if entry.is_shared else _describe_writable(entry.status, trusted)
            )
            name = f"its folder {entry.path}"
        if why:
            return f"{name} {why}"
    return ""


def _describe_owner(status: os.stat_result, trusted: set[int]) -> str:
    if status.st_uid in trusted:
        return ""
    return f"belongs to {find_user_name(status.st_uid)}, not to root or to the user behind sudo"


def _describe_writable(status: os.stat_result, trusted: set[int]) -> str:
    """Return who else may write a file or a folder; empty if no other user may."""
    if why := _describe_owner(status, trusted):
        return why
    if status.st_mode & stat.S_IWOTH:
        return "is writable by every user"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_uid, status.st_gid):
        return f"is writable by the group {_group(status.st_gid)}"
    return ""


def _is_own_group(uid: int, gid: int) -> bool:
    """True if a group is the user's own, and the user its only member."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    others = [one.pw_name for one in pwd.getpwall() if one.pw_gid == gid and one.pw_uid != uid]
    return user.pw_gid == gid and not others and set(group.gr_mem) <= {user.pw_name}


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
