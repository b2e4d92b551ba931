"""Recognise log files by their names."""

from __future__ import annotations

import re

_LOG = re.compile(r"/logs?/|\.(log|err|out)$|[-_./](error|access)[-_.]?log$", re.IGNORECASE)
_FILE = re.compile(r"\.(log|err|out)$", re.IGNORECASE)
_NO_LOG = re.compile(r"/\d+\.log$|^/(dev|proc|sys|memfd:)|\.(pid|lock|db|sock)$|[^!-~]|^[^/]")
"""Of databases, which call parts of their data so; devices; and names that would read like words of a command."""


def is_log_name(path: str) -> bool:
    """True if an open file with this path is a log: `/var/log/nginx/error.log`."""
    return _LOG.search(path) is not None and may_be_log(path)


def is_log_file_name(path: str) -> bool:
    """True if a path in a command line names a log file: `/var/log/nginx` may be a folder."""
    return _FILE.search(path) is not None and may_be_log(path)


def may_be_log(path: str) -> bool:
    """True unless a path is certainly not that of a log, or cannot be shown."""
    return _NO_LOG.search(path) is None
