"""What a roll back is to do: its steps, in order, made of the runbook and of what was recorded."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR
from runbook.engine.rollback_versions import find_named_updates, map_previous_versions, rewrite_step
from runbook.errors import HostError
from runbook.events import Event, RunStarted, StepActing, StepFinished, select
from runbook.host.facts import DOWN
from runbook.host.interface import HostView
from runbook.model import StepStatus
from runbook.spec.step import ReplacesVersion, RollbackRole, Runbook, Step

ROLLBACK_PREFIX = "rollback."
"""What the ids of its steps begin with."""

START_ROLES = (RollbackRole.START, RollbackRole.RESTART)
"""Roles of the steps whose units a rollback restarts."""

PROOF_ROLES = (RollbackRole.PROVE_HEALTH, RollbackRole.PROVE_OWNER)
"""Roles of the steps that must hold at the end if the runbook has no `remediate`."""


@dataclass(frozen=True)
class RollbackPlan:
    """The steps of a roll back, in order. `undoing` has the id of the one that takes an update back.

    `instead` are those of its steps that are carried out only where no other has proved anything; `only_down` those
    that are where one of some sockets is down. `doubts` say what is not held against the earlier version, and why.
    """

    steps: Sequence[Step[Any]] = ()
    undo_step_ids: Mapping[str, str] = field(default_factory=dict)
    fallback_checks: Sequence[Step[Any]] = ()
    only_if_down: Mapping[str, Sequence[str]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    is_listed: bool = False

    @classmethod
    def build(cls, book: Runbook, events: Iterable[Event]) -> RollbackPlan:
        """Make it; the same one whenever it is asked for."""
        events = tuple(events)
        ran = find_updates_that_ran(book, events)
        versions, ambiguous = map_previous_versions(ran.values())
        made: list[Step[Any]] = []
        undoing: dict[str, str] = {}
        only_down: dict[str, Sequence[str]] = {}
        doubts: list[str] = []
        taken: set[str] = set()
        if isinstance(book.rollback, tuple):
            made += book.rollback
            taken = {str(step.id).removeprefix(ROLLBACK_PREFIX) for step in book.rollback}
        else:
            by_id = {str(step.id): step for step in _list_updates(book)}
            for id_, facts in reversed(list(ran.items())):
                if (step := by_id[id_].undo(facts)) is not None:
                    made.append(_with_id(rewrite_step(step, versions, ("name",))[0], id_, taken))
                    undoing[id_] = str(made[-1].id)
            if not undoing:
                return cls()
            made += _make_start_steps(book, events, taken, only_down)
        unknown = {id_: ran[id_]["to"] for id_ in ran if ran[id_]["to"] in ambiguous} | _find_unreached_updates(
            book, events
        )
        checks = _find_proofs(book, unknown, doubts)
        for check in checks:
            told, kept = rewrite_step(check, versions, type(check).model_fields)
            made.append(_with_id(told, str(check.id).rpartition(".")[2], taken))
            doubts += [
                f"{made[-1].id} names {new} in its `{name}`: it asks as it is written, not for {versions[new]}"
                for name, new in kept.items()
            ]
        conditional = all(check.when is not None for check in checks)
        instead = [
            _with_id(one, str(one.id), taken) for one in _make_proofs(_find_started_units(book), book) if conditional
        ]
        return cls((*made, *instead), undoing, instead, only_down, doubts, isinstance(book.rollback, tuple))

    def describe_updates(self, ran: Mapping[str, Mapping[str, Any]], outcomes: Mapping[str, Outcome]) -> str:
        """Say where what was done stands now: of each update that ran, or of the steps of a list."""
        if not self.is_listed:
            return ", ".join(
                _describe_update(id_, facts, outcomes.get(self.undo_step_ids.get(id_, "")))
                for id_, facts in ran.items()
            )
        *_, last = outcomes.values()
        until = f", as far as {last.id}" if last.failed or last.still_starting else ""
        return f"the steps of `rollback` were carried out{until}"


def list_rollback_steps(book: Runbook, events: Iterable[Event]) -> Iterator[Step[Any]]:
    """Give the steps of a roll back, in order; the same ones whenever they are asked for."""
    yield from RollbackPlan.build(book, events).steps


def find_updates_that_ran(book: Runbook, events: Iterable[Event]) -> Mapping[str, Mapping[str, Any]]:
    """Give the steps that can be undone and began to act, in order, with the versions `from` and `to`."""
    ids = {str(step.id) for step in _list_updates(book)}
    found: dict[str, Mapping[str, Any]] = {}
    for acting in select(events, StepActing):
        if acting.id in ids:
            found.setdefault(acting.id, {name: acting.evidence.get(name) for name in ("from", "to")})
    return found


def _list_updates(book: Runbook) -> list[ReplacesVersion[Any]]:
    """Return the steps of the runbook that replace a version, in order."""
    walked = (step for outer in book.steps for step in outer.walk())
    return [step for step in walked if isinstance(step, ReplacesVersion)]


def _find_unreached_updates(book: Runbook, events: Iterable[Event]) -> dict[str, str | None]:
    """Give the updates that did not run, and of which no look said that they were there already, with their `to`."""
    events = tuple(events)
    held = (StepStatus.OK, StepStatus.CHANGED)
    there = {finished.id for finished in select(events, StepFinished) if finished.status in held}
    reached = there | find_updates_that_ran(book, events).keys()
    return {str(step.id): step.known_to or None for step in _list_updates(book) if str(step.id) not in reached}


def _make_start_steps(
    book: Runbook, events: Iterable[Event], taken: set[str], only_down: dict[str, Sequence[str]]
) -> Iterator[Step[Any]]:
    """Give the steps that bring the units up, past their start limits, with what was up before and would start them."""
    began = next(select(events, RunStarted), None)
    for unit in _find_started_units(book):
        waking = began.waking.get(unit, ()) if began and began.waking else ()
        asked = [(RollbackRole.CLEAR_LIMIT, unit)]
        sockets = [name for name in waking if name.endswith(".socket")]
        if sockets:
            asked.append((RollbackRole.STOP, unit))  # systemd opens no socket while the service behind it runs.
        asked += [(RollbackRole.START, name) for name in waking]
        for role, name in (*asked, (RollbackRole.RESTART, unit)):
            cls = book.type_for(role)
            fields = {"unit": name, **({"name": f"{cls.kind} {name}"} if name != unit else {})}
            step = _with_id(cls.model_validate(fields), cls.kind, taken)
            if role is RollbackRole.STOP:
                # Something else may start it at once. Whether the sockets open is for their own steps to say.
                step = step.model_copy(update={"on_failure": "continue"})
                only_down[str(step.id)] = sockets
            yield step


def _find_started_units(book: Runbook) -> list[str]:
    """Name the units that the runbook starts; where it starts none, its own."""
    walked = [step for outer in book.steps for step in outer.walk()]
    started = dict.fromkeys(unit for step in walked if step.rollback_role in START_ROLES for unit in step.units())
    return list(started) or ([book.unit] if book.unit is not None else [])


def _find_proofs(book: Runbook, unknown: Mapping[str, str | None], doubts: list[str]) -> list[Step[Any]]:
    """Give the checks of the last `remediate`, else what the runbook waits for and proves; and what tells versions.

    `unknown` are updates of which it is not known what was there before, with their `to`: who asks for such a version
    is left out, and `doubts` say so.
    """
    remedies = [remedy for step in book.steps if (remedy := step.remedy()) is not None]
    proofs = [step for step in book.steps if step.rollback_role in PROOF_ROLES]
    checks = list(remedies[-1].checks) if remedies else proofs
    tell = [step for step in book.steps if step.rollback_role is RollbackRole.PROVE_VERSION]
    for step in [step for step in (*checks, *tell) if step.rollback_role is RollbackRole.PROVE_VERSION]:
        if why := _describe_unprovable(step, unknown):
            doubts.append(f"{step.id} is left out of the roll back: {why}")
            checks, tell = ([one for one in some if one is not step] for some in (checks, tell))
    if not checks:
        # Which version it is says nothing of whether it stays up.
        checks = _make_proofs(_find_started_units(book), book)
    return [*checks, *tell]


def _describe_unprovable(step: Step[Any], unknown: Mapping[str, str | None]) -> str:
    """Say why it cannot be known which version a step should find once all is taken back; or nothing."""
    expect: str | None = getattr(step, "expect", None)
    asked = find_named_updates(expect)
    meant = [id_ for id_, to in unknown.items() if (id_ in asked if asked else expect is not None and to == expect)]
    return f"which version was there before {' and '.join(meant)} is not known" if meant else ""


def _make_proofs(units: Iterable[str], book: Runbook) -> list[Step[Any]]:
    """Make the checks of a runbook that has none: an earlier version is not said to serve on trust."""
    cls = book.type_for(RollbackRole.PROVE_HEALTH)
    ports = {book.unit: [str(port) for port in book.port]}
    return [cls.model_validate({"id": cls.kind, "unit": unit, "port": ports.get(unit, ())}) for unit in units]


def _with_id(step: Step[Any], name: str, taken: set[str]) -> Step[Any]:
    """Give a step an id of the roll back's own, which none of those `taken` has.

    Nothing may be passed over here: what was not taken back would be called so, and what does not serve, too.
    """
    free = next(one for n in itertools.count(1) if (one := name if n == 1 else f"{name}-{n}") not in taken)
    taken.add(free)
    return step.model_copy(update={"id": f"{ROLLBACK_PREFIX}{free}", "on_failure": "abort"})


def find_active_triggers(view: HostView, book: Runbook) -> dict[str, list[str]]:
    """Name what is up and would start the units that `auto` starts again: sockets, timers, paths.

    With a version that does not start they fail together with the unit, once its start limit is hit; and nothing that
    is done to the unit brings them back. Sockets come first: a path may start the service at once, and then none opens.
    """
    found: dict[str, list[str]] = {}
    for name in _find_started_units(book) if book.rollback == "auto" else ():
        try:
            unit = view.unit(name)
            up = [one.name for one in map(view.unit, unit.triggered_by) if one.active_state not in DOWN]
        except HostError:
            continue  # Whether it can be looked at is for the steps to say.
        if up:
            found[name] = sorted(up, key=lambda one: not one.endswith(".socket"))
    return found


def _describe_update(id_: str, facts: Mapping[str, Any], undone: Outcome | None) -> str:
    """Say where an update stands. `undone` is how it was taken back, as far as that was begun."""
    before = facts["from"]
    if not before:
        return f"{id_} stays, for there was no version before it"
    if undone is None:
        return f"{id_} was not taken back to {before}"
    if undone.status in (StepStatus.OK, StepStatus.CHANGED):
        return f"{id_} is back at {before}"
    if undone.evidence.get(BY_OPERATOR):
        return f"{id_} was taken back to {before}, as the operator says"
    if found := undone.evidence.get("version"):
        return f"{id_} is at {found}, not back at {before}"
    return f"{id_} may be at {before}, at {facts['to']}, or between"
