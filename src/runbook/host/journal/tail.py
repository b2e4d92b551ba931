"""The last lines of a unit in the journal, of its processes or of its manager: what an operator reads first.

A service can write any text, and any field whose name does not begin with `_`. So what systemd logged is recognised by
`_PID=1` or by `_UID=`, which journald itself adds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from runbook.host.journal.previous_exit import FAILURE
from runbook.host.journal.reader import FIELDS, JournalReader, message_texts, parse_pid
from runbook.host.queries import Answer, JournalLine, JournalTailQuery
from runbook.util.stdio import split_lines

MAX_JOURNAL_LINE = 2000  # characters of a line that are kept; a service may write a megabyte without a line break

SPAWN_FAILED = "641257651c1b4ec9a8624d7a40a9e1e7"
START_FAILED = "be02cf6855d2428ba40df7e9d022f03d"
"""MESSAGE_ID= of "Failed at step …", which the process logs that was to execute a program, and of "Failed to start …"
(systemd, src/systemd/sd-messages.h)."""

ROUTINE = (FAILURE, START_FAILED)  # what systemd logs of every failure, and what the verdict contains already
WARNINGS = tuple(f"PRIORITY={level}" for level in range(5))  # emergency to warning, as syslog(3) numbers them
MANAGER_ENTRIES = 50  # entries of the manager that are read; in a restart loop most of them repeat others
LOAD_SECONDS = 1.0  # seconds that the load of one unit takes at most


class JournalTail(JournalReader[JournalTailQuery]):
    """Reads the end of the journal."""

    def run(self) -> Answer[tuple[JournalLine, ...]]:
        """Return the lines, the oldest first. Raises HostError."""
        # With --since alone, --lines would count from that moment.
        count = MANAGER_ENTRIES if self._query.of_manager else self._query.lines
        arguments = (f"--since=@{self._query.since:.6f}", "--reverse", f"--lines={count}")
        fields = (*FIELDS, "MESSAGE_ID") if self._query.of_manager else FIELDS
        self._reader.sync()
        with contextlib.closing(self._reader.entries(*arguments, *self._matches(), fields=fields)) as newest_first:
            entries = list(newest_first)
        if self._query.of_manager:
            entries = self._select(entries)
        lines = [
            JournalLine(parse_pid(entry), _cut(line), _moment(entry))
            for entry in reversed(entries)
            for message in message_texts(entry.get("MESSAGE"))
            for line in split_lines(message)
            if line.strip()
        ]
        return Answer(True, "", tuple(lines[-self._query.lines :]))

    def _select(self, newest_first: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the entries of the manager that add something, each text at its first occurrence, the newest first."""
        telling = [entry for entry in newest_first if entry.get("MESSAGE_ID") not in ROUTINE]
        if self._query.latest:
            telling = [entry for entry in telling if _moment(entry) >= _moment(telling[0]) - LOAD_SECONDS]
        first: dict[str, dict[str, Any]] = {}
        for entry in reversed(telling):
            first.setdefault(str(entry.get("MESSAGE")), entry)
        return list(first.values())[::-1]

    def _matches(self) -> tuple[str, ...]:
        """Return the matches for the entries of the unit's own processes, or for those of its manager."""
        unit = self._query.unit
        if self._query.of_manager:
            manager, *about = self.manager_matches(unit)
            about += [f"{self.invocation_field}={self._query.invocation}"] if self._query.invocation else []
            # The process that was to execute a program may not be in the unit's cgroup yet.
            owner = manager if self._query.of_user else "_UID=0"
            return (manager, *about, *WARNINGS, "+", owner, *about, f"MESSAGE_ID={SPAWN_FAILED}")
        if self._query.pids:
            return tuple(f"_PID={pid}" for pid in self._query.pids)
        if unit.endswith(".socket"):
            # A socket unit has no process; its manager logs why it could not listen.
            return self.manager_matches(unit)
        return self._reader.unit_matches(unit)


def _cut(line: str) -> str:
    return line if len(line) <= MAX_JOURNAL_LINE else f"{line[:MAX_JOURNAL_LINE]}..."


def _moment(entry: Mapping[str, Any]) -> float:
    return int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6
