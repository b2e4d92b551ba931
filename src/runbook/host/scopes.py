"""A scope of this program's own, so that neither the end of a login nor that of a service takes it along."""

from __future__ import annotations

import os
from typing import Any

from runbook.host.bus import variant
from runbook.host.facts import JobRef
from runbook.host.systemd import Systemd

SLICES = {"system": "system.slice", "user": "app.slice"}
"""Where a scope goes: to the services, not to the logins."""


def begin(systemd: Systemd, name: str) -> JobRef:
    """Ask for a scope with this program in it. Raises AccessDenied, HostError.

    The kernel moves a process with all its threads. Whoever started it stays where it was.
    """
    unit = f"runbook-{name}.scope"
    settings = {
        "Description": ("s", f"runbook: run {name}"),
        "PIDs": ("au", [os.getpid()]),
        "Slice": ("s", SLICES[systemd.scope]),
        "CollectMode": ("s", "inactive-or-failed"),
    }
    properties = [(key, variant(*value)) for key, value in settings.items()]
    arguments: tuple[Any, ...] = (unit, "fail", properties, [])
    what = f"go into {unit}"
    answer = systemd.manager("StartTransientUnit", "(ssa(sv)a(sa(sv)))", *arguments, what=what, settle=True)
    return systemd.began(answer, unit, "start")
