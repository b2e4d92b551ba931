"""Writes a file where no other user can redirect it: the folder is judged, and written into through its descriptor."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runbook import errors
from runbook.util.wording import describe_error

OTHER_NAME = "use another name"


def check_file(path: Path) -> None:
    """Raise NotBegun if a file of this path cannot be written, or if root should not write it."""
    trial = f".{path.name}.{os.urandom(4).hex()}"
    try:
        with _open_folder(path) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(trial, flags, 0o600, dir_fd=folder))
            os.unlink(trial, dir_fd=folder)
    except OSError as error:
        raise errors.NotBegun(f"cannot write {path}: {describe_error(error)}") from error


def write_judged(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file, judged as `check_file` does. Raises NotBegun and OSError."""
    from runbook.records.store import replace_file_in  # noqa: PLC0415

    with _open_folder(path) as folder:
        replace_file_in(folder, path.name, data, mode=mode)


@contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    """Open the folder of a file; what is judged is what is written into. Raises NotBegun and OSError.

    Root writes only where no other user but the one behind sudo can put a link in the place of a folder.
    """
    from runbook.document.source import Entry, open_folder  # noqa: PLC0415
    from runbook.document.trust import find_folder_distrust, find_sudo_uid  # noqa: PLC0415
    from runbook.host.kernel.accounts import find_user_name  # noqa: PLC0415

    folder, above = open_folder(path.parent)
    try:
        euid, sudo_uid = os.geteuid(), find_sudo_uid(os.environ)
        if why := find_folder_distrust(above, euid=euid, sudo_uid=sudo_uid):
            hint = "name a file in a folder of root's, or run it through sudo as the user whose folder it is"
            raise errors.NotBegun(f"root must not write {path}: {why}", hint=hint)
        with suppress(FileNotFoundError):
            status = os.stat(path.name or ".", dir_fd=folder, follow_symlinks=False)
            # A file is replaced by a rename, which would put it in the place of a link or a device.
            if not stat.S_ISREG(status.st_mode):
                raise errors.NotBegun(f"cannot write {path}: it exists and is not a regular file", hint=OTHER_NAME)
            if euid == 0 and Entry("", os.fstat(folder)).is_shared and status.st_uid not in (0, sudo_uid):
                owner = find_user_name(status.st_uid)
                raise errors.NotBegun(f"root must not replace {path}: it belongs to {owner}", hint=OTHER_NAME)
        yield folder
    finally:
        os.close(folder)
