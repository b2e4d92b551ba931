"""What earlier parts of a run have done, folded from its events: for whoever goes on with it.

A step that had ended stays ended, unless it only reads. One that had begun to act and was cut short is taken up where
it was. Between two rounds of a fix everything is looked at afresh; within a round its finished steps are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.model import Event, Impact, RunStatus, StepStatus
from runbook.spec.state import Memory, RunState
from runbook.spec.step import Step

BY_OPERATOR = "by-operator"
"""The fact in the evidence of a step that the operator passed over."""


@dataclass(frozen=True)
class Cut:
    """A try that had begun to act and did not end. `memory` is what its step remembered, if that lasts.

    `stopped`: it was interrupted in an orderly way.
    """

    memory: Mapping[str, Any] | None = None
    stopped: bool = False

    def memory_for(self, step: Step[Any], run: RunState) -> Memory:
        """Make the step's memory of it, or a new one where nothing of it was kept."""
        if self.memory is not None:
            return step.remembers.restored(run, step.id or step.kind, self.memory)
        fresh: Memory = step.memory(run)
        return fresh


@dataclass(frozen=True)
class Round:
    """A round of a fix that had begun, for the verdict `because`. `up` are the units that were up before the first."""

    number: int
    because: str
    up: tuple[str, ...] = ()


@dataclass
class Done:
    """What there is of a run by now. Empty for one that begins."""

    finished: dict[str, Outcome] = field(default_factory=dict)
    acted: set[str] = field(default_factory=set)
    """What had begun to act and had not ended."""
    stopped: set[str] = field(default_factory=set)
    """What of that was stopped, because the run was interrupted."""
    touched: set[str] = field(default_factory=set)
    """What had begun to act at any time: it may have done its work, and only not have seen it."""
    passed_over: set[str] = field(default_factory=set)
    """What the operator said is to be taken as done."""
    memories: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rounds: dict[str, Round] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the run as a whole remembers."""
    rollback: Mapping[str, Any] | None = None
    """What the roll back began for, if it had begun."""
    boot: str = ""
    """The id of the boot on which the last part was at work."""
    boots: dict[str, str] = field(default_factory=dict)
    """On which boot each step ended."""
    taken: dict[str, str] = field(default_factory=dict)
    """What a boot has taken of what a step had done, which is to be done again for that."""

    @classmethod
    def of(cls, events: Iterable[Event], boot: str = "") -> Done:
        """Fold the events of all earlier parts, the first of which began on `boot`."""
        done = cls(boot=boot)
        for event in events:
            if fold := done._folds.get(event.event):
                fold(event.data)
        return done

    def kept(self, step: Step[Any]) -> Outcome | None:
        """Give how a step ended that is not to be carried out again; None for one that is to be proved, or done."""
        name = str(step.id)
        if name in self.taken:
            return None
        proves = step.impact_here() is Impact.READ_ONLY or step.remedy() is not None
        return None if proves and name not in self.passed_over else self.finished.get(name)

    def cut(self, name: str) -> Cut | None:
        """Take the try of a step that was cut short after it had begun to act. It is taken up once."""
        if name not in self.acted or name in self.finished:
            return None
        self.acted.discard(name)
        return Cut(self.memories.pop(name, None), name in self.stopped)

    def peek(self, name: str) -> Cut:
        """Look at the try of a step that was cut short."""
        return Cut(self.memories.get(name), name in self.stopped)

    def under_way(self, name: str) -> bool:
        """Whether a step had begun to act and had not ended."""
        return name in self.acted and name not in self.finished

    def round(self, name: str) -> Round | None:
        """Take the round of a fix that was cut short. It is gone on with once."""
        return self.rounds.pop(name, None)

    def new_round(self, name: str) -> None:
        """Let the fixes of a remediation be ones that are still to be done."""
        fixes = f"{name}.fix."
        for one in [n for n in (*self.finished, *self.acted) if n.startswith(fixes)]:
            self._forget(one)
        self.touched = {n for n in self.touched if not n.startswith(fixes)}

    @property
    def _folds(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        return {
            "step-acting": self._acting,
            "step-remembers": self._remembers,
            "step-retrying": lambda data: self._forget(data["id"]),
            "step-finished": self._finished,
            "step-rerun": lambda data: self._forget(data["id"]),
            "fix-started": self._fix_started,
            "rollback-started": self._rollback_started,
            "run-finished": self._run_finished,
            "run-resumed": self._run_resumed,
        }

    def _acting(self, data: Mapping[str, Any]) -> None:
        self.acted.add(data["id"])
        self.touched.add(data["id"])
        self.stopped.discard(data["id"])
        self.finished.pop(data["id"], None)

    def _remembers(self, data: Mapping[str, Any]) -> None:
        self.memories[data["id"]] = data["memory"]

    def _finished(self, data: Mapping[str, Any]) -> None:
        name = data["id"]
        self.acted.discard(name)
        self.memories.pop(name, None)
        self.rounds.pop(name, None)
        self.finished.pop(name, None)  # They stand in the order in which they ended.
        self.finished[name] = Outcome.of(data)
        self.boots[name] = self.boot
        self.state = data.get("remembers", self.state)
        if data["evidence"].get(BY_OPERATOR):
            self.passed_over.add(name)

    def _fix_started(self, data: Mapping[str, Any]) -> None:
        self.new_round(data["id"])
        self.rounds[data["id"]] = Round(data["round"], data["because"], tuple(data.get("up", ())))

    def _rollback_started(self, data: Mapping[str, Any]) -> None:
        self.rollback = data

    def _run_finished(self, data: Mapping[str, Any]) -> None:
        if data.get("status") == RunStatus.INTERRUPTED:
            self.stopped = set(self.acted)

    def _run_resumed(self, data: Mapping[str, Any]) -> None:
        self.boot = str(data.get("boot", self.boot))

    def _forget(self, name: str) -> None:
        """Let a step be one that is still to be done, with the steps it holds."""
        self.rounds.pop(name, None)
        self.passed_over.discard(name)
        for one in {name, *(n for n in (*self.finished, *self.acted) if n.startswith(f"{name}."))}:
            self.finished.pop(one, None)
            self.memories.pop(one, None)
            self.acted.discard(one)

    @property
    def changed(self) -> bool:
        """Whether anything was changed by now."""
        changes = (StepStatus.CHANGED, StepStatus.REMEDIATED)
        return bool(self.touched) or any(outcome.status in changes for outcome in self.finished.values())
