"""Searches the journal entries of one invocation for a pattern.

A service may have logged for weeks: each search continues where the previous one ended, and the first entry that
matches ends the search for good.

journald files an entry under the invocation that its unit is in at that moment, so an entry of a leftover process of
an earlier invocation is filed under the current one. Such entries are recognised by their PID, and by their stream
(`_STREAM_ID`). systemd makes a new stream for each process that it starts: a stream that began in another invocation
belongs to a leftover.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import replace

from runbook.host.journal import losses
from runbook.host.journal.reader import FIELDS, INVOCATION, Journalctl, describe_unreadable, message_texts, parse_pid
from runbook.host.kernel.cgroupfs import find_cgroup_mount
from runbook.host.queries import Answer, JournalProbe
from runbook.model import frozen
from runbook.util import regex

BATCH = 256 * 1024  # characters of messages that are searched at once; the time limit of a search is chosen for them
ENTRY_WEIGHT = 32  # characters added for each entry, so that a batch of many empty entries stays small
SEARCH_RESERVE = 0.5  # seconds of the query's time that are left for the search in what was read; at most a tenth
JOURNALD_CGROUP = "system.slice/systemd-journald.service"  # it exists as long as systemd-journald runs
LOSSES_MAX_AGE = 2.0  # seconds for which what is known of lost entries is used again
MAX_SEARCHES = 256  # how many searches keep their progress: one for each pattern and invocation


@frozen
class JournalEntry:
    """One entry of the journal."""

    cursor: str  # its position in the journal
    messages: tuple[str, ...]
    pid: int  # the process that wrote it
    stream: str  # the stream that it came through; empty if it was not written to stdout or stderr
    rated: tuple[float, int] = (0.0, 0)  # when journald received it, and its priority


@frozen
class SearchProgress:
    """How far a search has come."""

    cursor: str = ""  # the last entry that was searched
    count: int = 0  # how many entries were searched
    found: bool = False
    foreign_streams: frozenset[str] = frozenset()  # streams that began in other invocations
    rate: losses.LoggedRate | None = None  # how fast the unit logged; None if it is not counted yet


class JournalSearches:
    """Keeps the progress of all searches. `of_user`: the units belong to the caller's own manager."""

    def __init__(self, *, of_user: bool = False) -> None:
        self.of_user = of_user
        self.losses: dict[str, tuple[float, str]] = {}  # by invocation: when losses were read, and what was found
        self._progress: dict[tuple[str, str], SearchProgress] = {}

    def progress(self, probe: JournalProbe) -> SearchProgress:
        """Return how far the search has come."""
        return self._progress.get((probe.invocation, probe.pattern), SearchProgress())

    def save_progress(self, probe: JournalProbe, progress: SearchProgress) -> None:
        """Record how far the search has come, unless a search in another thread has come further."""
        before = self.progress(probe)
        # A pattern that was found stays found, even if journald removes the entry.
        if not before.found and progress.count >= before.count:
            self._progress[probe.invocation, probe.pattern] = progress
        while len(self._progress) > MAX_SEARCHES:
            del self._progress[next(iter(self._progress))]


