"""When a unit was started, as its manager logged it: systemd has no property for its start-limit counter."""

from __future__ import annotations

import os

from runbook.host.journal.reader import JournalReader
from runbook.host.queries import Answer, StartEvent, StartEventKind, StartTimesQuery

START_MESSAGE_IDS = ("7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf")
"""MESSAGE_ID= of "Starting …" and "Started …" (systemd, src/systemd/sd-messages.h); Type=simple has only the second."""

RESTART_MESSAGE_ID = "5eb03494b6584870a536b337290809b3"
ON_REQUEST = "immediately on client request"
"""MESSAGE_ID= of "Scheduled restart job …", and the words that 257 adds if a start is requested in the pause before an
automatic restart: it counts the requested start, and then the restart that it turns the request into."""

RELOAD_MESSAGES = ("Reloading.", "Reexecuting.")
"""What systemd 252 logs when it reloads and clears all counters. 257 has other messages, and keeps the counters."""

RESET_MATCHES = ("SYSLOG_IDENTIFIER=runbook", "RUNBOOK_TYPE=reset-failed")
"""What this program logs of a unit whose counter it clears: that it is about to, and then the verdict."""

SENT_TIME_FIELD = "_SOURCE_REALTIME_TIMESTAMP"
"""When systemd sent the entry. The entry's own time is when journald received it: on a busy machine, seconds later."""

RESET_FIELDS = ("RUNBOOK_RUN", "RUNBOOK_STEP", "RUNBOOK_VERDICT")


class StartTimesReader(JournalReader[StartTimesQuery]):
    """Reads the starts of a unit, and the moments at which its counter was cleared."""

    def run(self) -> Answer[tuple[StartEvent, ...]]:
        """Return the events in the order of the journal. Raises HostError."""
        manager, unit = self.manager_matches(self._query.unit)
        starts = (manager, unit, *(f"MESSAGE_ID={word}" for word in (*START_MESSAGE_IDS, RESTART_MESSAGE_ID)))
        reloads = (manager, *(f"MESSAGE={word}" for word in RELOAD_MESSAGES))
        arguments = (f"--since=@{self._query.since:.6f}", *starts, "+", *reloads, "+", *self.reset_matches())
        fields = ("MESSAGE", "MESSAGE_ID", *RESET_FIELDS, self.invocation_field, SENT_TIME_FIELD)
        events: list[StartEvent] = []
        invocations: set[str] = set()
        resets: dict[tuple[object, object], float] = {}  # when each was about to be made, by run and step
        kind = StartEventKind.START  # of the next start
        for entry in self.read_all(*arguments, fields=fields):
            at = int(entry.get(SENT_TIME_FIELD) or entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6
            invocation = str(entry.get(self.invocation_field) or "")
            message_id = entry.get("MESSAGE_ID")
            if run := entry.get("RUNBOOK_RUN"):
                # A start between the two entries is counted: it may have come after the reset.
                began = resets.setdefault((run, entry.get("RUNBOOK_STEP")), at)
                if entry.get("RUNBOOK_VERDICT") == "reset":
                    events.append(StartEvent(began, StartEventKind.RESET))
            elif message_id == RESTART_MESSAGE_ID:
                kind = StartEventKind.RESTART
                if ON_REQUEST in str(entry.get("MESSAGE")):
                    events.append(StartEvent(at, StartEventKind.START))
            elif message_id not in START_MESSAGE_IDS:
                events.append(StartEvent(at, StartEventKind.CLEARED))
            elif invocation and invocation not in invocations:
                # "Starting" and "Started" are one start. A start that a Condition skipped has no invocation.
                invocations.add(invocation)
                events.append(StartEvent(at, kind))
                kind = StartEventKind.START
        return Answer(True, "", tuple(events))

    def reset_matches(self) -> tuple[str, ...]:
        """Return the matches for what this program logs of a reset. Only root clears a counter of the system's manager.

        With polkit others may, too; but then any user could write such an entry.
        """
        if self._query.of_user:
            return f"_UID={os.getuid()}", f"OBJECT_SYSTEMD_USER_UNIT={self._query.unit}", *RESET_MATCHES
        return "_UID=0", f"OBJECT_SYSTEMD_UNIT={self._query.unit}", *RESET_MATCHES
