"""Which version is it: what a program prints, and whether a process is older than the files it was started from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

from runbook.host.facts import Unit
from runbook.host.holders import PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.queries import Answer
from runbook.util import regex
from runbook.util.timespan import format_span
from runbook.util.wording import shorten

VERSION = r"(?<!\d)\d+(?:\.\d+)+(?:[a-z]\w*)?(?:\.(?:dev|post)\d+)?(?:[-+~][0-9A-Za-z.+~-]*[0-9A-Za-z])?"
"""The first thing like 1.2, 1.2.3-rc1, 1.2rc1 or 1.2.dev3 in what a program prints: 1.2rc1 is not 1.2.

It begins where a run of digits begins, so that the time of a search grows with the text and not with its square:
no child process is needed to bound it.
"""

_VERSION = re.compile(VERSION)

CLOCK_TOLERANCE = 0.01
"""Seconds by which two moments must be apart, to say which of them came first.

A process's start is cut to a hundredth (proc(5)), and a file's time is that of the kernel's last tick.
"""

DELETED = " (deleted)"
NO_PATH_EXE = "/"
"""What /proc/PID/exe says of a program that is mounted over itself, as ExecPaths= does it: it has no path out here."""
MEMFD_PREFIX = "/memfd:"
"""What the name of a program begins with that never had a file (memfd_create(2))."""


@lru_cache(maxsize=16)
def find_version(output: str, pattern: str) -> str | None:
    """Find the version in what was printed: the first group of the pattern, if it has one, else all of it.

    The search for an operator's pattern takes a child process, so results are cached. Raises HostError for a pattern
    that takes too long.
    """
    if pattern == VERSION:
        match = _VERSION.search(output)
        return match[0] if match else None
    found = regex.search(pattern, output)
    return found[:2][-1] if found else None


def parse_version_answer(answer: Answer, pattern: str) -> str | None:
    """Give the version that a command told; one that failed has told none."""
    return find_version(answer.output, pattern) if answer.ok else None


def rewrite_versions(text: str, versions: Mapping[str, str], *, pattern: bool = False) -> str:
    """Give a text with the earlier version in each place where a later one stands; `versions` leads back.

    In a `pattern` also where its dots, or all of its signs, are quoted; the earlier one is quoted there. Only a whole
    version counts: 1.1.0 stands neither in 11.1.0 nor in 1.1.0.2 or 1.1.0-rc1. One without a dot is any number, so
    that it counts only where it is the whole text.
    """
    if text in versions and not pattern:
        return versions[text]
    known: dict[str, str] = {}
    for new, old in versions.items():
        if "." in new and pattern:
            known |= dict.fromkeys((re.escape(new), new.replace(".", r"\."), new), re.escape(old))
        elif "." in new:
            known[new] = old
    if not known:
        return text
    alternatives = "|".join(re.escape(one) for one in sorted(known, key=len, reverse=True))
    before, behind = r"(?<!\d)(?<!\d[.:])(?<!\d\\\.)", r"(?![0-9A-Za-z])(?!\\?[-.+~][0-9A-Za-z])"
    return re.sub(f"{before}(?:{alternatives}){behind}", lambda found: known[found[0]], text)


def describe_unmatchable(version: str, pattern: str) -> str:
    """Say why the default pattern can never find this version, or nothing.

    It looks at nothing around what it takes, so what it makes of the version alone is what it makes of it anywhere.
    Of another pattern that cannot be known.
    """
    found = find_version(version, VERSION)
    if pattern != VERSION or found == version:
        return ""
    taken = f"it takes `{found}` of it" if found else "it wants digits and dots"
    return f"`{shorten(version)}` is never found by the default pattern: {taken}; add a `pattern`, such as '\\S+'"


def describe_missing_version(asked: str, answer: Answer, *, secret: bool = False) -> str:
    """Say why a command told no version; what it printed is not told where that is `secret`."""
    if not answer.ok:
        return f"{asked} {answer.detail}"
    if secret:
        return f"{asked} prints no version"
    said = answer.output.strip()
    return f"{asked} prints " + (f"`{shorten(said)}`, and no version in it" if said else "nothing")


@dataclass(frozen=True)
class FileChange:
    """The latest change among some files. `changed` is in seconds since the epoch."""

    path: str
    changed: float
    files: int

    @classmethod
    def from_json(cls, output: str) -> Self:
        """Read the answer to a LatestChange."""
        return cls(**json.loads(output))

    def evidence(self) -> dict[str, Any]:
        """Give it for the record."""
        return {"file": self.path, "file-changed": _format_time(self.changed), "files": self.files}


@dataclass(frozen=True)
class Server:
    """A process that serves, and when it began, in seconds since the epoch."""

    process: Process
    started_at: float

    def replaced(self) -> bool:
        """Whether the program that it runs is no longer what its file holds."""
        exe = self.process.exe
        return exe.endswith(DELETED) and not exe.startswith(MEMFD_PREFIX)

    def older_than(self, change: FileChange) -> bool:
        """Whether it was there before the change."""
        return change.changed >= self.started_at + CLOCK_TOLERANCE

    def evidence(self) -> dict[str, Any]:
        """Give it for the record."""
        return {"pid": self.process.pid, "began": _format_time(self.started_at), "exe": self.process.exe}


def find_servers(view: HostView, unit: Unit, ports: Iterable[PortOwnership]) -> list[Server]:
    """Give the unit's main process and all of its processes that hold one of the ports, the oldest first."""
    held = [h.process for seen in ports for h in seen.holders if h.role is Role.CURRENT]
    main = view.find_process(unit.main_pid) if unit.main_pid else None
    found = {process.id: process for process in (*held, *((main,) if main else ()))}
    return sorted(
        (Server(p, _find_start_time(view, unit, p)) for p in found.values()), key=lambda server: server.started_at
    )


def _find_start_time(view: HostView, unit: Unit, process: Process) -> float:
    """Say when a process began, by the clock that files get their times from.

    Where the clock was set since, the kernel's answer is off by as much. systemd noted the clock of that moment
    for the main process: of the two the earlier one counts, so that no old process passes for a new one.
    """
    began = view.find_start_time(process)
    if process.pid == unit.main_pid == unit.exec_main_pid and unit.exec_main_start:
        return min(began, unit.exec_main_start / 1e6)
    return began


def describe_old_code(found: list[Server], change: FileChange) -> str:
    """Say which process is older than the files it was started from, or nothing."""
    for server in found:
        process = server.process
        if server.replaced():
            gone = process.exe.removesuffix(DELETED)
            if gone == NO_PATH_EXE:
                return f"{process}: the file of its program was replaced or removed since it began"
            return f"{process} runs {gone}, and that file was replaced or removed since"
        if server.older_than(change):
            return f"{process} began {_format_gap(change.changed - server.started_at)} before {change.path} changed"
    return ""


def describe_new_code(found: list[Server], change: FileChange) -> str:
    """Say that all of them are younger; they are not none."""
    oldest = found[0]
    gap = _format_gap(oldest.started_at - change.changed)
    return f"{oldest.process} began {gap} after {change.path}, the last file, changed"


def _format_gap(seconds: float) -> str:
    return format_span(seconds) if seconds >= 1 else "less than a second"


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
