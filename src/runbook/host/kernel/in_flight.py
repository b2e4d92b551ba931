# ruff: noqa: PTH115, PTH116 - pathlib is slow, and there are thousands of descriptors
"""Finds out whether a process is passing a socket to another: then no process has it in its descriptor table."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from runbook.errors import LookLimitExceeded
from runbook.host.kernel import processes
from runbook.host.kernel.look_limit import LookLimit

IN_FLIGHT_TIMEOUT = 0.5  # seconds for a look through the queues of all UNIX sockets
MAX_FDINFO = 4096  # bytes of the description of a descriptor


def has_sockets_in_flight() -> bool:
    """True if a UNIX socket has descriptors in its queue (SCM_RIGHTS), or if that cannot be found out in time.

    The queues of login users' processes do not count: a program of root's passes no socket to them, and they could
    keep this true for ever.
    """
    limit = LookLimit(IN_FLIGHT_TIMEOUT)
    try:
        return any(_has_queued_descriptors(pid, limit) for pid in processes.list_pids() if not _is_of_login_user(pid))
    except LookLimitExceeded:
        return True


def _has_queued_descriptors(pid: int, limit: LookLimit) -> bool:
    unless_gone = contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError)
    with unless_gone, os.scandir(f"/proc/{pid}/fd") as descriptors:
        return any(_is_queue(pid, descriptor.name, limit) for descriptor in descriptors)
    return False


def _is_queue(pid: int, descriptor: str, limit: LookLimit) -> bool:
    limit.check()
    with contextlib.suppress(FileNotFoundError):
        if os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith("socket:"):
            with Path(f"/proc/{pid}/fdinfo/{descriptor}").open("rb") as file:
                lines = file.read(MAX_FDINFO).splitlines()
            return any(line.startswith(b"scm_fds:") and int(line[8:]) for line in lines)
    return False


def _is_of_login_user(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if os.stat(f"/proc/{pid}").st_uid == 0:
            return False
    process = processes.read_process(pid)
    return process is not None and process.cgroup.startswith("/user.slice/")
