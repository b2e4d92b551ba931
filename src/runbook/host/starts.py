"""When a unit was started, as its manager wrote it into the journal: systemd shows nobody its start-limit counter."""

from __future__ import annotations

import contextlib
import json
import os

from runbook.host.journalctl import Journalctl
from runbook.host.tasks import Starts

BEGAN = ("7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf")
"""MESSAGE_ID= of "Starting …" and "Started …" (systemd, src/systemd/sd-messages.h); Type=simple has only the second."""

FORGETS = ("Reloading.", "Reexecuting.")
"""What systemd 252 says when it reloads, and forgets all counters. 257 says it otherwise, and keeps them."""


class History:
    """One look into the journal, which goes on until a moment of CLOCK_MONOTONIC."""

    def __init__(self, wanted: Starts, until: float) -> None:
        self._wanted = wanted
        self._reader = Journalctl(until, own=wanted.of_user)

    def cut(self) -> None:
        """End it under the thread that looks. May be called at any moment."""
        self._reader.cut()

    def get(self) -> tuple[bool, str, str]:
        """Look; the answer's output holds the moments. Raises HostError."""
        kind = "USER_" if self._wanted.of_user else ""
        manager = f"_UID={os.getuid()}" if self._wanted.of_user else "_PID=1"
        began = [match for word in BEGAN for match in ("+", manager, f"{kind}UNIT={self._wanted.unit}", _id(word))]
        forgets = [match for word in FORGETS for match in ("+", manager, f"MESSAGE={word}")]
        arguments = (f"--since=@{self._wanted.since:.6f}", *(began + forgets)[1:])
        fields = ("MESSAGE", "MESSAGE_ID", f"{kind}INVOCATION_ID")
        found: list[tuple[float, str]] = []
        seen: set[str] = set()
        with contextlib.closing(self._reader.entries(*arguments, fields=fields)) as entries:
            for entry in entries:
                at = int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6
                invocation = str(entry.get(f"{kind}INVOCATION_ID") or "")
                if entry.get("MESSAGE_ID") not in BEGAN:
                    found.append((at, "cleared"))
                elif invocation and invocation not in seen:
                    # One that a Condition skipped has no invocation.
                    seen.add(invocation)
                    found.append((at, "start"))
        if self._reader.over:
            return False, "no answer in time", ""
        return True, "", json.dumps(found)


def _id(word: str) -> str:
    return f"MESSAGE_ID={word}"
