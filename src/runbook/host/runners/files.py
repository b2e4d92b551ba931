"""When files changed last, by the one time that no program can set: the inode's last change (inode(7), ctime).

A file's mtime is when its content was made: npm, tar, apt and rsync copy it from the source, and rename(2) keeps it.
Its ctime is when the file came to this place.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
import time
from collections import deque
from collections.abc import Iterator

from runbook.errors import HostError
from runbook.host.queries import Answer, FileChange
from runbook.util.wording import describe_error

TICK_NS = 20_000_000  # nanoseconds by which two times of files may differ that one rename(2) sets
MAX_LINKS = 40  # how many symbolic links may lead to a file, as in the kernel (path_resolution(7))
CACHE_FOLDER = "__pycache__"  # is left out: Python writes its caches while it runs, so they are newer than any process


class FileScan:
    """Looks at files and folders until a moment of CLOCK_MONOTONIC; another thread may abort it."""

    def __init__(self, paths: tuple[str, ...], until: float) -> None:
        self._paths = paths
        self._until = until
        self._aborted = False
        self._files = 0
        self._path = ""
        self._changed_ns = 0

    def abort(self) -> None:
        """End the scan. May be called at any moment."""
        self._aborted = True

    def run(self) -> Answer[FileChange]:
        """Return the latest change. Raises HostError if a file is missing or cannot be read, or the time is over."""
        try:
            for named in self._paths:
                before = self._files
                for path in _expand(named):
                    self._scan(path)
                # A pattern without a match, or an empty folder: its age proves nothing.
                if self._files == before:
                    raise HostError(f"there is no file {named}")
        except OSError as error:
            raise HostError(f"cannot look at {_decode(error.filename or '')}: {describe_error(error)}") from None
        return Answer(True, "", FileChange(_decode(self._path), self._changed_ns / 1e9, self._files))

    def _scan(self, path: str) -> None:
        """Record every link and folder on the way to a path, then everything below it."""
        with contextlib.suppress(FileNotFoundError):
            real, status = self._follow(path)
            if stat.S_ISDIR(status.st_mode):
                self._scan_folder(real)

    def _follow(self, path: str) -> tuple[str, os.stat_result]:
        """Return where a path leads to. A link that was replaced brings other code, however old that code is."""
        here, links = "/", 0
        parts = deque(path.split("/"))
        while parts:
            part = parts.popleft()
            if part == "..":
                here = os.path.dirname(here)  # noqa: PTH120 - a folder's path as text; pathlib is slow here
            elif part not in ("", "."):
                there = os.path.join(here, part)  # noqa: PTH118
                status = os.lstat(there)
                self._record(there, status)
                if not stat.S_ISLNK(status.st_mode):
                    here = there
                    continue
                links += 1
                if links > MAX_LINKS:
                    raise OSError(f"too many links: {path}")
                target = os.readlink(there)  # noqa: PTH115
                here = "/" if target.startswith("/") else here
                parts.extendleft(reversed(target.split("/")))
        return here, os.lstat(here)

    def _scan_folder(self, folder: str) -> None:
        """Record everything in a folder. Links to folders are not followed; a target in it is recorded anyway."""
        folders = [folder]
        while folders:
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    self._entry(entry, folders)

    def _entry(self, entry: os.DirEntry[str], folders: list[str]) -> None:
        if entry.name == CACHE_FOLDER:
            return
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            self._record(entry.path, entry.stat(follow_symlinks=False))
            if entry.is_symlink() and entry.is_file():
                self._record(entry.path, entry.stat())
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)

    def _record(self, path: str, status: os.stat_result) -> None:
        self._check_time()
        if stat.S_ISDIR(status.st_mode):
            # A folder whose entries changed has equal mtime and ctime. It does not count: the new entry is recorded
            # itself, or is a cache. A folder that was moved here has a later ctime, until its entries change. If the
            # folder above it has not changed since, only its mode or owner changed, or overlayfs has copied it.
            if status.st_ctime_ns == status.st_mtime_ns or _changed_before(path, status.st_ctime_ns - TICK_NS):
                return
        elif (not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode)) or path.endswith(".pyc"):
            return
        else:
            self._files += 1
        if status.st_ctime_ns > self._changed_ns:
            self._changed_ns, self._path = status.st_ctime_ns, path

    def _check_time(self) -> None:
        if self._aborted or time.monotonic() >= self._until:
            raise HostError(f"it takes too long to look at {', '.join(self._paths)}")


def _changed_before(path: str, moment: int) -> bool:
    """True if no entry of the folder above a path was added or removed since a moment, in nanoseconds."""
    return os.stat(os.path.dirname(path)).st_mtime_ns < moment  # noqa: PTH116, PTH120


def _expand(named: str) -> Iterator[str]:
    """Yield the paths that a name stands for: itself, or the matches of a pattern."""
    if not glob.has_magic(named) or os.path.lexists(named):
        return iter((named,))
    return glob.iglob(named, recursive=True)  # noqa: PTH207


def _decode(path: str | bytes) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
