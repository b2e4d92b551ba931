"""Reads small files whose folders other users may write to, or which are on a file system that does not answer.

So nothing but a regular file is opened: to open a device or a named pipe may act on it, or never return.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from runbook.host.queries import Answer, FileText
from runbook.util.wording import describe_error

MAX_FILE_TEXT = 64 * 1024  # bytes of a file that are read


class FileTextReader:
    """Reads files in the order of their paths. If a file system hangs, so does the thread."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths

    def run(self) -> Answer[tuple[FileText, ...]]:
        """Return the files that are there."""
        return Answer(True, "", tuple(self._read_all()))

    def abort(self) -> None:
        """Do nothing: what hangs is a call of the kernel."""

    def _read_all(self) -> Iterator[FileText]:
        for path in self._paths:
            try:
                yield read_text(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as error:
                yield FileText(path, error=describe_error(error))


def read_text(path: str) -> FileText:
    """Read the beginning of a regular file. Raises OSError and ValueError."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        owner, changed = status.st_uid, status.st_mtime
        if not stat.S_ISREG(status.st_mode):
            return FileText(path, error="it is not a regular file", uid=owner, changed=changed)
        # Not the path again: it may lead to another file by now.
        with open(f"/proc/self/fd/{found}", "rb") as file:  # noqa: PTH123 - a descriptor
            text = file.read(MAX_FILE_TEXT).decode("utf-8", "backslashreplace")
        return FileText(path, text, uid=owner, changed=changed)
    finally:
        os.close(found)