class JournalSearch:
    """One part of a search, which continues where the previous part ended. It ends at a moment of CLOCK_MONOTONIC."""

    def __init__(self, journal: JournalSearches, probe: JournalProbe, until: float) -> None:
        self._journal = journal
        self._probe = probe
        self._limit = losses.find_rate_limit(probe.settings, of_user=journal.of_user) if probe.settings else None
        self._reader = Journalctl(until - min(SEARCH_RESERVE, (until - time.monotonic()) / 10), own=journal.of_user)

    def run(self) -> Answer[None]:
        """Search, and return whether the pattern was found. Raises HostError."""
        progress, is_complete = self._journal.progress(self._probe), True
        if not progress.found:
            progress, is_complete = self._search(progress)
        self._journal.save_progress(self._probe, progress)
        if progress.found:
            return Answer(True, f"`{self._probe.pattern}` is there")
        return Answer(False, self._describe_missing(progress, is_complete=is_complete))

    def abort(self) -> None:
        """End the search in another thread. May be called at any moment."""
        self._reader.abort()

    def _describe_missing(self, progress: SearchProgress, *, is_complete: bool) -> str:
        pattern = f"`{self._probe.pattern}`"
        if not is_complete:
            return f"{pattern} is not in this invocation's first {progress.count} entries; there are more to read"
        missing, why = "there is no entry of this invocation", describe_stopped()
        if progress.count:
            entries = "1 entry" if progress.count == 1 else f"{progress.count} entries"
            missing = f"{pattern} is not in this invocation's {entries}"
        else:
            why = why or describe_unreadable(own=self._journal.of_user)
        return f"{missing}: {why}" if why else f"{missing} yet{self._describe_losses(progress)}"

    def _describe_losses(self, progress: SearchProgress) -> str:
        """Return what may have kept the entry out of the journal. The reads for that are not made in each round."""
        settings, known = self._probe.settings, self._journal.losses
        at, text = known.get(self._probe.invocation, (-LOSSES_MAX_AGE, ""))
        if settings is not None and time.monotonic() - at >= LOSSES_MAX_AGE:
            unit, rate, own = self._probe.unit, progress.rate or losses.LoggedRate(), self._journal.of_user
            text = losses.describe_losses(self._reader, unit, settings, rate, self._limit, own=own)
            known.clear()
            known[self._probe.invocation] = time.monotonic(), text
        return text

    def _search(self, progress: SearchProgress) -> tuple[SearchProgress, bool]:
        """Continue the search; return how far it came, and whether that is the end of the journal. Raises HostError."""
        settings = self._probe.settings
        if progress.rate is None and settings is not None and settings.since and self._limit is not None:
            earlier = losses.read_earlier_rate(self._reader, self._probe, settings, self._limit)
            progress = replace(progress, rate=earlier)
        after = [f"--after-cursor={progress.cursor}"] if progress.cursor else []
        matches = (f"{INVOCATION}={self._probe.invocation}", *self._reader.unit_matches(self._probe.unit))
        batch: list[JournalEntry] = []
        size = 0
        with contextlib.closing(self._entries(*after, *matches)) as entries:
            for entry in entries:
                batch.append(entry)
                size += sum(map(len, entry.messages)) + ENTRY_WEIGHT
                if size >= BATCH:
                    progress = self._search_batch(batch, progress)
                    # Saved now, so that a search that exceeds its time does not begin again.
                    self._journal.save_progress(self._probe, progress)
                    batch, size = [], 0
                    if progress.found:
                        return progress, True
            if self._reader.is_over:
                return progress, False
        return self._search_batch(batch, progress), True

    def _search_batch(self, batch: list[JournalEntry], progress: SearchProgress) -> SearchProgress:
        """Search entries; a match counts unless a leftover wrote it. Raises HostError."""
        # One search for all messages of the batch: each search may start a child.
        entries = [entry for entry in batch if entry.pid not in self._probe.leftovers]
        while entries:
            texts = [(at, message) for at, entry in enumerate(entries) for message in entry.messages]
            first = regex.find_first(self._probe.pattern, [message for _, message in texts], multiline=True)
            if first is None:
                break
            entry = entries[texts[first][0]]
            progress = self._judge_stream(entry.stream, progress)
            if entry.stream not in progress.foreign_streams:
                return replace(progress, found=True)
            # All entries of that stream belong to the same leftover.
            entries = [later for later in entries[texts[first][0] + 1 :] if later.stream != entry.stream]
        if not batch:
            return progress
        rate = progress.rate
        if rate is not None and self._limit is not None:
            rate = rate.add((entry.rated for entry in batch), self._limit)
        return replace(progress, cursor=batch[-1].cursor, count=progress.count + len(batch), rate=rate)

    def _judge_stream(self, stream: str, progress: SearchProgress) -> SearchProgress:
        """Add a stream to the foreign ones if its first entry is of another invocation."""
        # Without a stream (a native or syslog message) the PID alone decides.
        if not stream or stream in progress.foreign_streams:
            return progress
        with contextlib.closing(self._reader.entries(f"_STREAM_ID={stream}")) as lines:
            first = next(iter(lines), {})
        if first.get(INVOCATION, self._probe.invocation) == self._probe.invocation:
            return progress
        return replace(progress, foreign_streams=progress.foreign_streams | {stream})

    def _entries(self, *arguments: str) -> Generator[JournalEntry]:
        for line in self._reader.entries(*arguments, fields=(*FIELDS, "PRIORITY")):
            yield JournalEntry(
                str(line.get("__CURSOR", "")),
                tuple(message_texts(line.get("MESSAGE"))),
                parse_pid(line),
                str(line.get("_STREAM_ID") or ""),
                losses.parse_rated_entry(line),
            )


def describe_stopped() -> str:
    """Return that systemd-journald does not run; empty if it runs."""
    group = find_cgroup_mount() / JOURNALD_CGROUP
    return "systemd-journald does not run" if group.parent.is_dir() and not group.is_dir() else ""
