"""The last that a unit's processes wrote into the journal: what a person would look at first when it failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from runbook.host.journal.reader import JournalReader, message_texts
from runbook.host.queries import JournalTailQuery
from runbook.util.stdio import split_lines


class JournalTail(JournalReader[JournalTailQuery]):
    """One look at the end of the journal."""

    def run(self) -> tuple[bool, str, str]:
        """Look; the lines are the answer's output. Raises HostError."""
        unit, since = self._wanted.unit, self._wanted.since
        # What its own processes wrote: what systemd says of them is known already. A socket has none; the manager
        # says for it why it could not open.
        if self._wanted.pids:
            whose = tuple(f"_PID={pid}" for pid in self._wanted.pids)
        elif unit.endswith(".socket"):
            whose = self.manager_matches(unit)
        elif self._wanted.of_user:
            whose = (f"_SYSTEMD_USER_UNIT={unit}", f"_UID={os.getuid()}")
        else:
            whose = (f"_SYSTEMD_UNIT={unit}",)
        # With --since alone, --lines would count from there.
        arguments = (f"--since=@{since:.6f}", "--reverse", f"--lines={self._wanted.lines}", *whose)
        self._reader.sync()
        with contextlib.closing(self._reader.entries(*arguments)) as entries:
            said = ["\n".join(self._lines(entry)) for entry in entries]
        found = [line for text in reversed(said) for line in split_lines(text) if line.strip()]
        return True, "", "\n".join(found[-self._wanted.lines :])

    def _lines(self, entry: Mapping[str, Any]) -> list[str]:
        said = [line for text in message_texts(entry.get("MESSAGE")) for line in split_lines(text)]
        return [f"{entry.get('_PID')}: {line}" for line in said] if self._wanted.pids else said
