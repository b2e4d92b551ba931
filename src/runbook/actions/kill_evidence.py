"""Gather what is known of processes before they are killed: afterwards neither /proc nor journald shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runbook.errors import HostError
from runbook.host.facts import Unit
from runbook.host.holders import Holder
from runbook.host.interface import HostView
from runbook.host.queries import JournalLine, JournalTailQuery, Query
from runbook.spec.state import RunState

MAX_EVIDENCE_PIDS = 100  # processes whose last journal lines are read
TIMEOUT = 2.0  # seconds for reading those lines, all readings of a step together: evidence is worth a moment, no more

Lines = tuple[JournalLine, ...]


@dataclass
class EvidenceLookup:
    """The queries for the last journal lines of the processes to kill, one after another.

    Leftovers that start others are killed in several rounds, each with a query. On a loaded machine a query takes
    seconds, so the time is counted over all of them: killing does not wait longer for evidence.
    """

    query: Query[Lines] | None = None
    started_at: float = 0.0  # when the query began, in seconds of the monotonic clock
    seconds_left: float = TIMEOUT  # seconds left for this query and all later ones

    def poll(self, view: HostView, unit: Unit, run: RunState, holders: Sequence[Holder]) -> Lines | None:
        """Return the lines; None while the journal is being read."""
        now = view.clock.monotonic()
        if self.query is None:
            if self.seconds_left <= 0:
                return ()
            pids = tuple(holder.process.pid for holder in holders[:MAX_EVIDENCE_PIDS])
            since = min(view.find_start_time(holder.process) for holder in holders)
            kind = JournalTailQuery("", since, of_user=unit.of_user, pids=pids)
            self.query, self.started_at = Query(kind, run.next_query_id(), self.seconds_left), now
        try:
            answer = view.query(self.query)
        except HostError:
            return ()  # Without its journal lines a process is killed all the same.
        if answer is None:
            return None if now - self.started_at < self.seconds_left else ()
        return answer.value or ()

    def start_over(self, now: float) -> None:
        """Forget the processes of the last query, which have got their signal; the time it took is spent."""
        if self.query is not None:
            self.query, self.seconds_left = None, self.seconds_left - (now - self.started_at)


def make_evidence(holder: Holder, lines: Lines) -> Mapping[str, Any]:
    """Return what is known of a process. Of its environment only the names: programs keep secrets in its values."""
    journal = [line.text for line in lines if line.pid == holder.process.pid]
    facts = {**holder.evidence(), "environment": list(holder.process.environment)}
    return {**facts, "journal": journal} if journal else facts
