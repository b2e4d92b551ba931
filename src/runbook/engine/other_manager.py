"""Advise on a unit that another manager has: `--user` was left out, or is one too many."""

from __future__ import annotations

from runbook.checks.other_manager import explain_other_manager
from runbook.errors import HostError
from runbook.host.facts import LoadState, Unit
from runbook.host.interface import SHARED_READ_AGE, HostView
from runbook.spec.runbook import Runbook


def find_other_manager(view: HostView, book: Runbook) -> str:
    """Return the advice for the first unit of a runbook that only another manager has; empty if there is none."""
    try:
        units = (view.unit(name, max_age=SHARED_READ_AGE) for name in book.unit_names())
        missing = (unit for unit in units if unit.load_state is LoadState.NOT_FOUND and not unit.is_running)
        return next(filter(None, (describe_other_manager(view, unit, book) for unit in missing)), "")
    except HostError:
        return ""


def describe_other_manager(view: HostView, unit: Unit, book: Runbook) -> str:
    """Return which other manager has a unit that this one does not have, and what to do; empty if none has it."""
    in_file = "scope" in book.model_fields_set
    return explain_other_manager(
        view,
        unit.name,
        system="write `scope: system` in the file" if book.scope == "user" else "leave out --user",
        user="write `scope: user` in the file" if in_file else "add --user",
    )
