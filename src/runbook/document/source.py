"""Opens a runbook's file one folder at a time, so that what is checked is what is read.

Each folder of the path is opened below the one before it, and each link is followed by hand. A folder that is renamed
or replaced meanwhile has no effect: the descriptors lead to what was checked.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import NamedTuple

from runbook.document.nodes import MAX_BYTES
from runbook.errors import UsageError
from runbook.util.wording import describe_error

MAX_FOLLOWED_LINKS = 40  # links that are followed, as by the kernel (path_resolution(7))
_FOLDER_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(NamedTuple):
    """A folder or a link that leads to a file."""

    path: str
    status: os.stat_result

    @property
    def is_shared(self) -> bool:
        """True if other users may put files into it, and may replace only their own: a sticky folder such as /tmp."""
        others = stat.S_IWGRP | stat.S_IWOTH
        return stat.S_ISDIR(self.status.st_mode) and bool(
            self.status.st_mode & stat.S_ISVTX and self.status.st_mode & others
        )


class Source(NamedTuple):
    """A file as it was read."""

    path: str  # its name on the command line; `-` is standard input
    data: bytes
    status: os.stat_result | None  # its owner and mode when it was read; None for standard input
    above: tuple[Entry, ...] = ()  # every folder and every link on the way to it, from `/` on

    @property
    def folder(self) -> Path:
        """The folder in which its commands start.

        In a sticky folder, files of other users can change what a command runs, and standard input has no folder.
        """
        folders = [entry for entry in self.above if stat.S_ISDIR(entry.status.st_mode)]
        if not folders:
            return Path("/")
        named = Path(self.path).absolute().parent
        ends = {os.path.realpath(named), folders[-1].path}  # That of the link, and that of the file.
        return Path("/") if any(entry.is_shared and entry.path in ends for entry in folders) else named


def read_source(path: str) -> Source:
    """Return a file, or standard input for `-`; at most MAX_BYTES + 1. Raises UsageError if it cannot be read."""
    try:
        if path == "-":
            return Source(path, sys.stdin.buffer.read(MAX_BYTES + 1), None)
        fd, above = _open_below_root(_make_absolute(path))
        with os.fdopen(fd, "rb") as file:
            return Source(path, file.read(MAX_BYTES + 1), os.fstat(file.fileno()), above)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL.
        raise UsageError(f"cannot read {path}: {describe_error(error)}") from error


def _make_absolute(path: str) -> Path:
    try:
        return Path(path).absolute()
    except FileNotFoundError:
        raise UsageError(f"cannot read {path}: the working directory does not exist any more") from None


def open_folder(path: Path) -> tuple[int, tuple[Entry, ...]]:
    """Open a folder; return its descriptor, and every folder and link on the way to it, and itself. Raises OSError."""
    return _open_below_root(path.absolute(), is_folder=True)


def _open_below_root(path: Path, *, is_folder: bool = False) -> tuple[int, tuple[Entry, ...]]:
    """Open a file or a folder; return its descriptor, and every folder and link on the way to it."""
    above: list[Entry] = []
    with contextlib.ExitStack() as opened:
        parts = list(reversed(path.parts[1:]))
        folders: list[tuple[int, str]] = []  # the open folders from `/` to the current one, without links

        def enter(fd: int, name: str) -> None:
            opened.callback(os.close, fd)
            folders.append((fd, name))
            above.append(Entry(name, os.fstat(fd)))

        enter(os.open("/", _FOLDER_FLAGS), "/")
        links = 0
        while parts:
            part = parts.pop()
            if part == "..":
                del folders[max(1, len(folders) - 1) :]
                continue
            below, name = folders[-1]
            here = os.path.join(name, part)  # noqa: PTH118 - a Path would drop `.` and is slower
            fd = os.open(part, _FOLDER_FLAGS, dir_fd=below)
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                enter(fd, here)
                continue
            opened.callback(os.close, fd)
            if not stat.S_ISLNK(status.st_mode):
                if parts or is_folder:
                    raise NotADirectoryError(20, os.strerror(20))
                # O_PATH opened exactly this file; a name could lead to another one by now.
                return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), tuple(above)
            target = os.readlink("", dir_fd=fd)
            links += 1
            if links > MAX_FOLLOWED_LINKS:
                raise OSError(40, os.strerror(40))
            above.append(Entry(here, status))
            if name.startswith("/proc/") and not target.startswith("/"):
                # A link to what has no path: the pipe of `runbook apply <(…)`.
                with contextlib.suppress(FileNotFoundError):
                    return os.open(part, os.O_RDONLY | os.O_CLOEXEC, dir_fd=below), tuple(above)
            if target.startswith("/"):
                del folders[1:]
            parts += [word for word in reversed(target.split("/")) if word not in ("", ".")]
        if not is_folder:
            raise IsADirectoryError(21, os.strerror(21))
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folders[-1][0]), tuple(above)
