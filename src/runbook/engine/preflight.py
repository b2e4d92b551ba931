"""A run leaves what it was started in, where that would take it along: a login, or a unit that it acts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runbook.errors import HostError, NotBegun
from runbook.host.facts import DOWN, UP, JobResult, LoadState, Unit
from runbook.host.interface import SAME_MOMENT, Host, HostView, Waiter
from runbook.model import Deadline, Impact, Wake
from runbook.spec.step import Runbook

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


def needing(view: HostView, book: Runbook) -> dict[str, str]:
    """Name what is up and needs a unit that the runbook changes, with that unit.

    systemd stops it with that one, and a start of that one does not bring it back (systemd.unit(5), Requires=).
    """
    try:
        changed = {n for one in book.walk() if one.impact_here() is Impact.MUTATING for n in one.units()}
        named = {view.unit(name, recent=SAME_MOMENT).name for step in book.walk() for name in step.units()}
        found: dict[str, str] = {}
        left = [(name, name) for name in sorted(changed)]
        while left:
            name, of = left.pop(0)
            for other in view.unit(name, recent=SAME_MOMENT).restarts_with:
                if other not in found and other not in named and view.unit(other).active_state in UP:
                    found[other] = of
                    left.append((other, of))
    except HostError:
        return {}  # Whether the units can be looked at is for the steps to say.
    return found


def gone_along(view: HostView, needing: Mapping[str, str]) -> list[str]:
    """Say what of that is down now, in sentences."""
    try:
        units = {name: view.unit(name) for name in needing}
    except HostError:
        return []
    return [
        f"{name}, which needs {needing[name]}, was up before and is {unit.describe()} now; {unit.command('start')}"
        for name, unit in units.items()
        if unit.active_state in DOWN
    ]


def begin(view: HostView, book: Runbook) -> list[str]:
    """Give what is doubtful, in sentences. Raises NotBegun for what is sure to go wrong before anything is touched."""
    could_come, doubts = False, dict[str, str]()
    for step in book.walk():
        could_come = could_come or step.brings_units
        for name in step.units():
            unit = view.unit(name, recent=SAME_MOMENT)
            if unit.load_state is not LoadState.NOT_FOUND or unit.runs:
                continue
            near = view.near(name)
            if not could_come:
                user = " --user" if unit.of_user else ""
                nearly = f"systemctl{user} list-unit-files '{unit.name.split('.')[0][:4]}*' lists what is near"
                raise NotBegun(
                    f"cannot begin: {unit.unknown()}",
                    hint=f"did you mean {near}?" if near else nearly,
                )
            if near:
                doubts[name] = unit.unknown(near).replace(name, f"{name} yet", 1)
    return list(doubts.values())
