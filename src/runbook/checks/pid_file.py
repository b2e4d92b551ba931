"""What PIDFile= contains while systemd waits for it, and what the process is that it names.

systemd removes the file when the unit has failed, so this can be found only during the start.
"""

from __future__ import annotations

from runbook.host.cgroups import parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.interface import HostView
from runbook.host.queries import FileText

MAX_DIGITS = 9  # digits of a PID; the kernel's largest has 7
WATCH_DELAY = 1.0  # seconds within which systemd reads a file that was written, and by which its time may be off


def describe_pid_file(view: HostView, unit: Unit) -> str:
    """Return what the file contains, as a sentence about it; empty if systemd does not wait for it."""
    if not unit.awaits_pid_file:
        return ""
    found = view.read_files(unit.pid_file)
    what = _describe_content(view, unit, found[0]) if found else f"it does not exist{_describe_inside(view, unit)}"
    # When the time is over, systemd kills the process and removes the file: what was read then is no cause.
    return f"{what}{_describe_reload(view, unit)}" if view.unit(unit.name).awaits_pid_file else ""


def _describe_inside(view: HostView, unit: Unit) -> str:
    pids = view.list_unit_pids(unit)
    process = view.find_process(pids[0]) if pids else None
    return f", and {process} runs in {unit.name}" if process is not None else ""


def _describe_content(view: HostView, unit: Unit, file: FileText) -> str:
    if file.error:
        return f"it cannot be read: {file.error}"
    word = file.text.partition("\n")[0].strip()
    if not (word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS):
        # The content is not shown: the file may be a link to one that only root may read.
        return "it does not contain a PID" if file.text.strip() else "it is empty"
    began, now = unit.inactive_exit / 1e6, view.clock.now()
    it = "it is older than this start, and" if file.changed < began - WATCH_DELAY else "it"
    process = view.find_process(int(word))
    if process is None or process.dead:
        return f"{it} names PID {word}, and no such process runs"
    where = parse_cgroup_path(process.cgroup).unit
    if where not in {unit.name, *unit.names}:
        return f"{it} names {process}, in {where or 'no unit'} and not in {unit.name}{_describe_owner(file)}"
    ignored = ", which systemd has not taken as the main process" if now - file.changed > WATCH_DELAY else ""
    return f"{it} names {process} of {unit.name}{ignored}"


def _describe_owner(file: FileText) -> str:
    """Return that systemd refuses such a process (systemd, src/core/service.c, service_load_pid_file())."""
    return f"; systemd accepts that only in a file of root's, and it belongs to uid {file.uid}" if file.uid else ""


def is_pid_file_lost(view: HostView, unit: Unit) -> bool:
    """True if the start cannot complete: systemd waits for a file that it does not watch any more."""
    return unit.awaits_pid_file and bool(_describe_reload(view, unit))


def _describe_reload(view: HostView, unit: Unit) -> str:
    """Return that systemd does not watch the file any more: it forgets that in a daemon-reload (systemd issue 11574).

    A later daemon-reload does not help (seen on 252 and 257). One that came before systemd began to watch does no harm.
    """
    loaded = view.last_unit_load()
    if loaded < max(unit.inactive_exit_monotonic, unit.control_exit_monotonic):
        return ""
    anew = unit.systemctl_command("restart")
    return f"; systemd was reloaded during the start, and has not watched the file since ({anew} starts it anew)"


def describe_last_read(seen: str) -> str:
    """Return what the file contained when it was last read, for a unit whose start has failed; `seen` may be empty."""
    return f"; when PIDFile= was last read: {seen}" if seen else ""
