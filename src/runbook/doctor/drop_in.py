"""Makes drop-in files, which override settings of a unit's own file (systemd.unit(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from runbook.doctor.findings import DropIn
from runbook.host.facts import Unit
from runbook.host.interface import HostView

_OF_UNIT = ("StartLimitIntervalSec", "StartLimitBurst")  # settings of the section [Unit]; the others are of [Service]
_AT_ONCE = {"KillMode", "SendSIGKILL", *_OF_UNIT}  # settings that a daemon-reload changes for a unit that runs
_PREFIX = "zz-runbook-"  # systemd reads drop-in files in the order of their names: after override.conf of `edit`


def make_drop_in(view: HostView, unit: Unit, name: str, effect: str, **settings: str) -> tuple[DropIn | None, str]:
    """Make a drop-in file for a unit of the system, or of the user who runs this program.

    If another drop-in file of the unit has one of the settings, or this file exists, return no file but the advice to
    edit that one: a file of an operator is neither overwritten nor overridden.
    """
    if unit.is_transient:
        return None, f"so that {effect}: start it with {_list(settings)}"  # Its next start has another file.
    folder = "~/.config/systemd/user" if unit.of_user else "/etc/systemd/system"
    path = f"{folder}/{unit.name}.d/{_PREFIX}{name}.conf"
    if decides := _find_deciding(view, unit, path, settings):
        return None, f"so that {effect}: set {_list(settings)} in {decides}: that file decides"
    sections = {"Unit": [key for key in settings if key in _OF_UNIT]}
    sections["Service"] = [key for key in settings if key not in _OF_UNIT]
    parts = [
        "\n".join([f"[{section}]", *(f"{key}={settings[key]}" for key in keys)])
        for section, keys in sections.items()
        if keys
    ]
    text = "\n\n".join(parts) + "\n"
    return DropIn(path, text, effect, at_start=not _AT_ONCE.issuperset(settings)), ""


def _list(settings: dict[str, str]) -> str:
    return " and ".join(f"{key}={value}" for key, value in settings.items())


def _find_deciding(view: HostView, unit: Unit, path: str, settings: Iterable[str]) -> str:
    """Return the drop-in file in which a setting is to be changed; empty if a new file at `path` decides.

    A file that cannot be read counts if it is read after the new one.
    """
    own = str(Path(path).expanduser())
    if view.read_files(own):
        return path
    sets = re.compile(rf"^\s*(?:{'|'.join(settings)})\s*=", re.MULTILINE)
    name = PurePosixPath(path).name
    for file in reversed(view.read_files(*unit.drop_in_paths) if unit.drop_in_paths else ()):
        is_later = PurePosixPath(file.path).name >= name
        is_operators = Path(file.path).parent == Path(own).parent
        if (is_later and file.error) or ((is_later or is_operators) and sets.search(file.text)):
            # A file of a package, or of all services, is not to be edited; a copy replaces it for this unit alone.
            return file.path if is_operators else f"a copy of {file.path} in {Path(own).parent}"
    return ""
