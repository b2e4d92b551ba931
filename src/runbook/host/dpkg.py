"""Finds which packages of Debian were installed or upgraded lately, and which of some files are theirs.

dpkg writes the list of a package's files anew at each installation, in /var/lib/dpkg/info. The files themselves keep
the time at which the package was built.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

INFO = Path("/var/lib/dpkg/info")
MAX_LIST = 1024 * 1024  # bytes of a list; longer ones are of headers and documentation
MAX_LISTS = 5000  # lists that are looked at


class Installation(NamedTuple):
    """When a package was installed or upgraded last."""

    package: str
    at: float  # seconds since the epoch


def find_installations(files: Collection[str], since: float, info: Path = INFO) -> dict[str, Installation]:
    """Return the packages of those files whose package was installed after a time, by file."""
    found: dict[str, Installation] = {}
    for path, at in _list_installed(info, since) if files else ():
        listed = _read_list(path)
        package = path.stem.partition(":")[0]
        found |= {file: Installation(package, at) for file in files if not listed.isdisjoint(_spellings(file))}
    return found


def _list_installed(info: Path, since: float) -> Iterator[tuple[Path, float]]:
    """Yield the lists of the packages that were installed after a time, and when each was."""
    with contextlib.suppress(OSError), os.scandir(info) as entries:
        lists = (entry for entry in entries if entry.name.endswith(".list"))
        for entry in itertools.islice(lists, MAX_LISTS):
            status = entry.stat()
            if status.st_mtime > since and status.st_size <= MAX_LIST:
                yield Path(entry.path), status.st_mtime


def _read_list(path: Path) -> frozenset[bytes]:
    try:
        return frozenset(path.read_bytes().split(b"\n"))
    except OSError:
        return frozenset()


def _spellings(file: str) -> tuple[bytes, ...]:
    """Return the paths under which dpkg may list a file: /bin is a link to /usr/bin."""
    path = os.fsencode(file)
    return (path, path.removeprefix(b"/usr") if path.startswith(b"/usr/") else b"/usr" + path)
