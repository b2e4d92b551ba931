"""Finds which files a process executes that were removed or replaced since it began: by its program and its mappings.

The kernel marks the path of a file whose name is gone with " (deleted)". A package manager gives the name to the new
file, and the process goes on with the old one. Only mappings that can be executed count, and only those of programs and
libraries: a process may map a temporary file, shared memory or code of its own (JIT), and remove the name at once.
"""

from __future__ import annotations

import os
import re

from runbook.host.holders import DELETED
from runbook.host.kernel.process_memory import read_memory
from runbook.host.kernel.processes import open_process
from runbook.model import ProcessId

MAX_MAPS = 4 * 1024 * 1024  # bytes of /proc/PID/maps that are read; a program with 100 libraries has 50,000

_MAPPING = re.compile(rb"^\S+ ..x. \S+ \S+ [1-9]\d* +(/.*) \(deleted\)$", re.MULTILINE)
_LIBRARY = re.compile(r"\.(?:so|node)(?:\.[\w.+-]+)?")  # in the name of a library; Node.js loads the latter
_NO_FILE = re.compile(r"/(?:dev|proc|run|tmp|var/run|var/tmp)/|/memfd:|/SYSV|/\[")
"""What the paths begin with of mappings that are shared memory, or files that were made to be removed."""


def find_replaced_files(process: ProcessId) -> tuple[str, ...] | None:
    """Return the program and the libraries of a process that were removed or replaced since; None if unreadable."""
    with open_process(process) as folder:
        if folder is None:
            return ()
        try:
            program = _text(os.readlink(b"exe", dir_fd=folder))
        except FileNotFoundError:
            return ()  # A thread of the kernel, or a zombie.
        except OSError:
            return None
        (maps,) = read_memory(process, folder, (("maps", MAX_MAPS),)) or (b"",)
    if not maps:
        return None
    own = [program.removesuffix(DELETED)] if program.endswith(DELETED) and not _NO_FILE.match(program) else []
    return tuple(dict.fromkeys((*own, *filter(_is_library, map(_text, _MAPPING.findall(maps))))))


def _is_library(path: str) -> bool:
    return not _NO_FILE.match(path) and _LIBRARY.search(path.rpartition("/")[2]) is not None


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
