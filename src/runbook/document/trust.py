"""Whether root may run a file: its commands run as root, so no other user may be able to write it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from runbook.host.kernel.accounts import find_user_name
from runbook.util.wording import describe_error


def find_distrust(path: str, status: os.stat_result, *, euid: int, sudo_uid: int | None) -> str:
    """Return why root should not run the file at `path`; empty if it may, and for every other user.

    `status` is that of the file that was read. It must belong to root or to the user behind sudo, and neither it nor
    its folder may be writable by others; a sticky folder is accepted. If `path` is a link, the link's folder is
    checked as well.
    """
    if euid != 0:
        return ""
    trusted = {0} if sudo_uid is None else {0, sudo_uid}
    if why := _describe_writable(status, trusted):
        return f"{path} {why}"
    named, real = Path(path).absolute().parent, Path(path).resolve().parent
    for folder in dict.fromkeys((named, real)):
        try:
            found = folder.stat()
        except OSError as error:
            return f"its folder {folder} cannot be read: {describe_error(error)}"
        # In a sticky folder, a user can replace only their own files (unlink(2), EPERM).
        if not found.st_mode & stat.S_ISVTX and (why := _describe_writable(found, trusted)):
            return f"its folder {folder} {why}"
    return ""


def _describe_writable(status: os.stat_result, trusted: set[int]) -> str:
    """Return who else may write a file or a folder; empty if no other user may."""
    if status.st_uid not in trusted:
        return f"belongs to {find_user_name(status.st_uid)}, not to root or to the user behind sudo"
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
