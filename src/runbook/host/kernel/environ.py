"""Parses /proc/PID/environ (proc(5)): the INVOCATION_ID of a process, and the names of its variables.

Programs that write their title over their environment (setproctitle) leave pieces of it behind. So an entry counts
whole, or not at all.
"""

from __future__ import annotations

import re

MAX_NAMES = 1000  # how many names are returned at most

_INVOCATION = re.compile(rb"\0INVOCATION_ID=([0-9a-f]{32})(?=\0)")
_ENTRY = re.compile(rb"([A-Za-z_][A-Za-z0-9_]*)=")


def cut(environ: bytes, most: int) -> bytes:
    """Return the entries that end within the first `most` bytes."""
    return environ if len(environ) <= most else environ[: environ.rfind(b"\0", 0, most) + 1]


def parse_invocation_id(environ: bytes) -> str:
    """Return the INVOCATION_ID of an environment; empty unless there is exactly one, and it is well-formed."""
    # Searched, not split: the environment may have 100,000 entries.
    ids = set(_INVOCATION.findall(b"\0%s\0" % environ))
    return ids.pop().decode("ascii") if len(ids) == 1 else ""


def parse_names(environ: bytes) -> tuple[str, ...]:
    """Return the names of the variables, and never a piece of a value.

    An entry after a malformed one may be the rest of an overwritten entry: the end of a secret, with an `=` in it. So
    the list ends at the first malformed entry.
    """
    names = []
    for entry in environ.rstrip(b"\0").split(b"\0", MAX_NAMES)[:MAX_NAMES]:
        match = _ENTRY.match(entry)
        if match is None:
            break
        names.append(match[1].decode("ascii"))
    return tuple(names)
