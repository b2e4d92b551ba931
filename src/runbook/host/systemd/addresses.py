"""Where the bus of each scope is, and what to say when it is not there."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runbook.errors import BusUnavailable

ManagerScope = Literal["system", "user"]

_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_SYSTEM_PRIVATE = "/run/systemd/private"
_LINGER = Path("/var/lib/systemd/linger")
"""Where logind keeps a file for each user who lingers, for everybody to see."""


@dataclass(frozen=True)
class Endpoint:
    """Where a bus is. `peer` is systemd's own socket, without a daemon and without names."""

    address: str
    peer: bool = False


def find_endpoints(scope: ManagerScope) -> tuple[Endpoint, ...]:
    """Give the places to try, in order: the bus first, for it outlives a re-execution of systemd.

    Raises BusUnavailable where root would have to reach into another user's manager.
    """
    if scope == "system":
        if address := os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"):
            return (Endpoint(address),)  # Whoever names a bus means this one and no other.
        bus = Endpoint(_SYSTEM_BUS)
        # Open to root alone; it works while dbus-daemon is down or not installed.
        return (bus, Endpoint(f"unix:path={_SYSTEM_PRIVATE}", peer=True)) if os.geteuid() == 0 else (bus,)
    folder = find_runtime_folder()
    return (
        Endpoint(f"unix:path={folder}/bus"),
        Endpoint(f"unix:path={folder}/systemd/private", peer=True),
    )


def find_runtime_folder() -> Path:
    """Give the user's runtime folder.

    Over SSH and sudo the variable that names it is often missing, and `su` without a dash may leave that of another.
    """
    uid = os.geteuid()
    own = Path(f"/run/user/{uid}")
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or own)
    if uid != 0 and (folder.parent == own.parent or _owner(folder) not in (uid, None)):
        return own
    if uid == 0 and (other := _other_user(folder)) is not None:
        name, number = other
        raise BusUnavailable(
            f"cannot act on the user manager of {name} as root",
            hint=f"run it as that user: sudo -u {name} XDG_RUNTIME_DIR=/run/user/{number} runbook …",
        )
    return folder


def run_as_user_hint(name: str) -> str:
    """Say how root runs a runbook of a user's own units."""
    return f"run it as the owner of the units: su - {name} -c 'runbook …'"


def describe_no_linger(scope: ManagerScope) -> str:
    """Say that the user's manager will end with the last login, or nothing (loginctl(1), enable-linger)."""
    name = _name(os.geteuid())
    if scope == "system" or _owner(_LINGER / name) is not None:
        return ""
    return (
        f"the user manager of {name} ends with the last login, and all its services with it; "
        f"loginctl enable-linger {name} keeps them up"
    )


def make_unavailable(scope: ManagerScope, cause: str) -> BusUnavailable:
    """Say in words that no systemd answers, and what may help."""
    if scope == "user":
        name = _name(os.geteuid())
        hint = f"without a login it runs only with linger: loginctl enable-linger {name}"
        if os.geteuid() == 0:
            # Hardly anybody means root's own.
            hint = run_as_user_hint("USER")
        return BusUnavailable(f"cannot reach the user manager of {name}: {cause}", hint=hint)
    if Path("/run/systemd/system").is_dir():
        return BusUnavailable(
            f"cannot reach systemd: {cause}", hint="see whether the bus runs: systemctl status dbus.socket"
        )
    return BusUnavailable(
        f"cannot reach systemd: it is not the init of this machine or container ({cause})",
        hint="run it where systemd is PID 1: on the host, or in a container that boots systemd",
    )


def _other_user(folder: Path) -> tuple[str, int] | None:
    """Give the user whose manager root would reach into: the folder's owner, or whoever called sudo."""
    owner = _owner(folder)
    if owner is None:
        owner = int(os.environ.get("SUDO_UID", "0"))
    return (_name(owner), owner) if owner else None


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
