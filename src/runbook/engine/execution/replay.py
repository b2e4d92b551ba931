"""What earlier parts of a run have done, folded from its events: for whoever goes on with it.

A step that had ended stays ended, unless it only reads. One that had begun to act and was cut short is taken up where
it was. Between two rounds of a fix everything is looked at afresh; within a round its finished steps are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.events import (
    Event,
    EventName,
    FixStarted,
    Payload,
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
from runbook.spec.state import RunState, StepState
from runbook.spec.step import Step

PLAN_EVENTS = (EventName.RUN_STARTED, EventName.ROLLBACK_STARTED, EventName.STEP_ACTING, EventName.STEP_FINISHED)
"""The names of the events that a rollback is planned from."""

BY_OPERATOR = "by-operator"
"""The fact in the evidence of a step that the operator passed over."""


@dataclass(frozen=True)
class PartialAttempt:
    """A try that had begun to act and did not end. `memory` is what its step remembered, if that lasts.

    `stopped`: it was interrupted in an orderly way.
    """

    state: Mapping[str, Any] | None = None
    stopped: bool = False

    def state_for(self, step: Step[Any], run: RunState) -> StepState:
        """Make the step's memory of it, or a new one where nothing of it was kept."""
        made: StepState = step.new_state(run, self.state)
        return made


@dataclass(frozen=True)
class FixRound:
    """A round of a fix that had begun, for the verdict `because`. `up` are the units that were up before the first."""

    number: int
    because: str
    units_up: tuple[str, ...] = ()


