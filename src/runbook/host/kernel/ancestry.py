"""The ancestors of a process."""

from __future__ import annotations

from collections.abc import Callable

from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import Process
from runbook.host.kernel import protected
from runbook.host.requesters import is_interactive_shell

MAX_ANCESTORS = 64  # A longer line of parents is not followed further


def find_ancestors(read: Callable[[int], Process | None], process: Process) -> list[Process]:
    """Return the ancestors of a process, nearest first, up to a manager, which adopts processes without a parent.

    It also ends at a login server: that two logins came from the same sshd makes it the starter of neither. `read`
    reads a process by its PID.
    """
    line: list[Process] = []
    below = process
    while len(line) < MAX_ANCESTORS and below.ppid > 1:
        up = read(below.ppid)
        # A parent is never younger than its child: if it is, the parent has exited and its PID was reused.
        if up is None or up.id.start > below.id.start or parse_cgroup_path(up.cgroup).kind is CgroupKind.MANAGER:
            break
        if protected.is_login_server(up):
            break
        line.append(up)
        below = up
    return line


def is_typed_into(process: Process) -> bool:
    """True if a process is a shell in a terminal. Without one, a shell may run a script from its standard input.

    A CI runner starts its jobs so: `su - USER <SCRIPT`.
    """
    return process.has_terminal and is_interactive_shell(process.name, process.command)
