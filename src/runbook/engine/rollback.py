"""Undoes the updates of a failed run, the last one first, and proves that the previous version serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runbook.engine.changed_services import judge_step, list_events_of_boot
from runbook.engine.execution.attempt import TRACE
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR, CHANGED_SERVICES, ROLLBACK_PREFIX
from runbook.engine.internal_error import describe_internal_error
from runbook.engine.left_running import (
    describe_unexamined,
    find_left_running,
    find_uncertain_services,
    list_command_windows,
)
from runbook.engine.remediation import StepRunner
from runbook.engine.rollback_plan import RollbackPlan, find_updates_that_ran
from runbook.engine.rollback_units import (
    SPARING_KILL_MODES,
    FoundUnits,
    describe_unproved,
    find_acted_steps,
    find_changed_units,
    find_new_files,
    find_other_units,
)
from runbook.errors import HostError, RunbookError
from runbook.events import Event, Notice, RollbackStarted, StepFinished, StepStarted, select
from runbook.host.facts import DOWN, ActiveState, JobVerb, Unit
from runbook.host.interface import Host, HostView
from runbook.host.requesters import describe_requester, find_last_stop
from runbook.model import StepStatus, Verdict
from runbook.spec.runbook import Runbook
from runbook.spec.step import ReplacesVersion, Step

PROOF = "proof"  # the last step of a rollback: no process is older than the restored files


@dataclass
class Rollback:
    """A rollback after the failure of a step. `run` carries it out; the fields below `failure` are its result."""

    runner: StepRunner
    book: Runbook
    failure: Outcome  # the step whose failure ended the run
    reason: str = ""  # how the rollback ended
    updates_now: str = ""  # the present state of each update
    steps: Sequence[Step[Any]] = ()  # the steps of the rollback
    _unknown: str = ""  # why not all units that may run the new version are known
    hint: str = ""  # what to do about a unit that may still run the new version
    failed_step: Outcome | None = None
    """The step that keeps the run from being rolled back; None if the previous version serves, proved."""

    @property
    def is_wanted(self) -> bool:
        """True if the runbook asks for a rollback and there is something to undo.

        A list of steps may undo whatever the run changed; `auto` undoes updates.
        """
        if isinstance(self.book.rollback, tuple):
            return self.runner.changed
        return self.book.rollback == "auto" and bool(find_updates_that_ran(self.book, self._events))

    def run_if_wanted(self) -> None:
        """Carry out the rollback if there is one to be done. An error of this program ends it as a failure."""
        try:
            if self.is_wanted:
                self.run()
        except RunbookError:
            raise
        except Exception as error:
            self.reason = f"and the rollback failed: {describe_internal_error(error)}"
            self.failed_step = self.failure

    def run(self) -> None:
        """Carry out the rollback, or continue the one that an earlier part of this run began."""
        plan = RollbackPlan.build(self.book, self._events)
        if not any(select(self._events, RollbackStarted)):
            if obstacle := self._find_obstacle(plan):
                self.reason, self.updates_now, self.failed_step = obstacle, obstacle, self.failure
                return
            self._begin(plan)
            plan = RollbackPlan.build(self.book, self._events)
        for text in plan.warnings:
            self.runner.events.emit(Notice(text=text))
        self._run_steps(plan)

    @property
    def _events(self) -> tuple[Event, ...]:
        return (*self.runner.resume_state.plan_events, *self.runner.events.emitted)

    def _begin(self, plan: RollbackPlan) -> None:
        """Report the beginning, with the units beside the runbook's that may run the new version."""
        try:
            units = find_other_units(self.runner.host, self.book, plan.units, list(self._list_judgements()))
        except HostError as error:
            self._unknown = f"which units the commands of this run restarted is not known: {error.message}"
            units = FoundUnits((), ())
        updates = [{"id": id_, **facts} for id_, facts in plan.updates.items()]
        self.runner.events.emit(RollbackStarted(failed=self.failure.id, updates=updates, units=units.restart))
        for text in units.left_alone:
            self.runner.events.emit(Notice(text=text))

    def _list_judgements(self) -> Iterator[Mapping[str, Any]]:
        """Yield for each step that ended since the boot which services it changed. Raises HostError."""
        for end in select(list_events_of_boot(self.runner), StepFinished):
            step = next((one for one in self.book.walk() if one.step_id == end.id), None)
            is_doubtful = not end.evidence.keys().isdisjoint((CHANGED_SERVICES, BY_OPERATOR, TRACE))
            if step is not None and is_doubtful and not end.evidence.get(CHANGED_SERVICES):
                yield judge_step(self.runner, self.book, step, afresh=True)
            else:
                yield end.evidence

    def _run_steps(self, plan: RollbackPlan) -> None:
        """Carry out the steps. The run counts as rolled back only if a check proved it."""
        self.steps = plan.steps
        outcomes: dict[str, Outcome] = {}
        is_proved = False
        for step in plan.steps:
            if self.failed_step is not None and step.step_id not in plan.restart_step_ids:
                break
            if (is_proved and step in plan.fallback_checks) or _is_unneeded(step, plan, self.runner.host):
                continue
            outcome = outcomes[step.step_id] = self.runner.step(step)
            if outcome.still_starting or (outcome.failed and step.on_failure == "abort"):
                how = "the rollback waits" if outcome.still_starting else "and the rollback failed"
                self.reason = "; ".join(filter(None, (self.reason, f"{how} at {outcome.id}: {outcome.reason}")))
                self.failed_step = self.failed_step or outcome
                if outcome.still_starting or step.step_id not in plan.restart_step_ids:
                    break  # If one unit does not start, the others are still brought back.
            is_proved = is_proved or _proves(outcome, step, self.book)
        self.updates_now = plan.describe_updates(outcomes)
        if self.failed_step is not None and not self.failed_step.still_starting:
            self.updates_now += self._describe_doubtful_units(plan, outcomes)
        if self.failed_step is None and is_proved:
            self._prove_units(plan)
        if self.failed_step is None and is_proved:
            self.updates_now += describe_unexamined(self.book, self._events)
            self.reason = f"rolled back: {self.updates_now}"
        elif self.failed_step is None:
            advice = "no check proved that the previous version serves; add one at the end of `rollback`"
            self.reason = f"{self.updates_now}, but {advice}"
            self.failed_step = self.failure

    def _describe_doubtful_units(self, plan: RollbackPlan, outcomes: Mapping[str, Outcome]) -> str:
        """Return which other units may still run the new version after a failed rollback.

        Empty if the files are still new. The unit of the step that failed is named by that step.
        """
        at = next((step for step in plan.steps if self.failed_step and step.step_id == self.failed_step.id), None)
        undone = [outcomes.get(name) for name in plan.undo_step_ids.values()]
        if not undone or any(outcome is None or outcome.failed for outcome in undone):
            return ""
        try:
            files = find_new_files(self._events, plan.undo_step_ids.values())
            others = [name for name in plan.units if at is None or name not in at.units()]
            doubts = describe_unproved(self.runner.host, others, files)
        except HostError:
            return ""
        return f"; not proved to run it: {', '.join(doubts)}" if doubts else ""

    def _prove_units(self, plan: RollbackPlan) -> None:
        """Prove of each unit that may run the new version that its processes started after the files were restored.

        After a list of steps, which may leave a unit alone on purpose, a doubt is only reported.
        """
        is_list = isinstance(self.book.rollback, tuple)
        rollback_start = next(select(self._events, RollbackStarted), None)
        others = tuple(rollback_start.units) if rollback_start is not None else ()
        units = (*find_changed_units(self.book, find_acted_steps(self._events)), *others) if is_list else plan.units
        host, start = self.runner.host, self.runner.host.clock.monotonic()
        events = list_events_of_boot(self.runner)
        try:
            files = find_new_files(self._events, plan.undo_step_ids.values())
            left = find_left_running(host, self.book.scope == "user", list_command_windows(self.book, events))
            left |= find_uncertain_services(host, self._list_judgements(), units, files)
            doubts = describe_unproved(host, units, files)
        except HostError as error:
            doubts = {"": f"which version each unit runs is not known: {error.message}"}
            left = {}
        doubts |= {name: one.why for name, one in left.items()}
        if self._unknown:
            doubts[""] = self._unknown
        if is_list:
            for name, why in doubts.items():
                doubt = f"{name} was started, restarted or reloaded by this run, and may still run the new version"
                self.runner.events.emit(Notice(text=f"{doubt}: {why}" if name and name not in left else why))
            return
        if not units and not doubts:
            return
        names = ", ".join(dict.fromkeys(units))
        proof = Outcome(
            id=f"{ROLLBACK_PREFIX}{PROOF}",
            type_name=PROOF,
            status=StepStatus.FAILED if doubts else StepStatus.OK,
            verdict=Verdict.OLD_CODE_SERVING if doubts else Verdict.VERSION_OK,
            reason="; ".join(doubts.values()) or f"all processes started after the files were restored: {names}",
            attempts=1,
            seconds=host.clock.monotonic() - start,
            evidence={"units": list(dict.fromkeys(units))},
        )
        self.runner.events.emit(StepStarted(id=proof.id, type=PROOF, name=PROOF, units=list(dict.fromkeys(units))))
        self.runner.events.emit(StepFinished(**proof.facts()))
        if doubts:
            self.reason, self.failed_step = f"and the rollback is not proved: {proof.reason}", proof
            self.hint = "; ".join(
                left[name].remedy if name in left else _describe_remedy(host, name) for name in doubts if name
            )

    def _find_obstacle(self, plan: RollbackPlan) -> str:
        """Return why the rollback must not begin, or an empty text."""
        if unit := _find_stop_by_another(self.runner.host, self.book, self.failure):
            who = describe_requester(find_last_stop(unit.job_requests))
            return f"{unit.name} was stopped by {who}, which is not overridden, so nothing was rolled back"
        if working := _find_running_command(self.runner):
            return f"the command in {working} could not be stopped, so nothing was rolled back beside it"
        if not plan.steps:
            return f"there was no version before {', '.join(plan.updates)}, so nothing was undone"
        return ""