@dataclass
class ResumeState:
    """What there is of a run by now. Empty for one that begins."""

    parts: int = 0
    """The number of earlier parts of the run."""
    finished: dict[str, Outcome] = field(default_factory=dict)
    """How each step ended, in the order of their ends."""
    in_progress: set[str] = field(default_factory=set)
    """What had begun to act and had not ended."""
    stopped_steps: set[str] = field(default_factory=set)
    """What of that was stopped, because the run was interrupted."""
    ever_acted: set[str] = field(default_factory=set)
    """What had begun to act at any time: it may have done its work, and only not have seen it."""
    skipped_by_operator: set[str] = field(default_factory=set)
    """What the operator said is to be taken as done."""
    saved_states: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    fix_rounds: dict[str, FixRound] = field(default_factory=dict)
    run_state: Mapping[str, Any] = field(default_factory=dict)
    """What the run as a whole remembers."""
    rollback_cause: str | None = None
    """The step at which the run failed, if the rollback had begun."""
    boot: str = ""
    """The id of the boot on which the last part was at work."""
    boot_of_step: dict[str, str] = field(default_factory=dict)
    """On which boot each step ended."""
    undone_by_boot: dict[str, str] = field(default_factory=dict)
    """What a boot has taken of what a step had done, which is to be done again for that."""
    _plan_events: dict[tuple[Any, ...], Event] = field(default_factory=dict)

    @classmethod
    def from_events(cls, events: Iterable[Event], boot: str = "") -> ResumeState:
        """Fold the events of all earlier parts, the first of which began on `boot`."""
        done = cls(boot=boot)
        for event in events:
            done.add(event)
        return done

    def add(self, event: Event) -> None:
        """Take one more event into account. Raises ValueError, TypeError or KeyError for one of another version."""
        if event.event in PLAN_EVENTS:
            self._plan_events.setdefault((event.event, event.data.get("id"), event.data.get("status")), event)
        if (payload := event.payload) is not None:
            self._fold(payload)

    @property
    def plan_events(self) -> tuple[Event, ...]:
        """The events that a rollback is planned from: the first of each name, step and status."""
        return tuple(self._plan_events.values())

    def find_kept_outcome(self, step: Step[Any]) -> Outcome | None:
        """Give how a step ended that is not to be carried out again; None for one that is to be proved, or done."""
        name = str(step.id)
        if name in self.undone_by_boot:
            return None
        proves = step.only_reads() or step.remedy() is not None
        return None if proves and name not in self.skipped_by_operator else self.finished.get(name)

    def take_partial(self, name: str) -> PartialAttempt | None:
        """Take the try of a step that was cut short after it had begun to act. It is taken up once."""
        if name not in self.in_progress or name in self.finished:
            return None
        self.in_progress.discard(name)
        return PartialAttempt(self.saved_states.pop(name, None), name in self.stopped_steps)

    def peek_partial(self, name: str) -> PartialAttempt:
        """Look at the try of a step that was cut short."""
        return PartialAttempt(self.saved_states.get(name), name in self.stopped_steps)

    def is_in_progress(self, name: str) -> bool:
        """Whether a step had begun to act and had not ended."""
        return name in self.in_progress and name not in self.finished

    def take_fix_round(self, name: str) -> FixRound | None:
        """Take the round of a fix that was cut short. It is gone on with once."""
        return self.fix_rounds.pop(name, None)

    def begin_fix_round(self, name: str) -> None:
        """Let the fixes of a remediation be ones that are still to be done."""
        fixes = f"{name}.fix."
        for one in [n for n in (*self.finished, *self.in_progress) if n.startswith(fixes)]:
            self._forget(one)
        self.ever_acted = {n for n in self.ever_acted if not n.startswith(fixes)}

    @singledispatchmethod
    def _fold(self, payload: Payload) -> None:
        """Take in one event; most change nothing."""

    @_fold.register
    def _acting(self, acting: StepActing) -> None:
        self.in_progress.add(acting.id)
        self.ever_acted.add(acting.id)
        self.stopped_steps.discard(acting.id)
        self.finished.pop(acting.id, None)

    @_fold.register
    def _remembers(self, remembers: StepRemembers) -> None:
        self.saved_states[remembers.id] = remembers.memory

    @_fold.register
    def _repeated(self, repeated: StepRetrying | StepRerun) -> None:
        self._forget(repeated.id)

    @_fold.register
    def _finished(self, end: StepFinished) -> None:
        name = end.id
        self.in_progress.discard(name)
        self.saved_states.pop(name, None)
        self.fix_rounds.pop(name, None)
        self.finished.pop(name, None)  # They stand in the order in which they ended.
        self.finished[name] = Outcome.from_payload(end)
        self.boot_of_step[name] = self.boot
        self.run_state = self.run_state if end.remembers is None else end.remembers
        if end.evidence.get(BY_OPERATOR):
            self.skipped_by_operator.add(name)

    @_fold.register
    def _fix_started(self, fix: FixStarted) -> None:
        self.begin_fix_round(fix.id)
        self.fix_rounds[fix.id] = FixRound(fix.round, fix.because, tuple(fix.up))

    @_fold.register
    def _rollback_started(self, rollback: RollbackStarted) -> None:
        self.rollback_cause = rollback.failed

    @_fold.register
    def _run_started(self, _started: RunStarted) -> None:
        self.parts += 1

    @_fold.register
    def _run_finished(self, end: RunFinished) -> None:
        if end.status == RunStatus.INTERRUPTED:
            self.stopped_steps = set(self.in_progress)

    @_fold.register
    def _run_resumed(self, resumed: RunResumed) -> None:
        self.parts += 1
        self.boot = self.boot if resumed.boot is None else str(resumed.boot)

    def _forget(self, name: str) -> None:
        """Let a step be one that is still to be done, with the steps it holds."""
        self.fix_rounds.pop(name, None)
        self.skipped_by_operator.discard(name)
        for one in {name, *(n for n in (*self.finished, *self.in_progress) if n.startswith(f"{name}."))}:
            self.finished.pop(one, None)
            self.saved_states.pop(one, None)
            self.in_progress.discard(one)

    @property
    def changed(self) -> bool:
        """Whether anything was changed by now."""
        changes = (StepStatus.CHANGED, StepStatus.REMEDIATED)
        return bool(self.ever_acted) or any(outcome.status in changes for outcome in self.finished.values())
