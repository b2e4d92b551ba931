"""The files into which a command writes the result of a run, beside its output.

A file that cannot be written prevents the run. If one cannot be written any more at the end, the result of the run
stands, and a message names the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from runbook import errors
from runbook.cli.judged_folder import check_file, write_judged
from runbook.cli.options import Output
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.errors import Problem
    from runbook.events import Event
    from runbook.report.annotations import CodeQualityReport
    from runbook.report.results import RunResults

    Report = Callable[[Event], None]

FILE_KINDS = {
    "junit": ("runbook.report.junit", "JUnitReport"),
    "summary": ("runbook.report.summary", "SummaryReport"),
    "code-quality": ("runbook.report.annotations", "CodeQualityReport"),
}
"""The kinds of files by the names of their options, and the class that makes each from the events of a run."""

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # the variable that names the file to which a step of GitHub Actions adds Markdown


class ResultFiles:
    """Collects the events of a run, and writes the files at its end."""

    def __init__(
        self,
        *,
        junit: str | None = None,
        summary: str | None = None,
        code_quality: str | None = None,
        page: str = "",
        annotates: bool = False,
        conflict: str = "",
    ) -> None:
        named = {"junit": junit, "summary": summary, "code-quality": code_quality}
        self._paths = {kind: Path(name) for kind, name in named.items() if name is not None}
        self._page = Path(page) if page else None  # the file of the CI system, to which a summary is added
        self.annotates = annotates
        self._conflict = conflict
        self._events: list[Event] = []
        self._problems: list[Problem] = []
        self._is_checked = self._is_due = False

    @property
    def are_wanted(self) -> bool:
        """True if there is a file to write, or something to annotate."""
        return bool(self._paths) or self._page is not None or self.annotates

    def check(self) -> None:
        """Raise NotBegun if a file cannot be written. A file that exists is left as it is. Raises UsageError."""
        if self._conflict:
            raise errors.UsageError(self._conflict)
        for path in self._paths.values():
            check_file(path)
        if self._page is not None:
            check_page(self._page)
        if self.are_wanted:
            # A command of the run may replace the files of this program.
            for kind in (*self._paths, *(["summary"] if self._page else ()), *(["code-quality"] * self.annotates)):
                import_module(FILE_KINDS[kind][0])
            import_module("runbook.document.trust")
            import_module("runbook.records.store")
        self._is_checked = True

    def collect(self, report: Report) -> Report:
        """Return a report that collects each event, too."""

        def both(event: Event) -> None:
            self.add(event)
            report(event)

        return both if self.are_wanted else report

    def add(self, *events: Event, problems: Iterable[Problem] = ()) -> None:
        """Add events that were not reported: those of the earlier parts of a run, or the error that prevented it.

        `problems` are mistakes in a file.
        """
        self._events += events
        self._problems += problems
        self._is_due = self._is_due or bool(self._events or self._problems)

    def annotate(self, report: Report, out: TextIO, screen_end: contextlib.ExitStack) -> Report:
        """Return a report whose log has the annotations at its end."""
        from runbook.report.annotations import WorkflowCommands  # noqa: PLC0415

        commands = WorkflowCommands(out)
        screen_end.callback(lambda: commands.end(self._make_annotations().list_annotations()) if self._is_due else None)

        def guarded(event: Event) -> None:
            commands.begin()
            report(event)

        return guarded

    def list_commands(self) -> Iterator[str]:
        """Yield the annotations as commands of GitHub."""
        if self.annotates:
            yield from (one.to_command() for one in self._make_annotations().list_annotations())

    def _make_annotations(self) -> CodeQualityReport:
        return cast("CodeQualityReport", make_report("code-quality", self._events, self._problems))

    def write(self, *, is_due: bool = False) -> Iterator[str]:
        """Write the files, and yield a sentence for each one that cannot be written.

        If a child carries the run out, there is no event here, and the child has written them. `is_due` means that
        there is none although there is no child.
        """
        if not (self._is_due or is_due) or not self._is_checked:
            return
        for kind, path in self._paths.items():
            report = make_report(kind, self._events, self._problems)
            try:
                write_file(path, report)
            except (OSError, errors.NotBegun) as error:
                why = f"cannot write {path}: {describe_error(error)}" if isinstance(error, OSError) else error.message
                yield f"{why}{_try_again(report, kind, str(path))}"
        if self._page is not None:
            report = make_report("summary", self._events, self._problems)
            try:
                append_page(self._page, report)
            except OSError as error:
                yield f"cannot write {self._page}: {describe_error(error)}{_try_again(report, 'summary', 'FILE')}"


NO_FILES = ResultFiles()


def choose_files(
    output: Output,
    *,
    junit: str | None = None,
    summary: str | None = None,
    code_quality: str | None = None,
    annotate: bool = False,
    has_page: bool = True,
) -> ResultFiles:
    """Return what the options name, and what the environment of GitHub Actions adds to it."""
    is_json = output is Output.JSON
    page = os.environ.get(STEP_SUMMARY, "") if has_page else ""
    if summary is not None:
        # The file of the runner is added to, as are those of other steps, also if it is named here.
        page, summary = (page, None) if summary == page else ("", summary)
    is_github = os.environ.get("GITHUB_ACTIONS") == "true" and not is_json
    return ResultFiles(
        junit=junit,
        summary=summary,
        code_quality=code_quality,
        page=page,
        annotates=(annotate and not is_json) or is_github,
        conflict="cannot combine --annotate with --output json" if annotate and is_json else "",
    )


def make_report(kind: str, events: Iterable[Event], problems: Iterable[Problem] = ()) -> RunResults:
    """Return what makes a file of this kind."""
    module, name = FILE_KINDS[kind]
    report: RunResults = getattr(import_module(module), name)()
    for event in events:
        report(event)
    report.problems += problems
    return report


def _try_again(report: RunResults, kind: str, file: str) -> str:
    run = report.recorded_run
    return f"; runbook show {run} --{kind} {file} tries it again" if run else ""


def write_file(path: Path, report: RunResults) -> None:
    """Write a file of a run, which those can read whom the umask permits. Raises OSError."""
    umask = os.umask(0)
    os.umask(umask)
    write_judged(path, report.to_file(), mode=0o666 & ~umask)


def check_page(path: Path) -> None:
    """Raise NotBegun if nothing can be added to the file of the CI system."""
    try:
        os.close(_open_page(path))
    except OSError as error:
        hint = f"unset {STEP_SUMMARY} to run without it"
        raise errors.NotBegun(f"cannot write {path}: {describe_error(error)}", hint=hint) from error


def append_page(path: Path, report: RunResults) -> None:
    """Add the summary of a run to the file of the CI system. Raises OSError."""
    with os.fdopen(_open_page(path), "ab") as page:
        taken = os.fstat(page.fileno()).st_size
        data = report.to_file(taken)
        if not data:
            raise OSError(errno.EFBIG, f"it has {taken} bytes already, and the CI system shows none of a larger one")
        page.write(data)


def _open_page(path: Path) -> int:
    """Open the file of the CI system, which exists, to add to it. Raises OSError.

    The name is from the environment: through sudo, root writes only to a file of the user who called it.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    sudo = os.environ.get("SUDO_UID", "")
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file")
    if os.geteuid() == 0 and sudo and str(status.st_uid) != sudo:
        os.close(fd)
        raise PermissionError(errno.EACCES, f"it belongs to user {status.st_uid}, not to user {sudo}, who called sudo")
    return fd
