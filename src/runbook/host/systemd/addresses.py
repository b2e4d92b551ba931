"""Where the bus of each scope is, and the error if it is not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from runbook.errors import BusUnavailable
from runbook.host.kernel.accounts import find_user_name

ManagerScope = Literal["system", "user"]

_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_SYSTEM_PRIVATE = "unix:path=/run/systemd/private"
_LINGER = Path("/var/lib/systemd/linger")  # logind keeps a file here for each user with linger; every user can list it


class Endpoint(NamedTuple):
    """The address of a bus."""

    address: str
    peer: bool = False  # True if it is systemd's own socket, without a bus daemon and without names


def find_endpoints(scope: ManagerScope) -> tuple[Endpoint, ...]:
    """Return the addresses to try, in order: the bus first, because it survives a re-execution of systemd.

    Raises BusUnavailable if root would have to act in another user's manager.
    """
    if scope == "user":
        folder = find_runtime_folder()
        return Endpoint(f"unix:path={folder}/bus"), Endpoint(f"unix:path={folder}/systemd/private", peer=True)
    if address := os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"):
        return (Endpoint(address),)  # An address in the environment is the only one to try.
    bus = Endpoint(_SYSTEM_BUS)
    # Only for root; it works while dbus-daemon is down or not installed.
    return (bus, Endpoint(_SYSTEM_PRIVATE, peer=True)) if os.geteuid() == 0 else (bus,)


def find_runtime_folder() -> Path:
    """Return the user's runtime folder. Raises BusUnavailable if root would have to act as another user.

    Over SSH and sudo, XDG_RUNTIME_DIR is often unset, and `su` without a dash may leave that of another user.
    """
    uid = os.geteuid()
    own = Path(f"/run/user/{uid}")
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or own)
    owner = _owner(folder)
    if uid != 0:
        return own if folder.parent == own.parent or owner not in (uid, None) else folder
    # A folder that does not exist has no owner: then the user behind sudo counts.
    if other := int(os.environ.get("SUDO_UID", "0")) if owner is None else owner:
        name = find_user_name(other)
        raise BusUnavailable(
            f"cannot act on the user manager of {name} as root",
            hint=f"run it as that user: sudo -u {name} XDG_RUNTIME_DIR=/run/user/{other} runbook …",
        )
    return folder


def run_as_user_hint(name: str) -> str:
    """Return how root runs a runbook of a user's own units."""
    return f"run it as the owner of the units: su - {name} -c 'runbook …'"


def describe_no_linger(scope: ManagerScope) -> str:
    """Describe that the user's manager ends with the last login; empty if it does not (loginctl(1), enable-linger)."""
    name = find_user_name(os.geteuid())
    if scope == "system" or _owner(_LINGER / name) is not None:
        return ""
    return (
        f"the user manager of {name} ends with the last login, and all its services with it; "
        f"loginctl enable-linger {name} keeps them up"
    )


def make_unavailable(scope: ManagerScope, cause: str) -> BusUnavailable:
    """Make the error for a systemd that does not answer, with a hint that may help."""
    if scope == "user":
        name = find_user_name(os.geteuid())
        hint = f"without a login it runs only with linger: loginctl enable-linger {name}"
        # Root's own user manager is hardly ever meant.
        hint = hint if os.geteuid() else run_as_user_hint("USER")
        return BusUnavailable(f"cannot reach the user manager of {name}: {cause}", hint=hint)
    if Path("/run/systemd/system").is_dir():
        hint = "check that the bus runs: systemctl status dbus.socket"
        return BusUnavailable(f"cannot reach systemd: {cause}", hint=hint)
    return BusUnavailable(
        f"cannot reach systemd: it is not the init of this machine or container ({cause})",
        hint="run it where systemd is PID 1: on the host, or in a container that boots systemd",
    )


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None
