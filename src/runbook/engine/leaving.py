"""A run leaves what it was started in, where that would take it along: a login, or a unit that it acts on."""

from __future__ import annotations

from dataclasses import dataclass

from runbook.engine.closing import needing
from runbook.errors import HostError, NotBegun
from runbook.host.facts import JobResult, Unit
from runbook.host.ports import SAME_MOMENT, Host, HostView, Waiter
from runbook.model import Deadline, Impact, Wake
from runbook.step import Runbook

PATIENCE = 5.0
"""Seconds for systemd to make a scope."""


@dataclass(frozen=True)
class Left:
    """What a run has left, if it was in anything that it had to leave; and what is doubtful, where it could not."""

    place: str = ""
    doubt: str = ""


def leave(host: Host, waiter: Waiter, book: Runbook, name: str) -> Left:
    """Go into a scope of one's own, called by `name`, where there is anything to leave.

    Raises NotBegun where it stays inside a unit that the run acts on, and Interrupted.
    """
    around = _around(host, book)
    place = around.name if around is not None else host.login()
    if not place:
        return Left()
    why = _go(host, waiter, name)
    still = _around(host, book)
    if still is not None:
        raise NotBegun(
            f"cannot begin: this program runs inside {still.name}, and would be stopped with it",
            hint=f"run it from outside: {_outside(still)} --scope runbook apply …",
        )
    if login := host.login():
        return Left(doubt=f"this run may end with the login that it was started in ({login}), and stays there: {why}")
    return Left(place)


def needs_another_process(view: HostView, book: Runbook) -> bool:
    """Whether this very program is the main process of a unit that the run would stop: no scope saves that one."""
    try:
        return any(view.is_main(unit) for unit in _stopped(view, book))
    except HostError:
        return False  # What keeps the units from being looked at keeps the run from beginning, too.


def _go(host: Host, waiter: Waiter, name: str) -> str:
    """Go, and say why that did not work; mostly nothing."""
    try:
        ref = host.begin_scope(name)
        deadline = Deadline.after(host.clock, PATIENCE)
        while (result := host.job(ref)) is None and not deadline.passed:
            waiter.wait(Wake(units=frozenset({ref.unit})), deadline)
    except HostError as error:
        return error.message
    return "" if result is JobResult.DONE else f"systemd did not make {ref.unit} ({result or 'no answer'})"


def _around(view: HostView, book: Runbook) -> Unit | None:
    """Give the unit that this program runs inside of and that the run would stop."""
    return next((u for u in _stopped(view, book) if view.runs_inside(u) or view.is_main(u)), None)


def _stopped(view: HostView, book: Runbook) -> list[Unit]:
    """Give the units that the run may stop: those it acts on, and those that are stopped along with them."""
    acting = {n for one in book.walk() if one.impact_here() is Impact.MUTATING for n in one.units()}
    return [view.unit(name, recent=SAME_MOMENT) for name in sorted({*acting, *needing(view, book)})]


def _outside(unit: Unit) -> str:
    return "systemd-run --user" if unit.of_user else "sudo systemd-run"
