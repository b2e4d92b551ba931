"""Where the log of a unit is, if journalctl does not show it, or not all of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from runbook.host.facts import Unit
from runbook.host.interface import HostView
from runbook.util.log_names import is_log_file_name

MAX_LOGS = 3  # how many files are named
TO_FILE = ("file", "append", "truncate")  # values of StandardOutput= with a path
_SETTING = re.compile(r"^\s*(StandardOutput|StandardError)\s*=\s*(.*?)\s*$", re.MULTILINE)
_PATH = re.compile(r"(?<![\w/.])/[\w./@+-]+")
_SPECIFIER = re.compile(r"%(.)")
_ROOTS = {
    "t": "/run",
    "S": "/var/lib",
    "C": "/var/cache",
    "L": "/var/log",
    "E": "/etc",
    "h": "/root",
}  # of the system's manager


def describe_log_command(view: HostView, unit: Unit, *, follow: bool = False) -> str:
    """Return the command that shows a unit's log: "journalctl -u gw.service -n 30", "tail -n 30 /var/log/gw.log"."""
    commands, words = find_log_commands(view, unit, follow=follow)
    return " or ".join((*commands, *words))


def find_log_commands(view: HostView, unit: Unit, *, follow: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commands that show a unit's log, and in words the places that no command is known for."""
    user = " --user" if unit.of_user else ""
    namespace = f" --namespace={shlex.quote(unit.log_namespace)}" if unit.log_namespace else ""
    how = "-f" if follow else "-n 30"
    journal = f"journalctl{user}{namespace} -u {shlex.quote(unit.name)} {how}"
    files, only = find_log_files(view, unit)
    if not files and _prints_to_file(unit):
        return (), (f"the file of StandardOutput= in {unit.systemctl_command('cat')}",)
    if not files:
        folders = [f"/var/log/{name}" for name in unit.logs_directory if not unit.of_user][:MAX_LOGS]
        return (journal,), tuple(f"the newest file in {shlex.quote(folder)}" for folder in folders)
    tail = f"tail {how} {' '.join(map(shlex.quote, files))}"
    return ((tail,) if only else (journal, tail)), ()


def describe_discarded(unit: Unit) -> str:
    """Return that what a unit prints goes nowhere; empty if it does not."""
    if unit.standard_output != "null" or unit.standard_error not in ("null", "inherit"):
        return ""
    return "; what it prints is discarded (StandardOutput=null), so its journal has only what systemd logs of it"


def find_log_files(view: HostView, unit: Unit) -> tuple[tuple[str, ...], bool]:
    """Return the files that a unit logs to, and whether all that it prints goes there."""
    by_setting = tuple(dict.fromkeys(_find_output_files(view, unit)))
    if by_setting and _prints_to_file(unit):
        return by_setting[:MAX_LOGS], True
    named = (path for word in unit.start_arguments for path in _PATH.findall(word) if is_log_file_name(path))
    # Errors first: of several files one is shown.
    others = sorted(dict.fromkeys((*view.find_open_logs(unit), *named)), key=lambda path: "err" not in path.lower())
    return tuple(dict.fromkeys((*by_setting, *others)))[:MAX_LOGS], False


def _prints_to_file(unit: Unit) -> bool:
    """True if all that a unit prints goes to files."""
    outputs = {unit.standard_output, unit.standard_error} - {"inherit", ""}
    return bool(outputs.intersection(TO_FILE)) and outputs <= {*TO_FILE, "null"}


def _find_output_files(view: HostView, unit: Unit) -> Iterator[str]:
    """Yield the paths of StandardOutput= and StandardError=, which systemd does not report, from the unit's files."""
    if not {unit.standard_output, unit.standard_error}.intersection(TO_FILE):
        return
    files = view.read_files(*filter(None, (unit.fragment_path, *unit.drop_in_paths)))
    set_last = {name: value for file in files for name, value in _SETTING.findall(file.text)}
    for value in set_last.values():
        kind, _, path = value.partition(":")
        if kind in TO_FILE and (known := _expand(path, unit)):
            yield known


def _expand(path: str, unit: Unit) -> str:
    """Return a path with the specifiers that are certain (systemd.unit(5)); empty if it has another."""
    stem = unit.name.rpartition(".")[0]
    prefix, _, instance = stem.partition("@")
    known = {"n": unit.name, "N": stem, "p": prefix, "i": instance, "%": "%"}
    known |= {"h": str(Path.home())} if unit.of_user else _ROOTS
    if any(letter not in known for letter in _SPECIFIER.findall(path)):
        return ""
    return _SPECIFIER.sub(lambda match: known[match[1]], path)
