"""Before a run begins: do its units exist, what depends on them, and does the run have to leave where it was started.

A run that was started in a login session, or inside a unit that it acts on, would be stopped together with that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runbook.checks.propagation import find_reached
from runbook.checks.side_effects import describe_emergency_actions, describe_taken_along, find_taken_along
from runbook.engine.execution.attempt import check_once
from runbook.engine.other_manager import describe_other_manager
from runbook.errors import HostError, Interrupted, NotBegun, RunbookError
from runbook.host.facts import DOWN, JobResult, JobVerb, LoadState, Unit
from runbook.host.interface import SHARED_READ_AGE, Host, HostView, Waiter
from runbook.model import Deadline, Finding, Wake
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import DOWNGRADE, ReplacesVersion, Step
from runbook.template import text as template
from runbook.template.namespace import TemplateNamespace

CheckUpdate = Callable[[Step[Any]], Finding | None]  # checks a step once; None if what it finds is not known yet

SCOPE_TIMEOUT = 5.0  # seconds for systemd to create a scope


@dataclass
class Preflight:
    """The checks of a run before it changes anything, and the facts that they find."""

    host: Host
    waiter: Waiter
    book: Runbook
    left_unit: str = ""  # the session or unit that this program left for a scope of its own
    warnings: list[str] = field(default_factory=list)  # sentences to report when the run begins
    canonical_names: dict[str, str] = field(default_factory=dict)  # systemd's name, by the name in the runbook
    dependents: dict[str, str] = field(default_factory=dict)  # those of `find_dependents`
    was_up: bool = False  # True if the runbook's unit was running before the run

    def run(self, scope: str, begins: tuple[RunState, TemplateNamespace] | None) -> None:
        """Check the units, and move to a scope of this name if necessary. Raises NotBegun and Interrupted.

        `begins` is what a check needs; None for a run that is resumed, whose steps may have created units partly.
        """
        try:
            doubts = check_units_exist(self.host, self.book, begins and partial(self._check_update, *begins))
            self._move_to_scope(scope)
            self.warnings += [*doubts, *describe_side_effects(self.host, self.book)]
            units = {name: self.host.unit(name, max_age=SHARED_READ_AGE) for name in self.book.unit_names()}
            self.dependents = find_dependents(self.host, self.book)
        except HostError as error:
            raise NotBegun(error.message, hint=error.hint) from error
        self.canonical_names = {name: unit.name for name, unit in units.items()}
        self.was_up = self.book.unit is not None and units[self.book.unit].is_running

    def refuse_downgrades(self, state: RunState, namespace: TemplateNamespace) -> None:
        """Raise NotBegun if an update after a step that changes something would be refused as a downgrade.

        An update before which nothing is changed is refused when its turn comes, so that its version is read once.
        """
        changes = False
        for step in self.book.steps:
            if changes and isinstance(step, ReplacesVersion) and step.known_to and not step.downgrade:
                finding = self._check_update(state, namespace, step)
                if finding is not None and finding.evidence.get(DOWNGRADE):
                    raise make_downgrade_refusal(step.step_id, finding.reason)
            changes = changes or not step.only_reads()

    def _check_update(self, state: RunState, namespace: TemplateNamespace, step: Step[Any]) -> Finding | None:
        """Return what a step finds now; None if it may be skipped, or depends on the steps before it."""
        try:
            if step.when is not None and not template.parse_expression(step.when).value(namespace):
                return None
            return check_once(template.fill(step, namespace), self.host, self.waiter, state)
        except Interrupted:
            raise
        except RunbookError:
            return None  # The step reports it.

    def _move_to_scope(self, scope: str) -> None:
        """Move this program to a scope of its own, if it is in a login session or in a unit that the run stops."""
        around = _find_enclosing_unit(self.host, self.book)
        place = around.name if around is not None else self.host.find_login()
        if not place:
            return
        why = _enter_scope(self.host, self.waiter, scope)
        still = _find_enclosing_unit(self.host, self.book)
        if still is not None:
            command = "systemd-run --user" if still.of_user else "sudo systemd-run"
            raise NotBegun(
                f"cannot begin: this program runs inside {still.name}, and would be stopped with it",
                hint=f"run it from outside: {command} --scope runbook apply …",
            )
        if login := self.host.find_login():
            self.warnings.append(f"this run stays in the login session {login}, and may end with it: {why}")
        else:
            self.left_unit = place


def make_downgrade_refusal(name: str, reason: str) -> NotBegun:
    """Return the refusal of a downgrade, before anything is changed."""
    ways = "`--set NAME=VERSION` with that version, or `downgrade: true` in the step, permits it"
    return NotBegun(f"cannot begin: {name}: {reason}; nothing was changed", hint=f"if it is meant, {ways}")


def is_main_of_stopped_unit(view: HostView, book: Runbook) -> bool:
    """True if this program is the main process of a unit that the run would stop: a scope would not prevent that."""
    try:
        return any(view.is_main(unit) for unit in _find_stopped_units(view, book))
    except HostError:
        return False  # If the units cannot be read, the run does not begin.


def _enter_scope(host: Host, waiter: Waiter, name: str) -> str:
    """Move to a scope. Return why that failed, or an empty text."""
    try:
        ref = host.start_scope(name)
        deadline = Deadline.after(host.clock, SCOPE_TIMEOUT)
        while (result := host.job(ref)) is None and not deadline.expired:
            waiter.wait(Wake(units=frozenset({ref.unit})), deadline)
    except HostError as error:
        return error.message
    return "" if result is JobResult.DONE else f"systemd did not create {ref.unit} ({result or 'no answer'})"


def _find_enclosing_unit(view: HostView, book: Runbook) -> Unit | None:
    """Return the unit that this program runs in and that the run would stop."""
    return next((u for u in _find_stopped_units(view, book) if view.is_inside(u) or view.is_main(u)), None)


def _find_stopped_units(view: HostView, book: Runbook) -> list[Unit]:
    """Return the units that the run may stop: those it changes, and those that systemd stops together with them."""
    names = find_units_to_change(book) | find_dependents(view, book).keys()
    return [view.unit(name, max_age=SHARED_READ_AGE) for name in sorted(names)]


def find_units_to_change(book: Runbook) -> set[str]:
    """Return the names of the units that the runbook changes."""
    return {name for step in book.walk() if not step.only_reads() for name in step.units()}


def find_dependents(view: HostView, book: Runbook) -> dict[str, str]:
    """Return the units that are up and that systemd stops with a unit that the runbook changes, each with the latter.

    It does not start them with it again (systemd.unit(5), Requires=).
    """
    found: dict[str, str] = {}
    try:
        named = {view.unit(name, max_age=SHARED_READ_AGE).name for step in book.walk() for name in step.units()}
        for name in sorted(find_units_to_change(book)):
            for one in find_reached(view, view.unit(name, max_age=SHARED_READ_AGE), JobVerb.STOP):
                if one.is_changed and one.unit.name not in named:
                    found.setdefault(one.unit.name, name)
    except HostError:
        return {}  # The steps will report that the units cannot be read.
    return found


def find_stopped_dependents(view: HostView, dependents: Mapping[str, str]) -> list[str]:
    """Return a sentence for each of these units that is down now."""
    try:
        units = {name: view.unit(name) for name in dependents}
    except HostError:
        return []
    return [
        f"{name}, which stops with {dependents[name]}, was up before and is {unit.describe()} now;"
        f" {unit.systemctl_command(JobVerb.START)}"
        for name, unit in units.items()
        if unit.active_state in DOWN
    ]


def describe_side_effects(view: HostView, book: Runbook) -> list[str]:
    """Return what systemd would do beside the jobs of a runbook: to other units, and to the machine.

    A unit is of interest only if no step starts it. Raises HostError.
    """
    jobs = [(step, verb, view.unit(name, max_age=SHARED_READ_AGE)) for step, verb, name in _list_jobs(book)]
    started = {unit.name for _, verb, unit in jobs if verb in (JobVerb.START, JobVerb.RESTART)}
    found: dict[str, None] = {}
    for step, verb, unit in jobs:
        if unit.load_state is LoadState.NOT_FOUND:
            continue
        taken = [one for one in find_taken_along(view, unit, verb) if one.unit.name not in started]
        if text := describe_taken_along(unit, verb, taken):
            found[f"{step.step_id}: {text}"] = None
        along = (unit, *(one.unit for one in taken))
        found |= dict.fromkeys(text for one in along for text in describe_emergency_actions(one))
    return list(found)


def _list_jobs(book: Runbook) -> Iterator[tuple[Step[Any], JobVerb, str]]:
    """Yield each job that the steps of a run would request; that of a rollback is not known yet."""
    for outer in (*book.steps, *book.always):
        for step in outer.walk():
            if (verb := step.job_verb()) is not None:
                yield from ((step, verb, name) for name in step.units())


def check_units_exist(view: HostView, book: Runbook, check: CheckUpdate | None) -> list[str]:
    """Return a sentence for each unit that is missing and doubtful. Raises NotBegun if no step is to create it.

    `check` returns what an update finds; None if every step is believed to create units.
    """
    creators: list[Step[Any]] = []
    doubts = dict[str, str]()
    for step in book.walk():
        creators += [step] if step.may_create_units and not step.only_reads() else []
        for name in step.units():
            unit = view.unit(name, max_age=SHARED_READ_AGE)
            if unit.load_state is not LoadState.NOT_FOUND or unit.is_running or name in doubts:
                continue
            near, other = view.find_similar_unit(name), describe_other_manager(view, unit, book)
            if not any(check is None or _may_create(one, unit.name, near, check) for one in creators):
                raise NotBegun(f"cannot begin: {unit.describe_not_found()}", hint=_advise(unit, near, other, creators))
            if other:
                doubts[name] = f"{unit.describe_not_found()} yet; {other}"
            elif near:
                doubts[name] = unit.describe_not_found(near).replace(name, f"{name} yet", 1)
    return list(doubts.values())


def _may_create(step: Step[Any], name: str, near: str, check: CheckUpdate) -> bool:
    """True if a step is likely to create a unit that is missing. If there is one of a similar name, that was meant.

    The units of software that is installed exist already. A command that names the unit is believed.
    """
    stem = re.escape(name.rpartition(".")[0].partition("@")[0])
    if re.search(rf"(?<!\w){stem}(?!\w)", step.command_text()):
        return True
    if not isinstance(step, ReplacesVersion):
        return not near
    finding = check(step)
    return finding is None or not finding.evidence.get("from")


def _advise(unit: Unit, near: str, other: str, creators: Sequence[Step[Any]]) -> str:
    """Return what to do about a unit that does not exist."""
    user = " --user" if unit.of_user else ""
    listing = f"systemctl{user} list-unit-files '{unit.name.split('.')[0][:4]}*' lists similar names"
    advice = other or (f"did you mean {near}?" if near else listing)
    if not creators:
        return advice
    these = " or ".join(step.step_id for step in creators)
    sentence = " If" if advice.endswith("?") else "; if"
    return f"{advice}{sentence} {these} creates it, name {unit.name} in the command"
