# ruff: noqa: PTH115, PTH208 - pathlib has no fast way to read many links
"""Finds the log files that a process writes to, by its descriptors.

Links are read, never followed: a stat(2) through a descriptor on a dead NFS mount would hang.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from runbook.host.kernel.look_limit import LookLimit
from runbook.util.log_names import is_log_name, may_be_log

MAX_LINKS_READ = 512  # how many descriptors of a process are read
WRITABLE = 0o200  # in the mode of the link: the descriptor is open for writing
OUTPUTS = ("1", "2")  # the descriptors of stdout and stderr


def find_open_logs(pid: int, limit: LookLimit) -> list[str]:
    """Return the log files that a process has open; none if that cannot be read. Raises LookLimitExceeded."""
    limit.check()
    with contextlib.suppress(OSError):
        return list(dict.fromkeys(_list_logs(pid)))
    return []


def _list_logs(pid: int) -> Iterator[str]:
    numbers = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
    for number in numbers[:MAX_LINKS_READ]:
        link = f"/proc/{pid}/fd/{number}"
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(link)
            is_log = may_be_log(path) if number in OUTPUTS else is_log_name(path)
            if is_log and os.lstat(link).st_mode & WRITABLE:
                yield path
