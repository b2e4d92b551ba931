"""The state from which a run is resumed, rebuilt from the events of its earlier parts.

A step that had finished is not repeated, unless it only reads. A step that was cut short after it began to act is
continued. A new round of a fix begins afresh; within a round, finished steps are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runbook.engine.execution.outcome import Outcome
from runbook.events import (
    Event,
    EventName,
    FixStarted,
    Notified,
    RollbackStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    StepActing,
    StepFinished,
    StepRemembers,
    StepRerun,
    StepRetrying,
)
from runbook.model import RunStatus, StepStatus
from runbook.spec.step import Step

# The events that a rollback is planned from.
PLAN_EVENTS = (EventName.RUN_STARTED, EventName.ROLLBACK_STARTED, EventName.STEP_ACTING, EventName.STEP_FINISHED)
ROLLBACK_PREFIX = "rollback."  # the beginning of the ids of a rollback's steps
BY_OPERATOR = "by-operator"  # the key in the evidence of a step that the operator skipped
CHANGED_SERVICES = "changed-services"  # the key of the services that a step changed beside those that it names


class PartialAttempt(NamedTuple):
    """An attempt that began to act and did not end."""

    state: Mapping[str, Any] | None = None  # the saved state of the step, if it has one
    stopped: bool = False  # it was interrupted, and stopped what it had started


class FixRound(NamedTuple):
    """A round of a fix that began and did not end."""

    number: int
    because: str  # the verdict of the check that failed
    units_up: tuple[str, ...] = ()  # the units that were up before the first round


@dataclass
class ResumeState:
    """What the earlier parts of a run did. Empty for a new run."""

    parts: int = 0  # the number of earlier parts of the run
    finished: dict[str, Outcome] = field(default_factory=dict)  # how each step ended, in the order of their ends
    in_progress: set[str] = field(default_factory=set)  # the steps that began to act and did not finish
    stopped_steps: set[str] = field(default_factory=set)  # those of them that an interruption of the run stopped
    ever_acted: set[str] = field(default_factory=set)
    """The steps that ever began to act: they may have reached their goal, and been cut short before they found that."""
    skipped_by_operator: set[str] = field(default_factory=set)  # the steps that the operator takes as done
    saved_states: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    fix_rounds: dict[str, FixRound] = field(default_factory=dict)
    run_state: Mapping[str, Any] = field(default_factory=dict)  # the state of the run as a whole
    rollback_cause: str | None = None  # the step at which the run failed, if the rollback had begun
    boot: str = ""  # the ID of the boot of the latest part
    boot_since: float = 0.0  # when the first part on that boot began, in seconds since the epoch; 0 if none was before
    boot_of_step: dict[str, str] = field(default_factory=dict)  # the ID of the boot on which each step finished
    undone_by_boot: dict[str, str] = field(default_factory=dict)
    """The finished steps whose result a reboot undid, each with a sentence. They are repeated."""
    notified: set[tuple[str, str]] = field(default_factory=set)
    """The entries of `notify` that were carried out since the last end of the run, each with the status."""
    _plan_events: dict[tuple[Any, ...], Event] = field(default_factory=dict)

    @classmethod
    def from_events(cls, events: Iterable[Event], boot: str = "") -> ResumeState:
        """Return the state after the events of all earlier parts, the first of which began on `boot`."""
        state = cls(boot=boot)
        for event in events:
            state.add(event)
        return state

    def add(self, event: Event) -> None:
        """Take one more event into account. Raises ValueError, TypeError or KeyError for one of another version."""
        if event.event in PLAN_EVENTS:
            evidence = event.data.get("evidence")
            changed = str(evidence.get(CHANGED_SERVICES)) if isinstance(evidence, Mapping) else ""
            self._plan_events.setdefault((event.event, event.data.get("id"), event.data.get("status"), changed), event)
        match event.payload:
            case StepActing(id=name):
                self.in_progress.add(name)
                self.ever_acted.add(name)
                self.stopped_steps.discard(name)
                self.finished.pop(name, None)
            case StepRemembers(id=name, memory=state):
                self.saved_states[name] = state
            case StepRetrying(id=name) | StepRerun(id=name):
                self._forget(name)
            case StepFinished() as end:
                self._finish(end)
            case FixStarted(id=name) as fix:
                self.begin_fix_round(name)
                self.fix_rounds[name] = FixRound(fix.round, fix.because, tuple(fix.up))
            case RollbackStarted(failed=name):
                self.rollback_cause = name
            case RunStarted():
                self.parts += 1
            case RunResumed(boot=boot):
                self.parts += 1
                if boot is not None and boot != self.boot:
                    self.boot, self.boot_since = str(boot), event.time
            case Notified(entry=entry, status=status):
                self.notified.add((entry, status))
            case RunFinished(status=status):
                self.notified.clear()
                self.stopped_steps = set(self.in_progress) if status == RunStatus.INTERRUPTED else self.stopped_steps

    def _finish(self, end: StepFinished) -> None:
        name = end.id
        self.in_progress.discard(name)
        self.saved_states.pop(name, None)
        self.fix_rounds.pop(name, None)
        self.finished.pop(name, None)  # The order is that of the latest ends.
        self.finished[name] = Outcome.from_payload(end)
        self.boot_of_step[name] = self.boot
        self.run_state = self.run_state if end.remembers is None else end.remembers
        if end.evidence.get(BY_OPERATOR):
            self.skipped_by_operator.add(name)

    @property
    def plan_events(self) -> tuple[Event, ...]:
        """The events that a rollback is planned from: the first of each name, step, status and changed services."""
        return tuple(self._plan_events.values())

    def find_kept_outcome(self, step: Step[Any]) -> Outcome | None:
        """Return the outcome of a step that is not repeated; None for a step to be done, or to be checked again."""
        name = step.step_id
        proves = step.only_reads() or step.remedy() is not None
        if name in self.undone_by_boot or (proves and name not in self.skipped_by_operator):
            return None
        return self.finished.get(name)

    def is_new(self, name: str) -> bool:
        """True if no earlier part of the run began this step."""
        return name not in self.finished and name not in self.in_progress

    def find_partial(self, name: str) -> PartialAttempt | None:
        """Return the attempt of a step that began to act and did not finish; None if there is none."""
        if name not in self.in_progress:
            return None
        return PartialAttempt(self.saved_states.get(name), name in self.stopped_steps)

    def take_partial(self, name: str) -> PartialAttempt | None:
        """Return the same as `find_partial`, but only once: the attempt is continued now."""
        partial = self.find_partial(name)
        self.in_progress.discard(name)
        self.saved_states.pop(name, None)
        return partial

    def begin_fix_round(self, name: str) -> None:
        """Forget the outcomes of the fixes of a remediation, so that all are done again."""
        fixes = f"{name}.fix."
        for one in [n for n in (*self.finished, *self.in_progress) if n.startswith(fixes)]:
            self._forget(one)
        self.ever_acted = {n for n in self.ever_acted if not n.startswith(fixes)}

    def _forget(self, name: str) -> None:
        """Forget the outcome of a step and of the steps in it, so that they are done again."""
        self.fix_rounds.pop(name, None)
        self.skipped_by_operator.discard(name)
        for one in {name, *(n for n in (*self.finished, *self.in_progress) if n.startswith(f"{name}."))}:
            self.finished.pop(one, None)
            self.saved_states.pop(one, None)
            self.in_progress.discard(one)

    @property
    def changed(self) -> bool:
        """True if an earlier part changed something."""
        changes = (StepStatus.CHANGED, StepStatus.REMEDIATED)
        return bool(self.ever_acted) or any(outcome.status in changes for outcome in self.finished.values())
