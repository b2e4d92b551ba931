"""Whether root may run a file: commands in it run as root, so nobody else may be able to write it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def find_distrust(path: str, status: os.stat_result, *, euid: int, sudo_uid: int | None) -> str:
    """Say why root should not run the file at `path`, or nothing; for anybody else, nothing.

    `status` is that of the file that was read. It must belong to root or to the user behind sudo, and neither it
    nor its folder may be writable by others; a sticky folder will do. Where `path` is a link, the link's folder
    counts as well.
    """
    if euid != 0:
        return ""
    trusted = {0} if sudo_uid is None else {0, sudo_uid}
    if why := _describe_writable(status, trusted):
        return f"{path} {why}"
    named, real = Path(path).absolute().parent, Path(path).resolve().parent
    for folder in dict.fromkeys((named, real)):
        try:
            kept = folder.stat()
        except OSError as error:
            return f"its folder {folder} cannot be looked at: {error.strerror}"
        # In a sticky folder nobody can replace what is not his own (unlink(2), EPERM).
        if not kept.st_mode & stat.S_ISVTX and (why := _describe_writable(kept, trusted)):
            return f"its folder {folder} {why}"
    return ""


def _describe_writable(status: os.stat_result, trusted: set[int]) -> str:
    """Say who else may write a file or a folder, or nothing."""
    if status.st_uid not in trusted:
        return f"belongs to {_user(status.st_uid)}, not to root or to the user behind sudo"
    if status.st_mode & stat.S_IWOTH:
        return "may be written by everybody"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_uid, status.st_gid):
        return f"may be written by the group {_group(status.st_gid)}"
    return ""


def _is_own_group(uid: int, gid: int) -> bool:
    """Whether a group is the user's own, with nobody else in it."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    others = [one.pw_name for one in pwd.getpwall() if one.pw_gid == gid and one.pw_uid != uid]
    return user.pw_gid == gid and not others and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
