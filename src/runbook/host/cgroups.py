"""Parses the path of a cgroup into what systemd, or a container engine, calls it.

Pure: nothing here reads the machine. The rules are systemd's own (src/basic/cgroup-util.c): skip the slices, then the
user's manager, then the slices again. The first name that is left is the unit. Names below it are sub-groups that the
unit created for itself.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from itertools import dropwhile
from typing import NamedTuple


class CgroupKind(StrEnum):
    """What a cgroup belongs to.

    A socket, mount or swap unit counts as SERVICE: it has processes only while systemd runs a command for it.
    """

    SERVICE = "service"
    SCOPE = "scope"
    SESSION = "session"
    MANAGER = "manager"
    SLICE = "slice"
    NONE = "none"


class CgroupUnit(NamedTuple):
    """Where a cgroup is, in systemd's words."""

    kind: CgroupKind
    unit: str = ""  # its name with the escapes (`\x2d`), as systemd writes it; empty if there is no unit
    user_uid: int | None = None  # the user whose manager has the unit; None for the system's manager
    container: bool = False  # True for a container or virtual machine, and for its keeper on the host
    machine: str = ""  # the container's name or the start of its id; may be empty


_UNIT = re.compile(r"[\w:.\\@-]+\.(?:service|scope|socket|mount|swap)", re.ASCII)
_USER_MANAGER = re.compile(r"user@(\d+)\.service", re.ASCII)
_SESSION = re.compile(r"session-.+\.scope")

# 64 hex digits: docker, podman, containerd and cri-o name containers so: docker-ID.scope,
# libpod-ID.scope, libpod-conmon-ID.scope, cri-containerd-ID.scope, crio-ID, kubepods/…/ID, ecs/TASK/ID.
_CONTAINER_ID = re.compile(r"(?:.*[-:])?([0-9a-f]{64})(?:\.scope)?")
# Where engines put containers without such an id.
_ENGINE = re.compile(r"docker|libpod_parent|ecs|garden|actions_job|kubepods(?:-.+)?(?:\.slice)?")
# LXC, LXD and Incus: lxc/NAME, lxc.payload/NAME, lxc.payload.NAME; lxc.monitor.NAME is its keeper.
_LXC = re.compile(r"lxc|lxc\.(?:payload|monitor)(?:\.(.+))?")
# systemd-nspawn, systemd-vmspawn, and libvirt's `machine-qemu\x2d1\x2dNAME.scope`.
_SPAWNED = re.compile(r"systemd-(?:nspawn|vmspawn)@(.+)\.service")
_MACHINE_SLICE = re.compile(r"machine(?:-.+)?\.slice")
_MACHINE_SCOPE = re.compile(r"(?:machine-)?(.+)\.scope")
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


@lru_cache(maxsize=256)  # The processes of a cgroup have the same path, and each of them is read many times.
def parse_cgroup_path(cgroup: str) -> CgroupUnit:
    """Parse a cgroup path, as /proc/PID/cgroup shows it."""
    # systemd puts a `_` before a name that would collide with a file of the kernel.
    names = [name.removeprefix("_") for name in cgroup.removesuffix(" (deleted)").split("/") if name]
    kind, unit, uid = _unit(names)
    machine = _machine(names)
    return CgroupUnit(kind, unit, uid, container=machine is not None, machine=machine or "")


def _unit(names: list[str]) -> tuple[CgroupKind, str, int | None]:
    if names == ["init.scope"]:
        return CgroupKind.MANAGER, "init.scope", None
    slices, below = _split_slices(names)
    manager = _USER_MANAGER.fullmatch(below[0]) if below else None
    if manager is None:
        return (*_lowest(slices, below), None)
    if below[1:2] in ([], ["init.scope"]):
        return CgroupKind.MANAGER, below[0], int(manager[1])
    slices, below = _split_slices(below[1:])
    return (*_lowest(slices, below), int(manager[1]))


def _lowest(slices: list[str], below: list[str]) -> tuple[CgroupKind, str]:
    if below and _UNIT.fullmatch(below[0]):
        if _SESSION.fullmatch(below[0]):
            return CgroupKind.SESSION, below[0]
        return (CgroupKind.SCOPE if below[0].endswith(".scope") else CgroupKind.SERVICE), below[0]
    return (CgroupKind.SLICE, slices[-1]) if slices else (CgroupKind.NONE, "")


def _split_slices(names: list[str]) -> tuple[list[str], list[str]]:
    below = list(dropwhile(lambda name: name.endswith(".slice"), names))
    return names[: len(names) - len(below)], below


def _machine(names: list[str]) -> str | None:
    """Return the innermost container on the path: empty if it has no name, None if there is none."""
    found: str | None = None
    for at, name in enumerate(names):
        after = names[at + 1] if at + 1 < len(names) else ""
        if match := _CONTAINER_ID.fullmatch(name):
            found = match[1][:12]
        elif match := _SPAWNED.fullmatch(name):
            # Its keeper is a process of the host, but the machine ends with it.
            found = _unescape(match[1])
        elif match := _LXC.fullmatch(name):
            found = match[1] or after
        elif _MACHINE_SLICE.fullmatch(name) and (match := _MACHINE_SCOPE.fullmatch(after)):
            found = _unescape(match[1])
        elif name == ".." or _ENGINE.fullmatch(name):
            # `..` leads out of our own cgroup namespace, into another container or the host.
            found = found or ""
    return found


def _unescape(name: str) -> str:
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
    return plain.encode("latin-1", "replace").decode("utf-8", "replace")
