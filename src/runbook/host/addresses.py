"""Where the bus of each scope is, and what to say when it is not there."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runbook.errors import BusUnavailable

Scope = Literal["system", "user"]

_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_SYSTEM_PRIVATE = "/run/systemd/private"


@dataclass(frozen=True)
class Endpoint:
    """Where a bus is. `peer` is systemd's own socket, without a daemon and without names."""

    address: str
    peer: bool = False


def endpoints(scope: Scope) -> tuple[Endpoint, ...]:
    """Give the places to try, in order: the bus first, for it outlives a re-execution of systemd.

    Raises BusUnavailable where root would have to reach into another user's manager.
    """
    if scope == "system":
        if address := os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"):
            return (Endpoint(address),)  # Whoever names a bus means this one and no other.
        bus = Endpoint(_SYSTEM_BUS)
        # Open to root alone; it works while dbus-daemon is down or not installed.
        return (bus, Endpoint(f"unix:path={_SYSTEM_PRIVATE}", peer=True)) if os.geteuid() == 0 else (bus,)
    folder = runtime_folder()
    return (
        Endpoint(f"unix:path={folder}/bus"),
        Endpoint(f"unix:path={folder}/systemd/private", peer=True),
    )


def runtime_folder() -> Path:
    """Give the user's runtime folder; over SSH and sudo the variable that names it is often missing."""
    uid = os.geteuid()
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    if uid == 0 and (other := _other_user(folder)) is not None:
        name, number = other
        raise BusUnavailable(
            f"cannot act on the user manager of {name} as root",
            hint=f"run it as that user: sudo -u {name} XDG_RUNTIME_DIR=/run/user/{number} runbook …",
        )
    return folder


def unavailable(scope: Scope, cause: str) -> BusUnavailable:
    """Say in words that no systemd answers, and what may help."""
    if scope == "user":
        name = _name(os.geteuid())
        return BusUnavailable(
            f"cannot reach the user manager of {name}: {cause}",
            hint=f"without a login it runs only with linger: loginctl enable-linger {name}",
        )
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
    try:
        owner = folder.stat().st_uid
    except OSError:
        owner = int(os.environ.get("SUDO_UID", "0"))
    return (_name(owner), owner) if owner else None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
