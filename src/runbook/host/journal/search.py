"""What a unit's processes wrote into the journal, searched for a pattern: one invocation's entries alone.

A service may have logged for weeks: each look goes
on where the one before it ended, and the first entry that has the pattern ends the search for good.

journald files an entry under the invocation that its unit is in at that moment. So it takes what a leftover of an
earlier invocation writes for the current one's. Such entries are told apart by their writer, and by the stream
(`_STREAM_ID`), which systemd makes anew for each process that it starts: one that began in another invocation is a
leftover's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

from runbook.errors import HostError
from runbook.host.journal.reader import INVOCATION, Journalctl, describe_stopped, describe_unreadable, message_texts
from runbook.host.queries import JournalProbe
from runbook.util import regex

BATCH = 256 * 1024
"""Characters of messages that are searched at once: the time that a search may take is made for so many."""

ENTRY_WEIGHT = 32
"""What an entry counts for without its text, so that a batch of very many does not grow without end."""

SEARCH_RESERVE = 0.5
"""Seconds before its time is over at which reading ends, for the search in what was read; at most a tenth of it."""

MAX_SEARCHES = 256
"""How many searches are remembered: one for each pattern and invocation."""


@dataclass(frozen=True)
class JournalEntry:
    """One entry: its place in the journal, and what of it counts."""

    cursor: str
    messages: tuple[str, ...]
    pid: int
    stream: str


@dataclass(frozen=True)
class SearchProgress:
    """How far a search has come. `foreign` are the streams that other invocations began."""

    cursor: str = ""
    count: int = 0
    found: bool = False
    foreign_streams: frozenset[str] = frozenset()


class JournalSearches:
    """Remembers what was searched. `own` says that the units are those of the user who looks."""

    def __init__(self, *, of_user: bool = False) -> None:
        self.of_user = of_user
        self._progress: dict[tuple[str, str], SearchProgress] = {}

    def new_search(self, probe: JournalProbe, until: float) -> JournalSearch:
        """Make a look that goes on until a moment of CLOCK_MONOTONIC."""
        return JournalSearch(self, probe, until)

    def progress(self, probe: JournalProbe) -> SearchProgress:
        """Tell how far the search has come."""
        return self._progress.get((probe.invocation, probe.pattern), SearchProgress())

    def save_progress(self, probe: JournalProbe, progress: SearchProgress) -> None:
        """Remember how far the search has come, unless another look has come further."""
        before = self.progress(probe)
        if not before.found and progress.count >= before.count:
            self._progress[probe.invocation, probe.pattern] = progress
        while len(self._progress) > MAX_SEARCHES:
            del self._progress[next(iter(self._progress))]


class JournalSearch:
    """One look into the journal."""

    def __init__(self, journal: JournalSearches, probe: JournalProbe, until: float) -> None:
        self._journal = journal
        self._probe = probe
        self._reader = Journalctl(until - min(SEARCH_RESERVE, (until - time.monotonic()) / 10), own=journal.of_user)

    def run(self) -> tuple[bool, str, str]:
        """Look, and tell whether the pattern is there, and how it stands in words."""
        progress = self._journal.progress(self._probe)
        whole = progress.found
        try:
            if not progress.found:
                progress, whole = self._search(progress)
        except HostError as error:
            return False, error.message, ""
        finally:
            self._journal.save_progress(self._probe, progress)
        if progress.found:
            return True, f"`{self._probe.pattern}` is there", ""
        return False, self._describe_missing(progress, whole=whole), ""

    def abort(self) -> None:
        """End the child under the thread that reads from it. May be called at any moment."""
        self._reader.abort()

    def _describe_missing(self, progress: SearchProgress, *, whole: bool) -> str:
        pattern = f"`{self._probe.pattern}`"
        if not whole:
            return f"{pattern} is not in this invocation's first {progress.count} entries; there are more to read"
        entries = "1 entry" if progress.count == 1 else f"{progress.count} entries"
        said = f"{pattern} is not in this invocation's {entries}"
        if not progress.count:
            said = "nothing of this invocation is in it"
        why = describe_stopped() or ("" if progress.count else describe_unreadable(own=self._journal.of_user))
        return f"{said}: {why}" if why else f"{said} yet"

    def _search(self, progress: SearchProgress) -> tuple[SearchProgress, bool]:
        """Search on from where it stands; tell whether the end of the journal was reached. Raises HostError."""
        match = f"{INVOCATION}={self._probe.invocation}"
        after = [f"--after-cursor={progress.cursor}"] if progress.cursor else []
        batch: list[JournalEntry] = []
        size = 0
        with contextlib.closing(self._entries(*after, match)) as entries:
            for entry in entries:
                batch.append(entry)
                size += sum(map(len, entry.messages)) + ENTRY_WEIGHT
                if size >= BATCH:
                    progress = self._search_batch(batch, progress)
                    self._journal.save_progress(self._probe, progress)
                    batch, size = [], 0
                    if progress.found:
                        return progress, True
            if self._reader.is_over:
                return progress, False
        return self._search_batch(batch, progress), True

    def _search_batch(self, batch: list[JournalEntry], progress: SearchProgress) -> SearchProgress:
        """Search entries, and judge whose those are that have the pattern. Raises HostError."""
        left = [entry for entry in batch if entry.pid not in self._probe.leftovers]
        while left:
            texts = [(at, message) for at, entry in enumerate(left) for message in entry.messages]
            first = regex.find_first(self._probe.pattern, [message for _, message in texts], multiline=True)
            if first is None:
                break
            entry = left[texts[first][0]]
            progress = self._judge_stream(entry.stream, progress)
            if entry.stream not in progress.foreign_streams:
                return replace(progress, found=True)
            left = [one for one in left[texts[first][0] + 1 :] if one.stream != entry.stream]
        if not batch:
            return progress
        return replace(progress, cursor=batch[-1].cursor, count=progress.count + len(batch))

    def _judge_stream(self, stream: str, progress: SearchProgress) -> SearchProgress:
        """Find out whether a stream began in another invocation, by its first entry."""
        if not stream or stream in progress.foreign_streams:
            return progress
        with contextlib.closing(self._reader.entries(f"_STREAM_ID={stream}")) as lines:
            first = next(iter(lines), {})
        if first.get(INVOCATION, self._probe.invocation) == self._probe.invocation:
            return progress
        return replace(progress, foreign_streams=progress.foreign_streams | {stream})

    def _entries(self, *arguments: str) -> Generator[JournalEntry]:
        for line in self._reader.entries(*arguments):
            pid = line.get("_PID")
            yield JournalEntry(
                str(line.get("__CURSOR", "")),
                tuple(message_texts(line.get("MESSAGE"))),
                int(pid) if isinstance(pid, str) and pid.isdecimal() else 0,
                str(line.get("_STREAM_ID") or ""),
            )
