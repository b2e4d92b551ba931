"""The files into which a command writes the result of a run, beside its output.

A file that cannot be written prevents the run. If one cannot be written any more at the end, the result of the run
stands, and a message names the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from runbook import errors
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.events import Event

    Report = Callable[[Event], None]


class ResultFiles:
    """Collects the events of a run, and writes the files at its end."""

    def __init__(self, junit: str | None = None) -> None:
        self._junit = Path(junit) if junit is not None else None
        self._events: list[Event] = []
        self._is_checked = False

    @property
    def are_wanted(self) -> bool:
        """True if there is a file to write."""
        return self._junit is not None

    def check(self) -> None:
        """Raise NotBegun if a file cannot be written. A file that exists is left as it is."""
        if self._junit is not None:
            check_file(self._junit)
            # A command of the run may replace the files of this program.
            import_module("runbook.report.junit")
            import_module("runbook.records.store")
        self._is_checked = True

    def collect(self, report: Report) -> Report:
        """Return a report that collects each event, too."""

        def both(event: Event) -> None:
            self.add(event)
            report(event)

        return both if self.are_wanted else report

    def add(self, *events: Event) -> None:
        """Add events that were not reported: those of the earlier parts of a run, or the error that prevented it."""
        self._events += events

    def write(self) -> Iterator[str]:
        """Write the files, and yield a sentence for each one that cannot be written.

        If a child carries the run out, there is no event here, and the child has written them.
        """
        if self._junit is not None and self._events and self._is_checked:
            try:
                write_junit(self._junit, self._events)
            except OSError as error:
                run = self._events[-1].run
                again = f"; runbook show {run} --junit {self._junit} tries it again" if run else ""
                yield f"cannot write {self._junit}: {describe_error(error)}{again}"


NO_FILES = ResultFiles()


def check_file(path: Path) -> None:
    """Raise NotBegun if a file of this path cannot be written."""
    trial = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        # A file is replaced by a rename, which would put it in the place of a link or a device.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise errors.NotBegun(f"cannot write {path}: it exists and is not a regular file", hint="use another name")
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        trial.unlink()
    except OSError as error:
        raise errors.NotBegun(f"cannot write {path}: {describe_error(error)}") from error


def write_junit(path: Path, events: Iterable[Event]) -> None:
    """Write the JUnit XML of a run, which those can read whom the umask permits. Raises OSError."""
    from runbook.records.store import replace_file  # noqa: PLC0415
    from runbook.report.junit import JUnitReport  # noqa: PLC0415

    report = JUnitReport()
    for event in events:
        report(event)
    umask = os.umask(0)
    os.umask(umask)
    replace_file(path, report.to_xml(), mode=0o666 & ~umask)
