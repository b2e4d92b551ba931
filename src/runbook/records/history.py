"""Past runs, as their records tell them: which there are, how each ended, and which may still be gone on with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runbook.errors import NotBegun, UsageError
from runbook.events import Event, EventName, RecordLost, RunRecorded, RunStarted, select
from runbook.model import RecordState, RunStatus
from runbook.records import store
from runbook.records.outputs import list_output_files
from runbook.records.store import ALPHABET, RunFolder, RunHeader, open_file

ID = re.compile(rf"\d{{8}}-\d{{4}}-[{ALPHABET}]{{3}}")

RESUMABLE_STATUSES = (RunStatus.INTERRUPTED, RunStatus.STILL_STARTING)
"""Ends after which a run may be gone on with."""

CLOSING_EVENTS = (EventName.RUN_SUPERSEDED, EventName.RUN_ABANDONED)
"""Events after which a run cannot be resumed any more."""

MAX_RUNS = 200
"""So many runs are kept."""

MAX_RUN_AGE = 180 * 86400.0
"""Seconds for which a run is kept, unless more than KEPT_RUNS came after it."""

MAX_INCOMPLETE_AGE = 86400.0
"""Seconds after which a folder that never became a run is removed: its program was killed while it made it."""

MAX_EVENT = 16 * 1024 * 1024
"""Bytes of an event that is read. None is as long; what is, is no event."""

MAX_RECORD = 64 * 1024 * 1024
"""Bytes of events that are read of one run. A long night fills a hundredth of it."""

TAIL_BYTES = 64 * 1024
"""Bytes of the end of a record that tell whether its run has ended: the last event is much shorter."""

FOLLOW_INTERVAL = 0.2
"""Seconds between two looks at a record that grows."""


@dataclass(frozen=True)
class RunRecord:
    """One run as it is recorded. A last line that was cut short says nothing, and is not there."""

    folder: RunFolder
    header: RunHeader

    @property
    def id(self) -> str:
        """The run's id."""
        return self.header.id

    @cached_property
    def _lines(self) -> tuple[Event | None, ...]:
        return tuple(read_events(self.folder.events))

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What happened, as far as it was recorded and can be read."""
        return tuple(event for event in self._lines if event is not None)

    @cached_property
    def _all_events(self) -> tuple[Event, ...]:
        """What happened, with how it ended: of a record that is too long the end is read by itself."""
        last = _read_last_event(self.folder.events) if self._too_long else None
        return (*self.events, last) if last is not None else self.events

    @property
    def started(self) -> RunStarted | None:
        """The event with which it began, if it came so far."""
        return next(select(self.events, RunStarted), None)

    @property
    def title(self) -> str:
        """What a person calls it."""
        return str(self.started.name) if self.started and self.started.name else Path(self.header.file).name

    @property
    def units(self) -> tuple[str, ...]:
        """The units that it acts on or judges, under systemd's own names."""
        return tuple(self.started.units) if self.started else ()

    @property
    def finished_event(self) -> Event | None:
        """How it ended the last time, unless it was gone on with since or never came to an end."""
        ends = (EventName.RUN_FINISHED, EventName.RUN_RESUMED)
        last = next((event for event in reversed(self._all_events) if event.event in ends), None)
        return last if last is not None and last.event == EventName.RUN_FINISHED else None

    @property
    def closing_event(self) -> Event | None:
        """The event after which it may not be gone on with, if there was one."""
        return next((event for event in self._all_events if event.event in CLOSING_EVENTS), None)

    @property
    def incomplete_reason(self) -> str:
        """Why not all that happened is recorded; empty where all is."""
        if lost := next(select(self.events, RecordLost), None):
            return str(lost.reason or "nobody knows why")
        if None in self._lines:
            return (
                f"of its events, only the first {MAX_RECORD >> 20} MiB can be read"
                if self._too_long
                else _UNREADABLE_LINE
            )
        return "" if os.path.lexists(self.folder.spare) else "its end could not be written"

    @property
    def _too_long(self) -> bool:
        try:
            return self.folder.events.lstat().st_size > MAX_RECORD
        except OSError:
            return False

    @property
    def is_running(self) -> bool:
        """Whether its program is at work at this moment."""
        return self.folder.is_running

    @property
    def is_resumable(self) -> bool:
        """Whether it may be gone on with: cut short, or left alone while its unit was starting."""
        return (
            not self._is_closed
            and not self.is_running
            and not self.incomplete_reason
            and self.closing_event is None
            and self._is_open
        )

    @cached_property
    def _is_closed(self) -> bool:
        """Whether its last event is one after which none can come.

        Nearly all runs are, and a run that begins asks it of every one: so only the end of the file is read.
        """
        last = _read_last_event(self.folder.events)
        if last is None or last.event != EventName.RUN_FINISHED:
            return last is not None and last.event in CLOSING_EVENTS
        return last.data.get("status") not in RESUMABLE_STATUSES

    @property
    def _is_open(self) -> bool:
        return self.finished_event is None or self.finished_event.data.get("status") in RESUMABLE_STATUSES

    @property
    def status(self) -> str:
        """How it stands, in one word: one of RunStatus, or one of those that only a record knows.

        `under-way`; `cut-short`: its program was killed; `superseded`; `abandoned`; `record-lost`: its end is unknown.
        """
        if self.is_running:
            return RecordState.UNDER_WAY
        if self.closing_event is not None and self._is_open:
            return self.closing_event.event.removeprefix("run-")
        if self.finished_event is not None:
            return str(self.finished_event.data.get("status", ""))
        return RecordState.RECORD_LOST if self.incomplete_reason else RecordState.CUT_SHORT

    @property
    def seconds(self) -> float:
        """How long it was at work, in all its parts: from the beginning of each to the last that is known of it."""
        total, begun, last = 0.0, self.header.began, self.header.began
        for event in self.events:
            if event.event == EventName.RUN_RESUMED:
                total, begun = total + last - begun, event.time
            if event.event not in CLOSING_EVENTS:
                last = max(event.time, begun)
        return round(total + last - begun, 3)

    @property
    def unfinished_steps(self) -> tuple[str, ...]:
        """The steps that had begun to act and whose end is not recorded, the outermost first."""
        acting: dict[str, None] = {}
        for event in self.events:
            name = str(event.data.get("id", ""))
            if event.event == EventName.STEP_ACTING:
                acting[name] = None
            elif event.event in (EventName.STEP_FINISHED, EventName.STEP_RETRYING, EventName.STEP_RERUN):
                acting.pop(name, None)
            elif event.event == EventName.RUN_FINISHED:
                acting.clear()
        return tuple(acting)

    @property
    def output_files(self) -> list[tuple[str, int]]:
        """The files that hold what its commands printed, and their sizes."""
        sizes = [(str(path), path.lstat().st_size) for path in list_output_files(self.folder.outputs)]
        return [(name, size) for name, size in sizes if size]

    def summary_event(self) -> Event:
        """Give what is known of it as a whole, as one event of the moment at which it began."""
        end = self.finished_event.data if self.finished_event is not None else {}
        closing, by = self.closing_event, EventName.RUN_SUPERSEDED
        summary = RunRecorded(
            name=self.title,
            file=self.header.file,
            units=list(self.units),
            scope=self.header.scope,
            user=self.header.user,
            status=self.status,
            seconds=self.seconds,
            resumable=self.is_resumable,
            exit=end.get("exit") if "reason" in end else None,
            reason=end.get("reason") if "exit" in end else None,
            lost=self.incomplete_reason,
            cut=self.unfinished_steps,
            superseded=closing.data if closing is not None and closing.event == by else None,
            abandoned=closing.data if closing is not None and closing.event != by else None,
            folder=str(self.folder.folder),
            printed=[{"file": name, "bytes": size} for name, size in self.output_files],
        )
        return Event.of(self.header.began, self.id, summary)

    def reload(self) -> RunRecord:
        """Look at it again: it may have grown."""
        return RunRecord(self.folder, self.header)

    def follow(self, pause: Callable[[float], None]) -> Iterator[Event]:
        """Give its events, and those to come: until its program ends it, or is no more."""
        try:
            file = open_file(self.folder.events)
        except OSError:
            return
        with file:
            line = b""
            while True:
                # Asked before the look, so that all is seen that was written until then.
                goes_on = self.is_running
                before = len(line)
                line += file.readline(MAX_EVENT)
                if line.endswith(b"\n") and (event := _parse_event(line)) is not None:
                    yield event
                if line.endswith(b"\n"):
                    line = b""
                elif len(line) == before:
                    if not goes_on:
                        return
                    pause(FOLLOW_INTERVAL)


