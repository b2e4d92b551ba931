"""Parses /proc/PID/environ (proc(5)): the INVOCATION_ID of a process, and the names of its variables.

Programs that write their title over their environment (setproctitle) leave pieces of it behind. So an entry counts
whole, or not at all.
"""

from __future__ import annotations

import re

_INVOCATION = re.compile(rb"INVOCATION_ID=([0-9a-f]{32})")
_ENTRY = re.compile(rb"([A-Za-z_][A-Za-z0-9_]*)=")


def parse_invocation_id(environ: bytes) -> str:
    """Return the INVOCATION_ID of an environment; empty unless there is exactly one, and it is well-formed."""
    found = {match[1] for entry in environ.split(b"\0") if (match := _INVOCATION.fullmatch(entry))}
    return found.pop().decode("ascii") if len(found) == 1 else ""


def parse_names(environ: bytes) -> tuple[str, ...]:
    """Return the names of the variables, and never a piece of a value.

    An entry after a malformed one may be the rest of an overwritten entry: the end of a secret, with an `=` in it. So
    the list ends at the first malformed entry.
    """
    found = []
    for entry in environ.rstrip(b"\0").split(b"\0"):
        match = _ENTRY.match(entry)
        if match is None:
            break
        found.append(match[1].decode("ascii"))
    return tuple(found)
