"""From whom a process descends."""

from __future__ import annotations

from collections.abc import Callable

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import Process
from runbook.host.kernel import protected

MAX_ANCESTORS = 64
"""A line of parents longer than this is not followed further."""


def find_ancestors(look: Callable[[int], Process | None], process: Process) -> list[Process]:
    """Give what a process descends from, nearest first, up to a manager: what lost its parent came to that.

    It ends also where people's logins begin: that two of them came from the same sshd makes that the starter of
    neither. `look` reads a process by its PID.
    """
    line: list[Process] = []
    below = process
    while len(line) < MAX_ANCESTORS and below.ppid > 1:
        up = look(below.ppid)
        # A parent is never younger than its child: this PID was its parent's, and is somebody else's now.
        if up is None or up.id.start > below.id.start or parse_cgroup_path(up.cgroup).kind is CgroupKind.MANAGER:
            break
        if protected.is_login_server(up):
            break
        line.append(up)
        below = up
    return line
