"""Makes drop-in files, which override settings of a unit's own file (systemd.unit(5))."""

from __future__ import annotations

from runbook.doctor.findings import DropIn
from runbook.host.facts import Unit

_OF_UNIT = ("StartLimitIntervalSec", "StartLimitBurst")  # settings of the section [Unit]; the others are of [Service]
_AT_ONCE = {"KillMode", "SendSIGKILL", *_OF_UNIT}  # settings that a daemon-reload changes for a unit that runs
_PREFIX = "zz-runbook-"  # of a name of our own that sorts after override.conf, which `systemctl edit` writes


def make_drop_in(unit: Unit, name: str, effect: str, **settings: str) -> DropIn:
    """Make a drop-in file for a unit of the system, or of the user who runs this program."""
    folder = "~/.config/systemd/user" if unit.of_user else "/etc/systemd/system"
    sections = {"Unit": [key for key in settings if key in _OF_UNIT]}
    sections["Service"] = [key for key in settings if key not in _OF_UNIT]
    parts = [
        "\n".join([f"[{section}]", *(f"{key}={settings[key]}" for key in keys)])
        for section, keys in sections.items()
        if keys
    ]
    text = "\n\n".join(parts) + "\n"
    path = f"{folder}/{unit.name}.d/{_PREFIX}{name}.conf"
    return DropIn(path, text, effect, at_start=not _AT_ONCE.issuperset(settings))
