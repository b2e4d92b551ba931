"""Which version it is: what a program prints, and whether a process is older than the files it was started from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from runbook.host.facts import Unit
from runbook.host.holders import DELETED, PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.queries import Answer, FileChange
from runbook.util import regex
from runbook.util.timespan import format_span
from runbook.util.wording import shorten

VERSION = r"(?<!\d)\d+(?:\.\d+)+(?:[a-z]\w*)?(?:\.(?:dev|post)\d+)?(?:[-+~][0-9A-Za-z.+~-]*[0-9A-Za-z])?"
"""The first text like 1.2, 1.2.3-rc1, 1.2rc1 or 1.2.dev3 in the output of a program: 1.2rc1 is not 1.2.

It begins where a run of digits begins, so that the time of a search grows with the text and not with its square:
no child process is needed to bound it.
"""

_VERSION = re.compile(VERSION)

CLOCK_TOLERANCE = 0.01
"""Seconds by which two moments must differ for their order to be known.

The start of a process is rounded down to a hundredth (proc(5)), and a file's time is that of the kernel's last tick.
"""

NO_PATH_EXE = "/"  # /proc/PID/exe of a program that is mounted over itself, as ExecPaths= does: it has no path here
MEMFD_PREFIX = "/memfd:"  # how /proc/PID/exe begins for a program that never had a file (memfd_create(2))


@lru_cache(maxsize=16)
def find_version(output: str, pattern: str) -> str | None:
    """Return the version in an output: the first group of the pattern if it has one, else the whole match.

    The search for an operator's pattern takes a child process, so results are cached. Raises HostError for a pattern
    that takes too long.
    """
    if pattern == VERSION:
        match = _VERSION.search(output)
        return match[0] if match else None
    found = regex.search(pattern, output)
    return found[:2][-1] if found else None


def rewrite_versions(text: str, versions: Mapping[str, str], *, pattern: bool = False) -> str:
    """Return a text with each later version replaced by the earlier one; `versions` maps later to earlier.

    In a `pattern`, a later version is also found with its dots or all its signs escaped, and the earlier one is
    escaped. Only a whole version counts: 1.1.0 is not found in 11.1.0, 1.1.0.2 or 1.1.0-rc1. A version without a dot
    may be any number, so it is replaced only if it is the whole text.
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
    alternatives = "|".join(re.escape(version) for version in sorted(known, key=len, reverse=True))
    # No digit before it, nor the dot of a longer version or the colon of an epoch; no suffix behind it.
    before, behind = r"(?<!\d)(?<!\d[.:])(?<!\d\\\.)", r"(?![0-9A-Za-z])(?!\\?[-.+~][0-9A-Za-z])"
    return re.sub(f"{before}(?:{alternatives}){behind}", lambda found: known[found[0]], text)


def describe_unmatchable(version: str, pattern: str) -> str:
    """Return why the default pattern can never find this version; empty if it can.

    The default pattern looks at no text around a version, so it matches one alone as it does inside a text. Another
    pattern may look around, so nothing is known of it.
    """
    found = find_version(version, VERSION)
    if pattern != VERSION or found == version:
        return ""
    match = f"it finds only `{found}`" if found else "it needs digits and dots"
    return f"`{shorten(version)}` is never found by the default pattern: {match}; add a `pattern`, such as '\\S+'"


def describe_missing_version(command: str, answer: Answer[str], *, secret: bool = False) -> str:
    """Return why a command printed no version, with its output unless that is `secret`."""
    if not answer.ok:
        return f"{command} {answer.detail}"
    if secret:
        return f"{command} prints no version"
    output = (answer.value or "").strip()
    return f"{command} prints " + (f"`{shorten(output)}`, and no version in it" if output else "nothing")


def change_evidence(change: FileChange) -> dict[str, Any]:
    """Return a change of files for the record."""
    return {"file": change.path, "file-changed": _format_time(change.changed), "files": change.files}


class Server(NamedTuple):
    """A process that serves."""

    process: Process
    started_at: float  # seconds since the epoch

    def evidence(self) -> dict[str, Any]:
        """Return the process for the record."""
        return {"pid": self.process.pid, "began": _format_time(self.started_at), "exe": self.process.exe}


def find_servers(view: HostView, unit: Unit, ports: Iterable[PortOwnership]) -> list[Server]:
    """Return the unit's main process, and its processes that hold one of the ports, the oldest first."""
    held = [h.process for ownership in ports for h in ownership.holders if h.role is Role.CURRENT]
    main = view.find_process(unit.main_pid) if unit.main_pid else None
    # The main process may hold no port: its workers do, or a socket unit.
    found = {process.id: process for process in (*held, *((main,) if main else ()))}
    servers = [Server(process, _find_start_time(view, unit, process)) for process in found.values()]
    return sorted(servers, key=lambda server: server.started_at)


def _find_start_time(view: HostView, unit: Unit, process: Process) -> float:
    """Return when a process began, by the clock that files get their times from.

    If the clock was set since, the kernel's answer is wrong by as much. For the main process, systemd recorded the
    clock of that moment. The earlier of the two counts, so that an old process is never taken for a new one.
    """
    began = view.find_start_time(process)
    if process.pid == unit.main_pid == unit.exec_main_pid and unit.exec_main_start:
        return min(began, unit.exec_main_start / 1e6)
    return began


def describe_old_code(found: list[Server], change: FileChange) -> str:
    """Return which process is older than the files it was started from; empty if none is."""
    for server in found:
        process = server.process
        if process.exe.endswith(DELETED) and not process.exe.startswith(MEMFD_PREFIX):
            if process.exe_path == NO_PATH_EXE:
                return f"{process}: the file of its program was replaced or removed since it began"
            return f"{process} runs {process.exe_path}, and that file was replaced or removed since"
        if change.changed >= server.started_at + CLOCK_TOLERANCE:
            return f"{process} began {_format_gap(change.changed - server.started_at)} before {change.path} changed"
    return ""


def describe_new_code(found: list[Server], change: FileChange) -> str:
    """Return that all processes are younger than the files. There is at least one."""
    gap = _format_gap(found[0].started_at - change.changed)
    return f"{found[0].process} began {gap} after {change.path}, the last file, changed"


def _format_gap(seconds: float) -> str:
    return format_span(seconds) if seconds >= 1 else "less than a second"


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
