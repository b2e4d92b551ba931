"""The last lines that a unit's processes wrote into the journal: what an operator reads first after a failure."""

from __future__ import annotations

import contextlib

from runbook.host.journal.reader import JournalReader, message_texts, parse_pid
from runbook.host.queries import Answer, JournalLine, JournalTailQuery
from runbook.util.stdio import split_lines

MAX_JOURNAL_LINE = 2000  # characters of a line that are kept; a service may write a megabyte without a line break


class JournalTail(JournalReader[JournalTailQuery]):
    """Reads the end of the journal."""

    def run(self) -> Answer[tuple[JournalLine, ...]]:
        """Return the lines, the oldest first. Raises HostError."""
        # With --since alone, --lines would count from that moment.
        arguments = (f"--since=@{self._query.since:.6f}", "--reverse", f"--lines={self._query.lines}")
        self._reader.sync()
        with contextlib.closing(self._reader.entries(*arguments, *self._matches())) as newest_first:
            entries = list(newest_first)
        found = [
            JournalLine(parse_pid(entry), line if len(line) <= MAX_JOURNAL_LINE else f"{line[:MAX_JOURNAL_LINE]}...")
            for entry in reversed(entries)
            for message in message_texts(entry.get("MESSAGE"))
            for line in split_lines(message)
            if line.strip()
        ]
        return Answer(True, "", tuple(found[-self._query.lines :]))

    def _matches(self) -> tuple[str, ...]:
        """Return the matches for the entries of the unit's own processes: what systemd logs of them is known."""
        unit = self._query.unit
        if self._query.pids:
            return tuple(f"_PID={pid}" for pid in self._query.pids)
        if unit.endswith(".socket"):
            # A socket unit has no process; its manager logs why it could not listen.
            return self.manager_matches(unit)
        return self._reader.unit_matches(unit)
