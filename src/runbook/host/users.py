"""The names of users, by their numbers."""

from __future__ import annotations

import os
import pwd
from functools import cache, lru_cache
from pathlib import Path

USERS = Path("/etc/passwd")
"""Where the users of this machine stand; others may be known elsewhere (nsswitch.conf(5))."""


@cache
def name_of(uid: int) -> str:
    """Name a user; the number where nobody knows a name. May wait for a name server."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def listed(uid: int) -> str:
    """Name a user by USERS alone: whoever else knows names may take its time to answer."""
    try:
        with USERS.open("rb") as file:
            changed = os.fstat(file.fileno())
        name = _listed(changed.st_ino, changed.st_mtime_ns).get(uid)
    except (OSError, ValueError):  # A number may be too long for Python.
        name = None
    return name or f"UID {uid}"


@lru_cache(maxsize=1)
def _listed(_inode: int, _changed: int) -> dict[int, str]:
    users: dict[int, str] = {}
    with USERS.open("rb") as file:
        for line in file:
            name, _, rest = line.partition(b":")
            uid = rest.split(b":", 2)[1:2]
            if uid and uid[0].isdigit():
                users.setdefault(int(uid[0]), name.decode("utf-8", "backslashreplace"))
    return users
