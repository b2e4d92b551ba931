"""The last that a unit's processes wrote into the journal: what a person would look at first when it failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from runbook.host.journalctl import Journalctl, texts
from runbook.host.tasks import LastWords
from runbook.streams import lines


class Tail:
    """One look at the end of the journal, which goes on until a moment of CLOCK_MONOTONIC."""

    def __init__(self, wanted: LastWords, until: float) -> None:
        self._wanted = wanted
        self._reader = Journalctl(until, own=wanted.of_user)

    def cut(self) -> None:
        """End it under the thread that looks. May be called at any moment."""
        self._reader.cut()

    def get(self) -> tuple[bool, str, str]:
        """Look; the lines are the answer's output. Raises HostError."""
        unit, since = self._wanted.unit, self._wanted.since
        # What its own processes wrote: what systemd says of them is known already. A socket has none; the manager
        # says for it why it could not open.
        says = "UNIT" if unit.endswith(".socket") else "_SYSTEMD_UNIT"
        if self._wanted.pids:
            whose = [f"_PID={pid}" for pid in self._wanted.pids]
        elif self._wanted.of_user:
            whose = [f"{says.removesuffix('UNIT')}USER_UNIT={unit}", f"_UID={os.getuid()}"]
        else:
            whose = [f"{says}={unit}", *(["_PID=1"] if says == "UNIT" else [])]
        # With --since alone, --lines would count from there.
        arguments = (f"--since=@{since:.6f}", "--reverse", f"--lines={self._wanted.lines}", *whose)
        with contextlib.closing(self._reader.entries(*arguments)) as entries:
            said = ["\n".join(self._lines(entry)) for entry in entries]
        found = [line for text in reversed(said) for line in lines(text) if line.strip()]
        return True, "", "\n".join(found[-self._wanted.lines :])

    def _lines(self, entry: Mapping[str, Any]) -> list[str]:
        said = [line for text in texts(entry.get("MESSAGE")) for line in lines(text)]
        return [f"{entry.get('_PID')}: {line}" for line in said] if self._wanted.pids else said
