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
from runbook.host.journal.reader import INVOCATION, Journalctl, stopped, texts, unreadable
from runbook.host.queries import JournalProbe
from runbook.util import regex

BATCH = 256 * 1024
"""Characters of messages that are searched at once: the time that a search may take is made for so many."""

EMPTY = 32
"""What an entry counts for without its text, so that a batch of very many does not grow without end."""

SPARED = 0.5
"""Seconds before its time is over at which reading ends, for the search in what was read; at most a tenth of it."""

REMEMBERED = 256
"""How many searches are remembered: one for each pattern and invocation."""


@dataclass(frozen=True)
class Entry:
    """One entry: its place in the journal, and what of it counts."""

    cursor: str
    messages: tuple[str, ...]
    pid: int
    stream: str


@dataclass(frozen=True)
class Progress:
    """How far a search has come. `foreign` are the streams that other invocations began."""

    cursor: str = ""
    count: int = 0
    found: bool = False
    foreign: frozenset[str] = frozenset()


class Journal:
    """Remembers what was searched. `own` says that the units are those of the user who looks."""

    def __init__(self, *, own: bool = False) -> None:
        self.own = own
        self._progress: dict[tuple[str, str], Progress] = {}

    def reading(self, probe: JournalProbe, until: float) -> Reading:
        """Make a look that goes on until a moment of CLOCK_MONOTONIC."""
        return Reading(self, probe, until)

    def progress(self, probe: JournalProbe) -> Progress:
        """Tell how far the search has come."""
        return self._progress.get((probe.invocation, probe.pattern), Progress())

    def came(self, probe: JournalProbe, progress: Progress) -> None:
        """Remember how far the search has come, unless another look has come further."""
        before = self.progress(probe)
        if not before.found and progress.count >= before.count:
            self._progress[probe.invocation, probe.pattern] = progress
        while len(self._progress) > REMEMBERED:
            del self._progress[next(iter(self._progress))]


class Reading:
    """One look into the journal."""

    def __init__(self, journal: Journal, probe: JournalProbe, until: float) -> None:
        self._journal = journal
        self._probe = probe
        self._reader = Journalctl(until - min(SPARED, (until - time.monotonic()) / 10), own=journal.own)

    def get(self) -> tuple[bool, str, str]:
        """Look, and tell whether the pattern is there, and how it stands in words."""
        progress = self._journal.progress(self._probe)
        whole = progress.found
        try:
            if not progress.found:
                progress, whole = self._search(progress)
        except HostError as error:
            return False, error.message, ""
        finally:
            self._journal.came(self._probe, progress)
        if progress.found:
            return True, f"`{self._probe.pattern}` is there", ""
        return False, self._missing(progress, whole=whole), ""

    def cut(self) -> None:
        """End the child under the thread that reads from it. May be called at any moment."""
        self._reader.cut()

    def _missing(self, progress: Progress, *, whole: bool) -> str:
        pattern = f"`{self._probe.pattern}`"
        if not whole:
            return f"{pattern} is not in this invocation's first {progress.count} entries; there are more to read"
        entries = "1 entry" if progress.count == 1 else f"{progress.count} entries"
        said = f"{pattern} is not in this invocation's {entries}"
        if not progress.count:
            said = "nothing of this invocation is in it"
        why = stopped() or ("" if progress.count else unreadable(own=self._journal.own))
        return f"{said}: {why}" if why else f"{said} yet"

    def _search(self, progress: Progress) -> tuple[Progress, bool]:
        """Search on from where it stands; tell whether the end of the journal was reached. Raises HostError."""
        match = f"{INVOCATION}={self._probe.invocation}"
        after = [f"--after-cursor={progress.cursor}"] if progress.cursor else []
        batch: list[Entry] = []
        size = 0
        with contextlib.closing(self._entries(*after, match)) as entries:
            for entry in entries:
                batch.append(entry)
                size += sum(map(len, entry.messages)) + EMPTY
                if size >= BATCH:
                    progress = self._look(batch, progress)
                    self._journal.came(self._probe, progress)
                    batch, size = [], 0
                    if progress.found:
                        return progress, True
            if self._reader.over:
                return progress, False
        return self._look(batch, progress), True

    def _look(self, batch: list[Entry], progress: Progress) -> Progress:
        """Search entries, and judge whose those are that have the pattern. Raises HostError."""
        left = [entry for entry in batch if entry.pid not in self._probe.leftovers]
        while left:
            texts = [(at, message) for at, entry in enumerate(left) for message in entry.messages]
            first = regex.first(self._probe.pattern, [message for _, message in texts], multiline=True)
            if first is None:
                break
            entry = left[texts[first][0]]
            progress = self._judged(entry.stream, progress)
            if entry.stream not in progress.foreign:
                return replace(progress, found=True)
            left = [one for one in left[texts[first][0] + 1 :] if one.stream != entry.stream]
        if not batch:
            return progress
        return replace(progress, cursor=batch[-1].cursor, count=progress.count + len(batch))

    def _judged(self, stream: str, progress: Progress) -> Progress:
        """Find out whether a stream began in another invocation, by its first entry."""
        if not stream or stream in progress.foreign:
            return progress
        with contextlib.closing(self._reader.entries(f"_STREAM_ID={stream}")) as lines:
            first = next(iter(lines), {})
        if first.get(INVOCATION, self._probe.invocation) == self._probe.invocation:
            return progress
        return replace(progress, foreign=progress.foreign | {stream})

    def _entries(self, *arguments: str) -> Generator[Entry]:
        for line in self._reader.entries(*arguments):
            pid = line.get("_PID")
            yield Entry(
                str(line.get("__CURSOR", "")),
                tuple(texts(line.get("MESSAGE"))),
                int(pid) if isinstance(pid, str) and pid.isdecimal() else 0,
                str(line.get("_STREAM_ID") or ""),
            )