_UNREADABLE_LINE = "a line of it cannot be read"


def read_events(path: Path) -> Iterator[Event | None]:
    """Read events; None stands for a line that is none, and for all that comes after MOST_RECORD.

    A last line that was cut short says nothing.
    """
    try:
        file = open_file(path)
    except OSError:
        return
    with file:
        while line := file.readline(MAX_EVENT):
            if file.tell() > MAX_RECORD:
                yield None
                return
            if line.endswith(b"\n"):
                yield _parse_event(line)
            elif len(line) == MAX_EVENT:
                yield None
                while not line.endswith(b"\n") and file.tell() < MAX_RECORD and (line := file.readline(MAX_EVENT)):
                    pass


def _read_last_event(path: Path) -> Event | None:
    """Read the last event alone; None where it cannot be read, is cut short, or is longer than TAIL."""
    try:
        with open_file(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            *_, line, cut = (b"", *file.read(TAIL_BYTES).rsplit(b"\n", 2))
    except OSError:
        return None
    return _parse_event(line) if not cut else None


def _parse_event(line: bytes) -> Event | None:
    try:
        return Event.from_line(line.decode())
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        return None


def list_runs() -> list[RunRecord]:
    """Give all runs that are recorded for this user, the latest first."""
    found = (_read_header(kept) for kept in _list_folders())
    return sorted((past for past in found if past is not None), key=lambda past: past.header.began, reverse=True)


def list_unreadable() -> list[Path]:
    """Name the folders with a header that this version cannot read."""
    return [kept.folder for kept in _list_folders() if os.path.lexists(kept.header) and _read_header(kept) is None]


def _list_folders() -> list[RunFolder]:
    """Give the folders that have the name of a run; no symbolic link is one."""
    try:
        with os.scandir(store.runs_folder()) as found:
            names = [one.name for one in found if ID.fullmatch(one.name) and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [RunFolder(name, store.runs_folder() / name) for name in sorted(names)]


def find_run(name: str | None) -> RunRecord:
    """Find a run by its id, or by as much of the end of it as tells it from the others; the latest without one.

    Raises NotBegun where there is none, UsageError for an id that cannot be one or is not clear.
    """
    known = list_runs()
    if not known and name is None:
        raise NotBegun(
            "there is no run", hint=f"runs are recorded in {store.runs_folder()}, for each user by themselves"
        )
    if name is None:
        return known[0]
    if not re.fullmatch(r"[0-9a-z-]+", name):
        raise UsageError(f"`{name}` cannot be the id of a run", hint="runbook history lists them")
    meant = [past for past in known if past.id == name] or [past for past in known if past.id.endswith(name)]
    if not meant:
        raise NotBegun(f"there is no run {name}", hint="runbook history lists them")
    if len(meant) > 1:
        raise UsageError(f"`{name}` is the end of {len(meant)} runs' ids", hint="runbook history lists them")
    return meant[0]


def find_resumable(name: str | None) -> RunRecord:
    """Find the run that is to be gone on with: the latest that can be, or the one that is named.

    Raises NotBegun with the reason where there is none.
    """
    if name is None:
        found = next((past for past in list_runs() if past.is_resumable), None)
        if found is None:
            raise NotBegun("there is no run to go on with", hint="runbook history lists them all")
        return found
    return find_run(name)


def prune(now: float) -> None:
    """Remove runs that are old or many; never one that is under way or may be gone on with.

    And the folders that never became a run.
    """
    for position, past in enumerate(list_runs()):
        old = now - past.header.began > MAX_RUN_AGE
        if (old or position >= MAX_RUNS) and not past.is_resumable and not past.is_running:
            past.folder.remove()
    for kept in _list_folders():
        try:
            left = not os.path.lexists(kept.header) and now - kept.folder.lstat().st_mtime > MAX_INCOMPLETE_AGE
        except OSError:
            continue
        if left and not kept.is_running:
            kept.remove()


def _read_header(kept: RunFolder) -> RunRecord | None:
    """Read what was asked of a run; None for a folder that holds no run, as one that was never begun."""
    try:
        with open_file(kept.header) as file:
            data: dict[str, Any] = json.loads(file.read(MAX_EVENT))
        known = {name: data[name] for name in RunHeader.__dataclass_fields__ if name in data}
        header = RunHeader(**{**known, "withheld": tuple(data.get("withheld", ()))})
        fits = all(
            isinstance(getattr(header, name), _HEADER_TYPES.get(name, str)) for name in RunHeader.__dataclass_fields__
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return RunRecord(kept, header) if fits and header.id == kept.id else None


_HEADER_TYPES: dict[str, type | tuple[type, ...]] = {
    "began": (int, float),
    "sets": dict,
    "env": dict,
    "withheld": tuple,
    "fail_on_remediation": bool,
}
"""What the fields of a header are; the others are texts."""
