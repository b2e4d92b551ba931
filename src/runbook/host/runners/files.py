"""When files changed last, by the one time that nobody can set: that of the inode's last change (inode(7), ctime).

A file's own mtime says when its content was made, and npm, tar, apt and rsync carry that over from where they
took it; a file that came by rename(2) keeps it as well. Its ctime is the moment at which it came.
"""

from __future__ import annotations

import glob
import json
import os
import stat
import time
from collections import deque
from collections.abc import Iterator

from runbook.util.wording import describe_error

MAX_LINKS = 40
"""So many links may lead to a file, as in the kernel (path_resolution(7))."""

CACHE_FOLDER = "__pycache__"
"""Python writes its caches beside the code while it runs: they come after the start of any process."""


class FileScan:
    """A look at files and folders until a moment of CLOCK_MONOTONIC; it may be cut short by another thread."""

    def __init__(self, paths: tuple[str, ...], until: float) -> None:
        self._paths = paths
        self._until = until
        self._cut = False
        self._files = 0
        self._path = ""
        self._changed = 0

    def abort(self) -> None:
        """End it. May be called at any moment."""
        self._cut = True

    def run(self) -> tuple[bool, str, str]:
        """Look, and tell whether all could be seen, in words, and as JSON: `path`, `changed`, `files`.

        `changed` is in seconds since the epoch.
        """
        try:
            for named in self._paths:
                before = self._files
                for path in _expand(named):
                    self._scan(path)
                if self._files == before:
                    return False, f"there is no file {named}", ""
        except TimeoutError as error:
            return False, str(error), ""
        except OSError as error:
            return False, f"cannot look at {_decode(error.filename or '')}: {describe_error(error)}", ""
        path = _decode(self._path)
        found = {"path": path, "changed": self._changed / 1e9, "files": self._files}
        return True, f"{path} changed last of {self._files}", json.dumps(found)

    def _scan(self, path: str) -> None:
        """Look at what a path leads to: every link and every folder on the way, then all that is below."""
        try:
            real, status = self._follow(path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            self._scan_folder(real)

    def _follow(self, path: str) -> tuple[str, os.stat_result]:
        """Go a path part by part. A link that was set anew brings other code, however old that is."""
        here, links = "/", 0
        status = os.lstat(here)
        parts = deque(path.split("/"))
        while parts:
            part = parts.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                here = os.path.dirname(here)  # noqa: PTH120 - a folder's path as text; pathlib is slow here
                status = os.lstat(here)
                continue
            there = os.path.join(here, part)  # noqa: PTH118
            status = os.lstat(there)
            self._record(there, status)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(f"too many links: {path}")
                target = os.readlink(there)  # noqa: PTH115
                here = "/" if target.startswith("/") else here
                parts.extendleft(reversed(target.split("/")))
            else:
                here = there
        return here, status

    def _scan_folder(self, folder: str) -> None:
        """Look at everything in a folder. Links to folders are not followed; those within it are seen anyway."""
        folders = [folder]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        self._check_time()
                        self._entry(entry, folders)
            except FileNotFoundError:
                continue  # gone meanwhile

    def _entry(self, entry: os.DirEntry[str], folders: list[str]) -> None:
        if entry.name == CACHE_FOLDER:
            return
        try:
            self._record(entry.path, entry.stat(follow_symlinks=False))
            if entry.is_symlink() and entry.is_file():
                self._record(entry.path, entry.stat())
        except FileNotFoundError:
            return
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)

    def _record(self, path: str, status: os.stat_result) -> None:
        self._check_time()
        if stat.S_ISDIR(status.st_mode):
            # A folder in which something came or went has mtime and ctime alike, and what came is seen itself: it
            # may be a cache. One that was moved here has a later ctime, until something comes or goes in it.
            if status.st_ctime_ns == status.st_mtime_ns:
                return
        elif (not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode)) or path.endswith(".pyc"):
            return
        else:
            self._files += 1
        if status.st_ctime_ns > self._changed:
            self._changed, self._path = status.st_ctime_ns, path

    def _check_time(self) -> None:
        if self._cut or time.monotonic() >= self._until:
            raise TimeoutError(f"it takes too long to look at {', '.join(self._paths)}")


def _expand(named: str) -> Iterator[str]:
    """Give the paths that a name stands for: itself, or what matches it where it is a pattern."""
    if not glob.has_magic(named) or os.path.lexists(named):
        return iter((named,))
    return glob.iglob(named, recursive=True)  # noqa: PTH207


def _decode(path: str | bytes) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
