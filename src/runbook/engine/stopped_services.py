"""Services that a command of the run left stopped, as the script of a package may: which ones, and who stopped them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from runbook.errors import HostError
from runbook.host.facts import ActiveState
from runbook.host.interface import HostView
from runbook.host.requesters import describe_requester, find_last_stop
from runbook.spec.step import Step

COMMAND_UNITS = "runbook-*.service"  # the units of this program's commands


def describe_stopped_services(view: HostView, step: Step[Any], own: Iterable[str], up: Iterable[str]) -> list[str]:
    """Return a sentence for each service that was `up` before a step and that a command of it has stopped.

    Of a unit in `own`, those of the runbook, a stop is also reported if it is not known who requested it. A oneshot
    service that ends by itself is not of interest.
    """
    try:
        gone = set(up) - set(view.list_services()) if up else set()
        units = [view.unit(name) for name in sorted(gone) if not fnmatchcase(name, COMMAND_UNITS)]
    except HostError:
        return []
    kept_stopped = set(step.units()) if step.job_verb() is not None else set()
    found, runbook_units = [], set(own)
    for unit in units:
        if unit.active_state is not ActiveState.INACTIVE or not kept_stopped.isdisjoint((unit.name, *unit.names)):
            continue
        last = find_last_stop(unit.job_requests)
        if last is not None and last.is_own:
            who = describe_requester(last)
            found.append(f"{unit.name} was stopped by {who} at {step.step_id}, and is {unit.describe()}")
        elif unit.name in runbook_units:
            who = f"; {describe_requester(last)} stopped it" if last is not None else "; who stopped it is not known"
            found.append(f"{unit.name} was up before {step.step_id}, and is {unit.describe()} now{who}")
    return found
