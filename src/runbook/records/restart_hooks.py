"""The hooks of needrestart that `runbook guard` writes: one file for each unit, which only root may write.

needrestart runs `/etc/needrestart/restart.d/UNIT`, if that is executable, instead of `systemctl restart UNIT`, and
ignores the exit status. A file that this program did not write is neither replaced nor removed.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from runbook.errors import NotBegun
from runbook.records.store import open_file, replace_file
from runbook.util.names import parse_unit_name
from runbook.util.wording import describe_error

MARKER = "# Written by `runbook guard`; `runbook guard --remove` removes it."  # the second line of each hook
LOCK_WAIT = "10min"  # how long a restart waits for another run on the unit, which may be an upgrade
MAX_HOOK = 64 * 1024  # bytes of a hook that are read
_PROGRAM = re.compile(r"^program=(.*)$", re.M)

_TEXT = """\
#!/bin/sh
{marker}
# needrestart runs this instead of `systemctl restart`, and ignores its exit status: `runbook history` has the result.
unit={unit}
program={program}
if ! "$program" --version >/dev/null 2>&1; then
    # For example after an upgrade of Python: then needrestart's own command is better than the old code.
    logger -t runbook -p user.err "$program does not run, so $unit is restarted without proof"
    exec systemctl restart "$unit"
fi
wait={wait}
# Inside a command of a run, which may have the lock itself, to wait would block both. That run restarts the unit.
if grep -Eq '/runbook-[0-9]{{8}}-[0-9]{{4}}-' /proc/self/cgroup; then wait=0s; fi
"$program" restart --lock-wait "$wait" {options} "$unit" </dev/null
status=$?
case $status in
    75) logger -t runbook -p user.warning "$unit was not restarted: another run acts on it" ;;
    2 | 5) logger -t runbook -p user.err "$unit was not restarted: no run began (status $status)" ;;
esac
exit $status
"""


def write_hook(folder: Path, unit: str, program: str, options: Sequence[str]) -> bool:
    """Write the hook of a unit; False if it was there already. Raises NotBegun."""
    path = _find_path(folder, unit)
    quoted = {"unit": shlex.quote(unit), "program": shlex.quote(program), "options": shlex.join(options)}
    text = _TEXT.format(marker=MARKER, wait=LOCK_WAIT, **quoted)
    try:
        if (before := _read_own(path)) == text and _is_executable(path):
            return False
        replace_file(path, text.encode(), mode=0o755)
    except OSError as error:
        raise NotBegun(f"cannot write {path}: {describe_error(error)}") from error
    return before != text


def remove_hook(folder: Path, unit: str) -> bool:
    """Remove the hook of a unit; False if there is none. Raises NotBegun."""
    path = _find_path(folder, unit)
    try:
        if _read_own(path) is None:
            return False
        path.unlink()
    except OSError as error:
        raise NotBegun(f"cannot remove {path}: {describe_error(error)}") from error
    return True


def list_hooks(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each unit that has a hook of this program, and the program that the hook runs. Raises NotBegun."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotBegun(f"cannot list {folder}: {describe_error(error)}") from error
    for name in names:
        try:
            text = _read(folder / name)
        except OSError:
            continue
        if _is_own(text):
            yield name, _find_program(text)


def _find_program(text: str) -> str:
    """Return the program that a hook runs; empty if it was changed so that no shell can read it."""
    try:
        words = shlex.split("".join(_PROGRAM.findall(text)[:1]))
    except ValueError:
        return ""
    return words[0] if words else ""


def _find_path(folder: Path, unit: str) -> Path:
    # A path in the name would lead elsewhere.
    assert parse_unit_name(unit) == unit
    return folder / unit


def _read_own(path: Path) -> str | None:
    """Return the text of a hook of this program; None if there is no file. Raises NotBegun for any other."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    text = _read(path) if stat.S_ISREG(status.st_mode) else ""
    if not _is_own(text):
        hint = "keep it, or remove it by hand"
        raise NotBegun(f"{path} is not a hook of this program, so it is left as it is", hint=hint)
    return text


def _read(path: Path) -> str:
    with open_file(path) as file:
        return file.read(MAX_HOOK).decode(errors="replace")


def _is_own(text: str) -> bool:
    return text.split("\n")[1:2] == [MARKER]


def _is_executable(path: Path) -> bool:
    return bool(path.lstat().st_mode & stat.S_IXUSR)
