"""A wait of a step outside of its attempts, which is reported from time to time as an attempt reports its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runbook.engine.execution.stream import EventStream
from runbook.events import REPORT_INTERVAL, StepWaiting
from runbook.model import Deadline
from runbook.spec.step import Step


@dataclass
class LongWait:
    """A wait that begins now and ends at the deadline at the latest."""

    events: EventStream
    step: Step[Any]
    reason: str  # what it waits for
    deadline: Deadline

    def __post_init__(self) -> None:
        """Record when it begins."""
        self._began = self._reported = self.events.clock.monotonic()

    @property
    def until_report(self) -> float:
        """The seconds until the next report is due."""
        return max(0.0, self._reported + REPORT_INTERVAL - self.events.clock.monotonic())

    def report_if_due(self) -> None:
        """Report the wait, if REPORT_INTERVAL has passed since it was reported or began, and time is left."""
        if not self.until_report and not self.deadline.expired:
            self.report()

    def report(self) -> None:
        """Report the wait."""
        self._reported = self.events.clock.monotonic()
        waited, left = round(self._reported - self._began, 3), round(self.deadline.remaining, 3)
        id_, type_ = self.step.step_id, self.step.type_name
        self.events.emit(StepWaiting(id=id_, type=type_, reason=self.reason, seconds=waited, left=left))
