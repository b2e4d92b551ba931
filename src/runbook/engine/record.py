"""Where a run leaves what it did: a folder of its own, which nobody else may read."""

from __future__ import annotations

import os
import secrets
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
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            record = Record(new_id(now), parent / new_id(now))
            record = Record(record.folder.name, record.folder)
            try:
                record.folder.mkdir(mode=0o700)
            except FileExistsError:
                continue  # Two runs in one minute drew the same letters.
            record.outputs.mkdir(mode=0o700)
            return record
    except OSError as error:
        raise NotBegun(
            f"cannot begin: no place for the run's record in {parent}: {error.strerror}",
            hint=f"df -h {parent.parent} and ls -ld {parent} tell more",
        ) from error