def _describe_remedy(view: HostView, name: str) -> str:
    """Return how to bring a unit to the restored files."""
    unit = view.unit(name)
    if unit.active_state in DOWN:
        return f"{unit.systemctl_command('status')} shows why it is down"
    if unit.kill_mode in SPARING_KILL_MODES:
        spares = f"KillMode={unit.kill_mode} of {unit.name} spares its processes"
        return f"{spares}: kill those named there by hand, then {unit.systemctl_command(JobVerb.RESTART)}"
    return unit.systemctl_command(JobVerb.RESTART)


def _is_unneeded(step: Step[Any], plan: RollbackPlan, host: HostView) -> bool:
    """True if a unit need not be stopped for its sockets, because they are up."""
    sockets = plan.only_if_down.get(step.step_id, ())
    try:
        return bool(sockets) and all(host.unit(name).active_state not in DOWN for name in sockets)
    except HostError:
        return False


def _find_running_command(runner: StepRunner) -> str:
    """Return the unit of a command of this run that still runs: two on the same files would leave neither version."""
    try:
        return next((unit for unit in runner.host.list_running_commands() if runner.state.id in unit), "")
    except HostError:
        return ""


def _find_stop_by_another(host: Host, book: Runbook, failure: Outcome) -> Unit | None:
    """Return the unit that is down because another requester stopped it, if that is why the run failed.

    A unit whose process exited by itself does not count, even if another requester started or reloaded it before.
    """
    verdict = failure.evidence.get("found", failure.verdict)
    if verdict not in (Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED):
        return None
    step = next((step for step in book.walk() if step.id == failure.id), None)
    if step is None:
        return None
    if verdict == Verdict.UNIT_CHANGED and not step.only_reads() and step.remedy() is None:
        return None  # A step that acts ends so if the unit was started again: then it was not stopped.
    names = [name for one in step.walk() for name in one.units()]
    try:
        units = [host.unit(name) for name in dict.fromkeys(names)]
    except HostError:
        return None
    is_canceled = verdict == Verdict.JOB_CANCELED
    return next((unit for unit in units if _is_stop_by_another(unit, is_canceled=is_canceled)), None)


def _is_stop_by_another(unit: Unit, *, is_canceled: bool) -> bool:
    """True if another requester stopped the unit, or is stopping it; `is_canceled`: a job replaced that of the run."""
    if (
        (stop := find_last_stop(unit.job_requests))
        and stop.is_own
        and not any(one.is_stop and not one.is_own for one in unit.job_requests)
    ):
        return False
    if unit.active_state is ActiveState.DEACTIVATING:
        return is_canceled or unit.job_type == JobVerb.STOP
    return unit.active_state is ActiveState.INACTIVE or (is_canceled and unit.active_state in DOWN)


def _proves(outcome: Outcome, step: Step[Any], book: Runbook) -> bool:
    """True if the step proves the rollback: it checked something that holds, or the operator skipped it.

    In a runbook without a unit no process serves. There the installed version, which an update checks, is the proof.
    """
    reads = step.only_reads() or step.remedy() is not None
    if not reads and not (isinstance(step, ReplacesVersion) and not book.unit_names()):
        return False
    passes = outcome.status in (StepStatus.OK, StepStatus.CHANGED, StepStatus.REMEDIATED)
    return passes or bool(outcome.evidence.get(BY_OPERATOR))
