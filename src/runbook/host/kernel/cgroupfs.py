# ruff: noqa: PTH123 - pathlib is slow in each check of a wait
"""Reads the cgroups of systemd's hierarchy (cgroups(7)): which processes are in them, and whether they are frozen.

A path is as in a unit's ControlGroup. Nothing here raises for a cgroup that is gone.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

from runbook.host.kernel.look_limit import LookLimit

CGROUP_ROOT = Path("/sys/fs/cgroup")


@cache
def find_cgroup_mount() -> Path:
    """Return where systemd's hierarchy is mounted, by systemd's own rules (cgroup-util.c, cg_unified_cached)."""
    mounts = (CGROUP_ROOT, CGROUP_ROOT / "unified")
    return next((mount for mount in mounts if (mount / "cgroup.controllers").exists()), CGROUP_ROOT / "systemd")


@cache
def is_unified() -> bool:
    """True if systemd uses cgroup v2, as it does on hybrid machines too (since systemd 233)."""
    return (find_cgroup_mount() / "cgroup.controllers").exists()


def read_cgroup_procs(path: str, limit: LookLimit | None = None) -> tuple[int, ...]:
    """Return the PIDs of a cgroup and all below it; `path` as in a unit's ControlGroup. Empty if it is gone.

    The kernel lists a process of an outer PID namespace as 0. Raises LookLimitExceeded.
    """
    limit = limit or LookLimit()
    pids: set[int] = set()
    folders = [f"{find_cgroup_mount()}/{path.lstrip('/')}"]
    # Not os.walk(), which calls itself for each level: the unit's own user may make thousands (Delegate=).
    while folders:
        limit.check()
        folder = folders.pop()
        # OSError: the group was removed, or is threaded (EOPNOTSUPP); its domain lists its processes.
        with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", "rb") as file:
            pids.update(map(int, file.read().split()))
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return tuple(sorted(pids))


def list_cgroup_pids(path: str, limit: LookLimit | None = None) -> tuple[int, ...]:
    """Return the PIDs of a cgroup and all below it, as far as they are in this PID namespace."""
    return tuple(pid for pid in read_cgroup_procs(path, limit) if pid)


def find_cgroup(number: int, limit: LookLimit) -> str:
    """Return the path of the cgroup with this id, the inode number of its folder; empty if it was removed."""
    mount = find_cgroup_mount()
    for folder, _folders, _files in os.walk(mount):
        limit.check()
        if _read_id(Path(folder)) == number:
            return folder.removeprefix(str(mount)) or "/"
    return ""


def is_inside(path: str, number: int) -> bool:
    """True if the cgroup with this id is the one at `path`, or one above it."""
    mount = find_cgroup_mount()
    folder = mount / path.lstrip("/")
    return any(_read_id(one) == number for one in (folder, *folder.parents) if one.is_relative_to(mount))


def _read_id(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return folder.stat().st_ino
    return 0


def is_populated(path: str) -> bool:
    """True if a cgroup, or one below it, has a process. The kernel also counts processes that exit in a moment."""
    value = read_cgroup_event(path, "populated")
    return bool(list_cgroup_pids(path)) if value is None else value


def read_cgroup_event(path: str, name: str) -> bool | None:
    """Return a value of cgroup.events, `populated` or `frozen` (cgroups(7)); None if it cannot be read."""
    with contextlib.suppress(OSError):
        return f"{name} 1" in (find_cgroup_mount() / path.lstrip("/") / "cgroup.events").read_text("ascii")
    return None
