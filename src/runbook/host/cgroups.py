"""From the path of a cgroup to what systemd, or a container engine, calls it.

Pure: nothing here looks at the machine. The rules are systemd's own (src/basic/cgroup-util.c: skip the slices, then
the user's manager or the login's session, then the slices again; the first name that is left is the unit, and what
comes below it are sub-groups that the unit made for itself).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import dropwhile


class Kind(StrEnum):
    """What a cgroup belongs to.

    A socket, mount or swap unit counts as SERVICE: it has processes only while systemd runs a command for it.
    """

    SERVICE = "service"
    SCOPE = "scope"
    SESSION = "session"
    MANAGER = "manager"
    SLICE = "slice"
    NONE = "none"


@dataclass(frozen=True)
class Place:
    """Where a cgroup is, in systemd's words.

    `unit` is the unit's name with its escapes (`\\x2d`) as systemd writes it, empty where no unit is. `user_uid` is
    the user whose manager has the unit, None for the system's manager. `container` says that the cgroup is a
    container's or a virtual machine's, or its keeper's on the host; `machine` is its name or the start of its id.
    """

    kind: Kind
    unit: str = ""
    user_uid: int | None = None
    container: bool = False
    machine: str = ""


_UNIT = re.compile(r"[\w:.\\@-]+\.(service|scope|slice|socket|mount|swap|automount|device|path|timer|target)", re.A)
_USER_MANAGER = re.compile(r"user@(\d+)\.service", re.A)
_SESSION = re.compile(r"session-.+\.scope")

# 64 hex digits are how docker, podman, containerd and cri-o name a container: docker-ID.scope, libpod-ID.scope,
# libpod-conmon-ID.scope, cri-containerd-ID.scope, crio-ID, kubepods/…/ID, ecs/TASK/ID.
_CONTAINER_ID = re.compile(r"(?:.*[-:])?([0-9a-f]{64})(?:\.scope)?")
# machined's machines: systemd-nspawn --machine, libvirt's `machine-qemu\x2d1\x2dNAME.scope`.
_MACHINE = re.compile(r"machine-(.+)\.scope|systemd-(?:nsp|vmsp)awn@(.+)\.service")
# LXC, LXD and Incus: lxc/NAME, lxc.payload/NAME, lxc.payload.NAME; lxc.monitor.NAME is its keeper.
_LXC = re.compile(r"lxc(?:\.payload|\.monitor)?(?:\.(.+))?")
_ENGINES = ("docker", "kubepods", "libpod_parent", "ecs", "garden", "actions_job")
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


def unit_of(cgroup: str) -> Place:
    """Give the place of a cgroup path, as /proc/PID/cgroup shows it."""
    names = [name for name in cgroup.removesuffix(" (deleted)").split("/") if name]
    kind, unit, uid = _unit(names)
    machine = _machine(names)
    if machine is None:
        return Place(kind, unit, uid)
    if kind is Kind.MANAGER and unit == "init.scope":
        kind = Kind.NONE
    return Place(kind, unit, uid, container=True, machine=machine)


def _unit(names: list[str]) -> tuple[Kind, str, int | None]:
    if names == ["init.scope"]:
        return Kind.MANAGER, "init.scope", None
    below = _skip_slices(names)
    if not below or not _UNIT.fullmatch(_plain(below[0])):
        last = names[len(names) - len(below) - 1] if len(below) < len(names) else ""
        return (Kind.SLICE, last, None) if last else (Kind.NONE, "", None)
    unit = _plain(below[0])
    manager = _USER_MANAGER.fullmatch(unit)
    if manager:
        return _user_unit(unit, int(manager[1]), below[1:])
    if _SESSION.fullmatch(unit):
        return Kind.SESSION, unit, None
    return (Kind.SCOPE if unit.endswith(".scope") else Kind.SERVICE), unit, None


def _user_unit(manager: str, uid: int, names: list[str]) -> tuple[Kind, str, int]:
    """Give the unit below a user's manager. The manager itself is in init.scope, before systemd 226 in no sub-group."""
    below = _skip_slices(names)
    if not names or names[0] == "init.scope":
        return Kind.MANAGER, manager, uid
    if not below or not _UNIT.fullmatch(_plain(below[0])):
        return Kind.SLICE, names[len(names) - len(below) - 1] if len(below) < len(names) else manager, uid
    unit = _plain(below[0])
    return (Kind.SCOPE if unit.endswith(".scope") else Kind.SERVICE), unit, uid


def _skip_slices(names: list[str]) -> list[str]:
    return list(dropwhile(lambda name: _plain(name).endswith(".slice"), names))


def _plain(name: str) -> str:
    """Take away the `_` which systemd puts before a name that the kernel would take for a file of its own."""
    return name.removeprefix("_")


def _machine(names: list[str]) -> str | None:
    """Name the container that the path leads through, if it does; empty where only the engine is known."""
    found: str | None = None
    for at, name in enumerate(names):
        if match := _CONTAINER_ID.fullmatch(name):
            found = match[1][:12]
        elif match := _MACHINE.fullmatch(name):
            if names[at + 1 : at + 2] != ["supervisor"]:
                found = _unescape(match[1] or match[2])
        elif match := _LXC.fullmatch(name):
            found = match[1] or "".join(names[at + 1 : at + 2])
        elif name == ".." or name.split(".")[0].split("-")[0] in _ENGINES and not name.endswith(".service"):
            # `..` leads out of our own cgroup namespace: into what is a container, or the host, to us.
            found = found or ""
    return found


def _unescape(name: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
