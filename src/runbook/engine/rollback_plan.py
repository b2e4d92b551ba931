"""The steps of a rollback, in order, made from the runbook and from the events so far."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR, ROLLBACK_PREFIX
from runbook.engine.rollback_units import find_acted_steps, find_named_units, find_started_units
from runbook.engine.rollback_versions import find_named_updates, map_previous_versions, rewrite_step
from runbook.events import Event, RollbackStarted, RunStarted, StepActing, StepFinished, select
from runbook.model import StepStatus, Verdict
from runbook.spec.runbook import Runbook
from runbook.spec.step import ReplacesVersion, RollbackRole, Step

TRIGGER_TYPES = (".socket", ".timer", ".path")  # the names of units that start a service end with one of these

# Roles of the steps that must hold at the end if the runbook has no `remediate`.
PROOF_ROLES = (RollbackRole.PROVE_HEALTH, RollbackRole.PROVE_OWNER)


@dataclass
class RollbackPlan:
    """The steps of a rollback, in order. The same runbook and events make the same plan."""

    book: Runbook
    updates: Mapping[str, Mapping[str, Any]]  # the updates that ran, by id, with their versions `from` and `to`
    steps: list[Step[Any]] = field(default_factory=list)
    units: tuple[str, ...] = ()  # the units that it restarts
    restart_step_ids: set[str] = field(default_factory=set)  # the steps that bring the units back
    undo_step_ids: dict[str, str] = field(default_factory=dict)  # the step that undoes an update, by that update's id
    fallback_checks: list[Step[Any]] = field(default_factory=list)  # carried out only if no other check proved anything
    only_if_down: dict[str, Sequence[str]] = field(default_factory=dict)
    """Sockets by the id of a step that is carried out only if one of them is down."""
    warnings: list[str] = field(default_factory=list)  # what is not checked of the previous version, and why

    @classmethod
    def build(cls, book: Runbook, events: Iterable[Event]) -> RollbackPlan:
        """Return the plan; it has no steps if there is nothing to undo."""
        events = tuple(events)
        plan = cls(book, find_updates_that_ran(book, events))
        versions, ambiguous = map_previous_versions(plan.updates.values())
        if isinstance(book.rollback, tuple):
            plan.steps += book.rollback
        else:
            plan._add_undo_steps(versions)
            if not plan.undo_step_ids:
                return plan
            run_start, rollback = next(select(events, RunStarted), None), next(select(events, RollbackStarted), None)
            others = rollback.units if rollback is not None else ()
            plan.units = (*find_named_units(book, find_acted_steps(events)), *others)
            plan._add_start_steps(run_start)
        unknown = {id_: facts["to"] for id_, facts in plan.updates.items() if facts["to"] in ambiguous}
        plan._add_checks(versions, unknown | plan._find_unreached_updates(events))
        return plan

    def describe_updates(self, outcomes: Mapping[str, Outcome]) -> str:
        """Return the present state of each update, or how far the listed steps came."""
        if isinstance(self.book.rollback, tuple):
            *_, last = outcomes.values()
            until = f", as far as {last.id}" if last.failed or last.still_starting else ""
            return f"the steps of `rollback` were carried out{until}"
        outcomes_of_undo = {id_: outcomes.get(self.undo_step_ids.get(id_, "")) for id_ in self.updates}
        return ", ".join(_describe_update(id_, facts, outcomes_of_undo[id_]) for id_, facts in self.updates.items())

    def _add(self, step: Step[Any], name: str) -> Step[Any]:
        """Add a step under the id `rollback.NAME`, or `rollback.NAME-2` and so on.

        A failure of it ends the rollback: otherwise an update that was not undone would be reported as undone.
        """
        ids = {one.step_id for one in self.steps}
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        free = next(one for one in names if f"{ROLLBACK_PREFIX}{one}" not in ids)
        self.steps.append(step.model_copy(update={"id": f"{ROLLBACK_PREFIX}{free}", "on_failure": "abort"}))
        return self.steps[-1]

    def _add_undo_steps(self, versions: Mapping[str, str]) -> None:
        by_id = {step.step_id: step for step in _list_updates(self.book)}
        for id_, facts in reversed(list(self.updates.items())):
            if (step := by_id[id_].undo(facts)) is not None:
                self.undo_step_ids[id_] = str(self._add(rewrite_step(step, versions, ("name",))[0], id_).id)

    def _add_start_steps(self, run_start: RunStarted | None) -> None:
        """Add the steps that restart the units: reset-failed, the triggers that were active, the unit."""
        for unit in self.units:
            triggers = run_start.waking.get(unit, ()) if run_start and run_start.waking else ()
            sockets = [name for name in triggers if name.endswith(".socket")]
            self._add_job(RollbackRole.CLEAR_LIMIT, unit, unit)
            if sockets:  # systemd does not open a socket while its service runs.
                stop = self._add_job(RollbackRole.STOP, unit, unit)
                # Another trigger may start the service at once. The steps of the sockets report if they do not open.
                self.steps[-1] = stop.model_copy(update={"on_failure": "continue"})
                self.only_if_down[stop.step_id] = sockets
            for name in triggers:
                self._add_job(RollbackRole.START, name, unit)
            # The service behind an open socket is restarted by itself. systemd opens no socket while its service runs.
            is_trigger = unit.endswith(TRIGGER_TYPES) and unit not in find_started_units(self.book, or_own=False)
            self._add_job(RollbackRole.START if is_trigger else RollbackRole.RESTART, unit, unit)

    def _add_job(self, role: RollbackRole, name: str, unit: str) -> Step[Any]:
        cls = self.book.type_for(role)
        title = {"name": f"{cls.type_name} {name}"} if name != unit or len(self.units) > 1 else {}
        step = self._add(cls.model_validate({"unit": name, **title}), cls.type_name)
        self.restart_step_ids.add(step.step_id)
        return step

    def _add_checks(self, versions: Mapping[str, str], unknown: Mapping[str, str | None]) -> None:
        """Add the checks, rewritten for the previous versions.

        If each of them has a `when`, none may be carried out: then health checks follow that need not be.
        """
        checks = self._find_checks(unknown)
        for wait in self._make_waits(checks):
            self._add(wait, str(wait.id))
        for check in checks:
            copy, keys = rewrite_step(check, versions, type(check).model_fields)
            id_ = self._add(copy, check.step_id.rpartition(".")[2]).id
            for key, new in keys.items():
                self.warnings.append(f"{id_} names {new} in its `{key}`: this is not replaced by {versions[new]}")
        if all(check.when is not None for check in checks):
            self.fallback_checks = [self._add(one, one.step_id) for one in self._make_health_checks()]

    def _find_unreached_updates(self, events: Iterable[Event]) -> dict[str, str | None]:
        """Return the updates that did not run and did not find their version installed either, with their `to`."""
        passes = (StepStatus.OK, StepStatus.CHANGED)
        passed_ids = {event.id for event in select(events, StepFinished) if event.status in passes}
        steps = {step.step_id: step for step in _list_updates(self.book)}
        return {id_: steps[id_].known_to or None for id_ in steps if id_ not in passed_ids | self.updates.keys()}

    def _find_checks(self, unknown: Mapping[str, str | None]) -> list[Step[Any]]:
        """Return the checks of the last `remediate`, or else the runbook's own; and those of the version.

        `unknown` are updates whose previous version is not known, with their `to`: a check of such a version is left
        out, with a warning.
        """
        remedies = [remedy for step in self.book.steps if (remedy := step.remedy()) is not None]
        proofs = [step for step in self.book.steps if step.rollback_role in PROOF_ROLES]
        checks = list(remedies[-1].checks) if remedies else proofs
        of_version = [step for step in self.book.steps if step.rollback_role is RollbackRole.PROVE_VERSION]
        for step in [one for one in (*checks, *of_version) if one.rollback_role is RollbackRole.PROVE_VERSION]:
            if why := _describe_unprovable(step, unknown):
                self.warnings.append(f"{step.id} is left out of the rollback: {why}")
                checks, of_version = ([one for one in group if one is not step] for group in (checks, of_version))
        # A check of the version does not prove that the unit stays up.
        return [*(checks or self._make_health_checks()), *of_version]

    def _make_waits(self, checks: Iterable[Step[Any]]) -> list[Step[Any]]:
        """Return a health check for each unit that the run left as it was, and that is restarted for a check of it.

        In the run the check found a unit that had been up for long.
        """
        if not self.undo_step_ids:
            return []
        cls, started_units = self.book.type_for(RollbackRole.PROVE_HEALTH), find_started_units(self.book)
        targets = {name for one in checks if one.rollback_role is RollbackRole.PROVE_HEALTH for name in one.units()}
        ports = {name: getattr(one, "port", ()) for one in checks for name in one.units()}
        names = [name for name in ports if name in self.units and name not in {*targets, *started_units}]
        fields = ({"id": cls.type_name, "unit": name, "port": [str(port) for port in ports[name]]} for name in names)
        return [cls.model_validate(one) for one in fields]

    def _make_health_checks(self) -> list[Step[Any]]:
        cls = self.book.type_for(RollbackRole.PROVE_HEALTH)
        ports = {self.book.unit: [str(port) for port in self.book.port]}
        units = self.units or find_named_units(self.book)
        return [cls.model_validate({"id": cls.type_name, "unit": unit, "port": ports.get(unit, ())}) for unit in units]


def find_updates_that_ran(book: Runbook, events: Iterable[Event]) -> Mapping[str, Mapping[str, Any]]:
    """Return the updates that began to act, in order, with their versions `from` and `to`."""
    ids = {step.step_id for step in _list_updates(book)}
    updates: dict[str, Mapping[str, Any]] = {}
    for acting in select(events, StepActing):
        if acting.id in ids:
            updates.setdefault(acting.id, {name: acting.evidence.get(name) for name in ("from", "to")})
    return updates


def _list_updates(book: Runbook) -> list[ReplacesVersion[Any]]:
    """Return the steps of the runbook that replace a version, in order."""
    steps = (step for outer in book.steps for step in outer.walk())
    return [step for step in steps if isinstance(step, ReplacesVersion)]


def _describe_unprovable(step: Step[Any], unknown: Mapping[str, str | None]) -> str:
    """Return why it is not known which version the step must find after the rollback, or an empty text."""
    expect: str | None = getattr(step, "expect", None)
    references = find_named_updates(expect)
    ids = [
        id_ for id_, to in unknown.items() if (id_ in references if references else expect is not None and to == expect)
    ]
    return f"which version was there before {' and '.join(ids)} is not known" if ids else ""


def _describe_update(id_: str, facts: Mapping[str, Any], undo: Outcome | None) -> str:
    """Return the present state of an update; `undo` is the outcome of the step that undoes it, if that began."""
    before = facts["from"]
    if not before:
        return f"{id_} stays, for there was no version before it"
    if undo is None:
        return f"{id_} was not taken back to {before}"
    if undo.status in (StepStatus.OK, StepStatus.CHANGED):
        # The update may have failed before it changed anything.
        return f"{id_} is {'still' if undo.verdict is Verdict.UP_TO_DATE else 'back'} at {before}"
    if undo.evidence.get(BY_OPERATOR):
        return f"{id_} was taken back to {before}, according to the operator"
    if version := undo.evidence.get("version"):
        return f"{id_} is at {version}, not back at {before}"
    return f"{id_} may be at {before}, at {facts['to']}, or between"
