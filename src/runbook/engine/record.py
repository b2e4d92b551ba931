"""Where a run leaves what it did: a folder of its own, which nobody else may read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from runbook.errors import NotBegun

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
"""Letters and digits that are not taken for one another when an id is read aloud."""


@dataclass(frozen=True)
class Record:
    """The folder of one run: `output/` takes what its commands print."""

    id: str
    folder: Path

    @property
    def outputs(self) -> Path:
        """Where the commands' output goes: to files, so that this program's end is not theirs."""
        return self.folder / "output"


def new_id(now: float) -> str:
    """Make a run's id, which sorts by time: 20261123-0547-k3f."""
    stamp = time.strftime("%Y%m%d-%H%M", time.localtime(now))
    return f"{stamp}-{''.join(secrets.choice(ALPHABET) for _ in range(3))}"


def home() -> Path:
    """Give the folder of all runs: the system's for root, else the user's own (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/runbook/runs")
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "runbook" / "runs"


def create(now: float) -> Record:
    """Make the folder of a new run. Raises NotBegun where there is no place for it."""
    parent = home()
    try:
        for folder in (*reversed(parent.parents), parent):
            _provide(folder, ours=folder in (parent, parent.parent))
        while True:
            record = Record(new_id(now), parent / new_id(now))
            record = Record(record.folder.name, record.folder)
            try:
                _make(record.folder)
            except FileExistsError:
                continue  # Two runs in one minute drew the same letters.
            _make(record.outputs)
            return record
    except OSError as error:
        raise NotBegun(
            f"cannot begin: no place for the run's record in {parent}: {error.strerror}",
            hint=f"df -h {parent.parent} and ls -ld {parent} tell more",
        ) from error


def _provide(folder: Path, *, ours: bool) -> None:
    """Make a folder on the way to the record, if it is not there; refuse one into which others may put things.

    What is `ours` must be of the user who runs this, and of nobody else.
    """
    with contextlib.suppress(FileExistsError):
        if not folder.is_dir():
            _make(folder)
    status = folder.stat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH if ours else stat.S_IWOTH)
    why = hint = ""
    if ours and status.st_uid != os.geteuid():
        why, hint = f"{folder} belongs to user {status.st_uid}", f"ls -ld {folder}; move it away"
    elif others and (ours or not status.st_mode & stat.S_ISVTX):
        why, hint = f"others may write in {folder}", f"see that nothing strange is in it, then chmod go-w {folder}"
    if why:
        raise NotBegun(f"cannot begin: no safe place for the run's record: {why}", hint=hint)


def _make(folder: Path) -> None:
    """Make a folder for its owner only, whatever the umask: mkdir's mode is cut by it."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)
