"""When a unit was started, as its manager wrote it into the journal: systemd shows nobody its start-limit counter."""

from __future__ import annotations

import contextlib
import json

from runbook.host.journal.reader import JournalReader
from runbook.host.queries import StartTimesQuery

START_MESSAGE_IDS = ("7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf")
"""MESSAGE_ID= of "Starting …" and "Started …" (systemd, src/systemd/sd-messages.h); Type=simple has only the second."""

RESTART_MESSAGE_ID = "5eb03494b6584870a536b337290809b3"
ON_REQUEST = "immediately on client request"
"""MESSAGE_ID= of "Scheduled restart job …", and what 257 says in it where somebody asked for a start in the pause
before an automatic restart: it counts that start, and then the restart that it makes of it."""

RELOAD_MESSAGES = ("Reloading.", "Reexecuting.")
"""What systemd 252 says when it reloads, and forgets all counters. 257 says it otherwise, and keeps them."""

SENT_TIME_FIELD = "_SOURCE_REALTIME_TIMESTAMP"
"""When it was sent; the entry's own time is when journald came to file it, which on a busy machine is seconds later."""


class StartTimesReader(JournalReader[StartTimesQuery]):
    """One look for it."""

    def run(self) -> tuple[bool, str, str]:
        """Look; the answer's output holds the moments. Raises HostError."""
        manager, unit = self.manager_matches(self._wanted.unit)
        began = (manager, unit, *(f"MESSAGE_ID={word}" for word in (*START_MESSAGE_IDS, RESTART_MESSAGE_ID)))
        forgets = (manager, *(f"MESSAGE={word}" for word in RELOAD_MESSAGES))
        arguments = (f"--since=@{self._wanted.since:.6f}", *began, "+", *forgets)
        fields = ("MESSAGE", "MESSAGE_ID", self.invocation_field, SENT_TIME_FIELD)
        found: list[tuple[float, str]] = []
        seen: set[str] = set()
        self._reader.sync()  # A start that is not counted may be one too many.
        with contextlib.closing(self._reader.entries(*arguments, fields=fields)) as entries:
            for entry in entries:
                at = int(entry.get(SENT_TIME_FIELD) or entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6
                invocation = str(entry.get(self.invocation_field) or "")
                kind = entry.get("MESSAGE_ID")
                if kind == RESTART_MESSAGE_ID:
                    if ON_REQUEST in str(entry.get("MESSAGE")):
                        found.append((at, "start"))
                elif kind not in START_MESSAGE_IDS:
                    found.append((at, "cleared"))
                elif invocation and invocation not in seen:
                    # One that a Condition skipped has no invocation.
                    seen.add(invocation)
                    found.append((at, "start"))
        if self._reader.is_over:
            return False, "no answer in time", ""
        return True, "", json.dumps(found)
