"""Past runs, from their records: which ones exist, how each ended, and which ones can be resumed.

A record is read as a stream, and never held in memory as a whole: nothing limits its size.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from runbook.errors import NotBegun, UsageError
from runbook.events import Event, EventName, RecordLost, RunRecorded, RunStarted
from runbook.model import RecordState, RunStatus, frozen
from runbook.records import store
from runbook.records.outputs import list_output_files
from runbook.records.store import RUN_ID, RunFolder, RunHeader, open_file

RESUMABLE_STATUSES = (RunStatus.INTERRUPTED, RunStatus.STILL_STARTING)  # of runs that ended and can be resumed
CLOSING_EVENTS = (EventName.RUN_SUPERSEDED, EventName.RUN_ABANDONED)  # a run cannot be resumed after these

MAX_RUNS = 200  # the number of runs that are kept
MAX_RUN_AGE = 180 * 86400.0  # seconds for which a run is retained

MAX_INCOMPLETE_AGE = 86400.0  # seconds after which a folder without a header is removed: making it was cut short
MAX_EVENT = 16 * 1024 * 1024  # bytes of a line. No event is as long; a longer line is not an event
TAIL_BYTES = 64 * 1024  # bytes that are read to find the last event. The events that end a run are much shorter
FOLLOW_INTERVAL = 0.2  # seconds between two reads of a record that grows
LIST_HINT = "runbook history --all lists all runs"


@dataclass
class Digest:
    """What the events of a record amount to, added one by one.

    An event of another version may lack a key, so the keys of untrusted events are read with `get`.
    """

    part_began: float  # the time at which the latest part of the run began
    last: float  # the time of the latest event of the run itself
    earlier_seconds: float = 0.0  # the duration of all earlier parts
    started: RunStarted | None = None
    finished: Event | None = None  # the last `run-finished`, unless the run was resumed after it
    closing: Event | None = None  # the event after which the run cannot be resumed any more
    incomplete: str = ""  # why not all that happened is recorded
    acting: dict[str, None] = field(default_factory=dict)  # the steps that began to act and whose end is missing

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        step = str(event.data.get("id", ""))
        match event.event:
            case EventName.RUN_STARTED if isinstance(event.payload, RunStarted):
                self.started = self.started or event.payload
            case EventName.RUN_RESUMED:
                self.finished = None
                self.earlier_seconds += self.last - self.part_began
                self.part_began = event.time
            case EventName.RUN_FINISHED:
                self.finished = event
                self.acting.clear()
            case EventName.RUN_SUPERSEDED | EventName.RUN_ABANDONED:
                self.closing = self.closing or event
                return  # Another run, or the operator, wrote it: no work of this run took until then.
            case EventName.RECORD_LOST if isinstance(event.payload, RecordLost):
                self.incomplete = str(event.payload.reason or "the reason is not recorded")
            case EventName.STEP_ACTING:
                self.acting[step] = None
            case EventName.STEP_FINISHED | EventName.STEP_RETRYING | EventName.STEP_RERUN:
                self.acting.pop(step, None)
        self.last = max(event.time, self.part_began)


@frozen
class RunRecord:
    """One run as it is recorded. An incomplete last line is ignored."""

    folder: RunFolder
    header: RunHeader

    @property
    def id(self) -> str:
        """The ID of the run."""
        return self.header.id

    def read(self) -> Iterator[Event]:
        """Return the events that can be read, in order."""
        return (event for event in read_events(self.folder.events_path) if event is not None)

    @cached_property
    def digest(self) -> Digest:
        """What the events amount to."""
        digest = Digest(self.header.began, self.header.began)
        for event in read_events(self.folder.events_path):
            if event is not None:
                digest.add(event)
            else:
                digest.incomplete = digest.incomplete or "a line of it cannot be read"
        return digest

    @property
    def title(self) -> str:
        """The name of the runbook, or of its file."""
        started = self.digest.started
        return str(started.name) if started and started.name else Path(self.header.file).name

    @property
    def units(self) -> tuple[str, ...]:
        """The units that the run acts on or checks, by systemd's own names."""
        return tuple(self.digest.started.units) if self.digest.started else ()

    @property
    def incomplete_reason(self) -> str:
        """Why not all that happened is recorded; empty if all is."""
        # The writer gives up `spare` before it gives up the record.
        lost = "" if os.path.lexists(self.folder.spare_path) else "its end could not be written"
        return self.digest.incomplete or lost

    @property
    def is_running(self) -> bool:
        """True if the program of the run is running at this moment."""
        return self.folder.is_running

    @property
    def is_resumable(self) -> bool:
        """True if the run can be resumed: it was cut short, interrupted, or left while its unit was starting."""
        if self._is_closed or self.is_running or self.incomplete_reason:
            return False
        return self.digest.closing is None and self._is_open

    @cached_property
    def _is_closed(self) -> bool:
        """True if the last event is one that no other can follow.

        Nearly all runs have ended, and each new run checks all of them: so only the end of the file is read.
        """
        last = _read_last_event(self.folder.events_path)
        if last is None or last.event != EventName.RUN_FINISHED:
            return last is not None and last.event in CLOSING_EVENTS
        return last.data.get("status") not in RESUMABLE_STATUSES

    @property
    def _is_open(self) -> bool:
        return self.digest.finished is None or self.digest.finished.data.get("status") in RESUMABLE_STATUSES

    @property
    def status(self) -> str:
        """How the run stands: a RunStatus, or a RecordState."""
        if self.is_running:
            return RecordState.UNDER_WAY
        if self.digest.closing is not None and self._is_open:
            return self.digest.closing.event.removeprefix("run-")
        if self.digest.finished is not None:
            return str(self.digest.finished.data.get("status", ""))
        return RecordState.RECORD_LOST if self.incomplete_reason else RecordState.CUT_SHORT

    def summary_event(self) -> Event:
        """Return what is known of the run as a whole, as an event at the time when the run began."""
        digest, end = self.digest, self.digest.finished.data if self.digest.finished is not None else {}
        closing = {self.digest.closing.event: self.digest.closing.data} if self.digest.closing is not None else {}
        last = max(digest.last, time.time()) if self.is_running else digest.last
        printed = [(str(path), path.lstat().st_size) for path in list_output_files(self.folder.outputs_path)]
        summary = RunRecorded(
            name=self.title,
            file=self.header.file,
            units=list(self.units),
            scope=self.header.scope,
            user=self.header.user,
            user_source=self.header.user_source,
            status=self.status,
            seconds=round(digest.earlier_seconds + last - digest.part_began, 3),
            resumable=self.is_resumable,
            exit=end.get("exit") if "reason" in end else None,
            reason=end.get("reason") if "exit" in end else None,
            lost=self.incomplete_reason,
            cut=tuple(digest.acting),
            superseded=closing.get(EventName.RUN_SUPERSEDED),
            abandoned=closing.get(EventName.RUN_ABANDONED),
            folder=str(self.folder.path),
            printed=[{"file": name, "bytes": size} for name, size in printed if size],
        )
        return Event.of(self.header.began, self.id, summary)

    def reload(self) -> RunRecord:
        """Return the same run to be read again: its record may have grown."""
        return RunRecord(self.folder, self.header)

    def follow(self, pause: Callable[[float], None]) -> Iterator[Event]:
        """Return the events, and those that are still written, until the program of the run has exited."""
        try:
            file = open_file(self.folder.events_path)
        except OSError:
            return
        with file:
            line = b""
            while True:
                # Checked before the read, so that all events that were written until the exit are read.
                running = self.is_running
                more = file.readline(MAX_EVENT)
                line += more
                if line.endswith(b"\n"):
                    if (event := _parse_event(line)) is not None:
                        yield event
                    line = b""
                elif not more:
                    if not running:
                        return
                    pause(FOLLOW_INTERVAL)


