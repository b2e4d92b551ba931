"""Whether `runbook doctor` would name the cause of a failure: then it is the next command."""

from __future__ import annotations

import os
from functools import partial

from runbook.doctor.findings import UnitDiagnosis
from runbook.doctor.unit import Doctor
from runbook.errors import HostError, Interrupted
from runbook.host.facts import Unit
from runbook.host.interface import HostView, Waiter
from runbook.records.listened import list_listened_ports

NAMES_CAUSE = "runbook doctor{user} {unit} names the cause"
HAS_DROP_IN = f"{NAMES_CAUSE}, and prints the drop-in file that corrects it"


def advise_doctor(view: HostView, waiter: Waiter, unit: Unit) -> str:
    """Return that the doctor names the cause, if it finds one now; empty if it only finds what the log shows."""
    diagnosis = _diagnose(view, waiter, unit)
    reasons = [cause for cause in diagnosis.causes if cause.is_reason] if diagnosis is not None else []
    if any(cause.drop_in is not None for cause in reasons):
        return HAS_DROP_IN
    return NAMES_CAUSE if reasons else ""


def _diagnose(view: HostView, waiter: Waiter, unit: Unit) -> UnitDiagnosis | None:
    """Return what `runbook doctor UNIT` would find; None if that fails: the failure is reported anyway."""
    recorded = partial(list_listened_ports, "user" if unit.of_user else "system", unit.name)
    try:
        return Doctor(view, waiter, os.geteuid()).diagnose(unit.name, recorded=recorded)
    except (HostError, Interrupted):
        return None