def read_events(path: Path) -> Iterator[Event | None]:
    """Return the events of a file one by one; None stands for a line that is not an event.

    An incomplete last line is ignored.
    """
    try:
        file = open_file(path)
    except OSError:
        return
    with file:
        while line := file.readline(MAX_EVENT):
            if line.endswith(b"\n"):
                yield _parse_event(line)
            elif len(line) == MAX_EVENT:
                yield None
                while not line.endswith(b"\n") and (line := file.readline(MAX_EVENT)):
                    pass


def _read_last_event(path: Path) -> Event | None:
    """Read only the last event; None if it cannot be read, is incomplete, or is longer than TAIL_BYTES."""
    try:
        with open_file(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            *_, line, incomplete = (b"", *file.read(TAIL_BYTES).rsplit(b"\n", 2))
    except OSError:
        return None
    return _parse_event(line) if not incomplete else None


def _parse_event(line: bytes) -> Event | None:
    try:
        return Event.from_line(line.decode())
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        return None


def list_runs() -> list[RunRecord]:
    """Return all runs of this user, the latest first."""
    found = (_read_header(folder) for folder in _list_folders())
    return sorted((run for run in found if run is not None), key=lambda run: run.header.began, reverse=True)


def find_units_of_other_runs(run_id: str, since: float) -> set[str]:
    """Return the units of all runs but one on which these may have acted after `since`, in seconds since the epoch.

    A run in progress may have recorded its action before that: an action may last.
    """
    found: set[str] = set()
    for run in list_runs():
        with contextlib.suppress(OSError):
            if run.id != run_id and (run.folder.events_path.stat().st_mtime >= since or run.is_running):
                found.update(run.units)
    return found


def list_unreadable() -> list[Path]:
    """Return the folders whose header this version cannot read."""
    return [one.path for one in _list_folders() if os.path.lexists(one.header_path) and _read_header(one) is None]


def _list_folders() -> list[RunFolder]:
    """Return the folders that have the name of a run. A symbolic link is not one of them."""
    try:
        with os.scandir(store.runs_folder()) as found:
            names = [one.name for one in found if RUN_ID.fullmatch(one.name) and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [RunFolder(name, store.runs_folder() / name) for name in sorted(names)]


def find_run(name: str | None) -> RunRecord:
    """Return the run with an ID, or with the only ID that ends with `name`; without a name, the latest run.

    Raises NotBegun if there is none, UsageError if the name cannot be an ID or is the end of several.
    """
    known = list_runs()
    if not known and name is None:
        raise NotBegun("there is no run", hint=f"your runs are recorded in {store.runs_folder()}")
    if name is None:
        return known[0]
    if not re.fullmatch(r"[0-9a-z-]+", name):
        raise UsageError(f"`{name}` cannot be the ID of a run", hint=LIST_HINT)
    meant = [run for run in known if run.id == name] or [run for run in known if run.id.endswith(name)]
    if not meant:
        raise NotBegun(f"there is no run {name}", hint=LIST_HINT)
    if len(meant) > 1:
        raise UsageError(f"{len(meant)} runs have an ID that ends with `{name}`", hint=LIST_HINT)
    return meant[0]


def find_resumable(name: str | None) -> RunRecord:
    """Return the run with a name, as `find_run` does; without a name, the latest run that can be resumed.

    Raises NotBegun if there is none.
    """
    if name is not None:
        return find_run(name)
    if (found := next((run for run in list_runs() if run.is_resumable), None)) is None:
        raise NotBegun("there is no run to resume", hint=LIST_HINT)
    return found


def prune(now: float) -> None:
    """Remove old runs, and all but the latest MAX_RUNS; but no run that is running or can be resumed.

    Folders that never became a run are removed too.
    """
    for position, run in enumerate(list_runs()):
        old = now - run.header.began > MAX_RUN_AGE
        if (old or position >= MAX_RUNS) and not run.is_resumable and not run.is_running:
            run.folder.remove()
    for folder in _list_folders():
        try:
            age = now - folder.path.lstat().st_mtime
            is_left = not os.path.lexists(folder.header_path) and age > MAX_INCOMPLETE_AGE
        except OSError:
            continue
        if is_left and not folder.is_running:
            folder.remove()


def _read_header(folder: RunFolder) -> RunRecord | None:
    """Read the header of a run; None if there is none, or if it does not fit."""
    try:
        with open_file(folder.header_path) as file:
            data: dict[str, Any] = json.loads(file.read(MAX_EVENT))
        known = {name: data[name] for name in RunHeader.__dataclass_fields__ if name in data}
        header = RunHeader(**{**known, "withheld": tuple(data.get("withheld", ()))})
        fits = all(isinstance(value, _HEADER_TYPES.get(name, str)) for name, value in vars(header).items())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return RunRecord(folder, header) if fits and header.id == folder.id else None


_HEADER_TYPES: dict[str, type | tuple[type, ...]] = {
    "began": (int, float),
    "sets": dict,
    "env": dict,
    "withheld": tuple,
    "fail_on_remediation": bool,
}
"""The types of the fields of a header. All others are texts."""
