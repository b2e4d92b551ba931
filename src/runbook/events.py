"""The events of a run: their names, what each one carries, and the line of JSON that each one becomes.

The classes here own the keys of the JSON lines and of the record: a key is the field's name with dashes. What was
written by another version is read as far as it fits: unknown names and keys are kept and ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from runbook.model import frozen

REPORT_INTERVAL = 15.0  # seconds after which a wait is reported again


class EventName(StrEnum):
    """The names of all events."""

    OBSERVED = "observed"
    STEP_PLANNED = "step-planned"
    PLAN_FINISHED = "plan-finished"
    RUN_STARTED = "run-started"
    RUN_RESUMED = "run-resumed"
    STEP_STARTED = "step-started"
    STEP_ACTING = "step-acting"
    STEP_REMEMBERS = "step-remembers"
    STEP_WAITING = "step-waiting"
    STEP_RETRYING = "step-retrying"
    STEP_FINISHED = "step-finished"
    STEP_KEPT = "step-kept"
    STEP_RERUN = "step-rerun"
    FIX_STARTED = "fix-started"
    UNIT_STARTED_AGAIN = "unit-started-again"
    ROLLBACK_STARTED = "rollback-started"
    NOTIFIED = "notified"
    NOTICE = "notice"
    WAITING = "waiting"
    RUN_FINISHED = "run-finished"
    RECORD_LOST = "record-lost"
    RUN_SUPERSEDED = "run-superseded"
    RUN_ABANDONED = "run-abandoned"
    RUN_RECORDED = "run-recorded"


SCHEMA_VERSION = 1  # of the lines; a higher one means that an event or a key was removed, or has another meaning


def optional(default: Any) -> Any:
    """Return a field that is left out of the line while it has its default."""
    return field(default=default, metadata={"left-out": True})


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Payload:
    """What an event carries: a dataclass for each name, whose fields are given by name and never change.

    A field without a default must be in the line; a plain default is always written.
    """

    event: ClassVar[EventName]
    keys: ClassVar[Mapping[str, Field[Any]]] = {}  # the key of each field, in order
    types: ClassVar[dict[str, type[Payload]]] = {}  # the class of each name

    def __init_subclass__(cls, event: EventName | None = None) -> None:
        made = frozen(cls)
        cls.keys = {one.name.replace("_", "-"): one for one in fields(made)}  # type: ignore[arg-type]
        if event is not None:
            cls.event = event
            Payload.types[event] = cls

    def to_data(self) -> dict[str, Any]:
        """Return the fields under their keys, in their order, as JSON takes them."""
        values = ((key, one, getattr(self, one.name)) for key, one in self.keys.items())
        return {key: _plain(value) for key, one, value in values if not (one.metadata and value == one.default)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Return the payload that `to_data` was called on. Raises ValueError if a required field is missing."""
        try:
            return cls(**{one.name: data[key] for key, one in cls.keys.items() if key in data})
        except TypeError as error:
            raise ValueError(f"no {cls.event}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


class StepPayload(Payload):
    """What an event of one step carries."""

    id: str  # the step's id; of a nested step with those of the steps around it
    type: str  # the step's type, as in the runbook


class _BegunPayload(Payload):
    """What the event of a beginning carries: of a run, or of a later part of it."""

    name: str = ""  # the runbook's `name`
    file: str = ""  # the path of the runbook, or `-`; of `runbook restart` the command
    unit: str | None = None  # the runbook's `unit`
    units: Sequence[str] = ()  # all units of the runbook, by systemd's own names
    steps: Sequence[Mapping[str, str]] = ()  # `id` and `type` of each
    booted: float | None = None  # the time of this boot, in seconds since the epoch
    boot: str | None = optional(None)  # the id of this boot; of a resumed run only
    left: str = optional("")  # the unit that the program has left for a scope of its own
    waking: Mapping[str, Sequence[str]] | None = optional(None)  # active triggers by the unit they start
    rollback: str | None = optional(None)  # the step whose failure started a rollback in an earlier part
    lines: Mapping[str, int] | None = optional(None)  # the line of each step in the file, by the id of the step


class RunStarted(_BegunPayload, event=EventName.RUN_STARTED):
    """A run began."""

    schema: int = SCHEMA_VERSION  # the version of the schema of these lines


class RunResumed(_BegunPayload, event=EventName.RUN_RESUMED):
    """A later part of a run began, in another process."""


class StepStarted(StepPayload, event=EventName.STEP_STARTED):
    """A step began."""

    name: str  # the step's `name`, or else its type
    units: Sequence[str] = ()  # the units that the step acts on or checks


class StepActing(StepPayload, event=EventName.STEP_ACTING):
    """A step is about to change something."""

    reason: str  # the change, in the infinitive
    evidence: Mapping[str, Any]  # the state before it


class StepRemembers(Payload, event=EventName.STEP_REMEMBERS):
    """The state of a step has changed that `resume` needs to continue it."""

    id: str  # the step's id
    memory: Mapping[str, Any]  # its state


class StepWaiting(StepPayload, event=EventName.STEP_WAITING):
    """A step waits."""

    reason: str  # what it waits for
    seconds: float  # the time it has waited already
    left: float  # the time it will wait at most
    healthy: float | None = optional(None)  # the time for which the unit has been healthy without interruption
    healthy_for: float | None = optional(None)  # the time for which it must be
    facts: Sequence[str] = optional(())  # who has the ports, and each probe with its last answer, in words
    output: str = optional("")  # the file that the command writes its output to
    opens_in: float | None = optional(None)  # the time until the start limit of the unit allows a start
    seen: Mapping[str, Any] | None = optional(None)  # the unit in systemd, and its ports; only if they have changed


class StepRetrying(StepPayload, event=EventName.STEP_RETRYING):
    """An attempt failed, and another one follows."""

    attempt: int  # the number of the attempt that failed, from 1
    pause: float  # seconds until the next attempt
    verdict: str  # of the attempt that failed
    reason: str  # why it failed


class StepKept(StepPayload, event=EventName.STEP_KEPT):
    """A step had finished in an earlier part of the run, and is not repeated."""

    status: str  # `ok`, `changed`, `skipped`, `failed` or `remediated`
    verdict: str | None  # one word for what was found; null for a skipped step
    reason: str  # a sentence
    attempts: int  # the number of attempts
    seconds: float  # of all attempts
    evidence: Mapping[str, Any]  # the facts behind the verdict


class StepFinished(StepKept, event=EventName.STEP_FINISHED):
    """A step finished."""

    name: str = optional("")  # the step's `name`, if it has one
    continues: bool = optional(False)  # it failed, and the run continues
    remembers: Mapping[str, Any] | None = optional(None)  # the state of the whole run, if it has changed


class StepRerun(Payload, event=EventName.STEP_RERUN):
    """The operator wants a step to be repeated."""

    id: str  # the step's id


class FixStarted(Payload, event=EventName.FIX_STARTED):
    """A round of a fix began."""

    id: str  # the id of the `remediate` step
    round: int  # the number of this round, from 1
    rounds: int  # the number of rounds at most
    because: str  # the verdict of the check that failed
    up: Sequence[str] = ()  # the units that ran before the first round


class UnitStartedAgain(Payload, event=EventName.UNIT_STARTED_AGAIN):
    """A fix failed, and a unit that it had stopped is started again."""

    unit: str  # systemd's own name of it


class RollbackStarted(Payload, event=EventName.ROLLBACK_STARTED):
    """The rollback began."""

    failed: str  # the step at which the run failed
    updates: Sequence[Mapping[str, Any]]  # `id`, `from` and `to` of each update that ran
    units: Sequence[str] = optional(())  # the units beside the runbook's that the run restarted, or a command of it


class Notified(Payload, event=EventName.NOTIFIED):
    """The final status was reported to an entry of `notify`."""

    to: str  # who was notified: a webhook, a mail address or a command
    status: str  # the final status that was reported
    entry: str  # the entry: `runbook` or `machine`, and its number in the list, from 1
    unit: str = optional("")  # the unit that carries it out, if it goes on after the end of the run


class Notice(Payload, event=EventName.NOTICE):
    """Information for the operator."""

    text: str  # a sentence


class Waiting(Payload, event=EventName.WAITING):
    """Something other than a step of a run waits: for a lock, or a dry run for an answer."""

    name: str  # `lock`, or the name of the step that is looked at
    reason: str  # what it waits for
    seconds: float  # the time it has waited already
    left: float  # the time it will wait at most


class RunFinished(Payload, event=EventName.RUN_FINISHED):
    """A run finished, for now or for good."""

    status: str  # `ok`, `changed`, `remediated`, `failed`, `rolled-back`, … (docs/reference/exit-status.md)
    exit: int  # the exit status
    reason: str  # a sentence
    step: str = optional("")  # the step at which it ended, if it did not end well
    verdict: str = optional("")  # that step's verdict
    cause: str = optional("")  # after a rollback: the reason of the step that had failed
    after: Mapping[str, str] | None = optional(None)  # `step` and `verdict` of the failure that was rolled back
    back: str = optional("")  # the state of each update after a rollback
    now: str = optional("")  # the state of the units and their ports
    hint: str = optional("")  # what the operator can do next
    log: str = optional("")  # the file with the complete output of a command


class Observed(Payload, event=EventName.OBSERVED):
    """The state in systemd and in the kernel, before anything is planned."""

    name: str  # the runbook's `name`
    file: str  # the path of the runbook, or `-`
    unit: str | None  # the runbook's `unit`
    systemd: Mapping[str, Any] | None = optional(None)  # properties of the unit
    starts: Mapping[str, Any] | None = optional(None)  # what is left of the unit's start limit
    ports: Sequence[Mapping[str, Any]] | None = optional(None)  # the verdict, listeners and holders of each port
    lines: Mapping[str, int] | None = optional(None)  # the line of each step in the file, by the id of the step
    schema: int = SCHEMA_VERSION  # the version of the schema of these lines


class StepPlanned(StepPayload, event=EventName.STEP_PLANNED):
    """What a step would find and do."""

    impact: str  # `none`, `read-only`, `mutating` or `undetermined`
    verdict: str | None  # one word for what was found; null if nothing was looked at
    reason: str  # a sentence: what the step would do, or what it found
    evidence: Mapping[str, Any]  # the facts behind the verdict
    name: str = optional("")  # the step's `name`, if it has one
    undetermined_by: Sequence[str] = optional(())  # the earlier steps that can change the answer


class PlanFinished(Payload, event=EventName.PLAN_FINISHED):
    """A plan is complete, or could not be made."""

    would_change: bool | None = optional(None)  # whether the run would change something
    status: str  # as of a run
    exit: int  # the exit status
    reason: str  # a sentence
    hint: str = optional("")  # what the operator can do next
    locked_by: Sequence[Mapping[str, Any]] = optional(())  # the runs that have the locks of the units


class RecordLost(Payload, event=EventName.RECORD_LOST):
    """Nothing after this is recorded."""

    reason: str = ""  # why


class RunSuperseded(Payload, event=EventName.RUN_SUPERSEDED):
    """A later run acted on the same unit: this one cannot be resumed any more."""

    by: str = ""  # the ID of the later run
    unit: str = ""  # the unit


class RunAbandoned(Payload, event=EventName.RUN_ABANDONED):
    """The operator has given up the run for good."""


class RunRecorded(Payload, event=EventName.RUN_RECORDED):
    """The summary of a record."""

    name: str  # the runbook's `name`
    file: str  # the path of the runbook, or `-`; of `runbook restart` the command
    units: Sequence[str]  # all its units
    scope: str  # `system` or `user`: whose manager it used
    user: str  # who requested it, behind su and sudo
    user_source: str = optional("")  # where the user's name is from: `loginuid`, `sudo` or `uid`
    status: str  # a RunStatus, or the state of a run that has not ended
    seconds: float  # of all parts of the run, without the pauses between them
    resumable: bool  # whether `runbook resume` can continue it
    exit: int | None = optional(None)  # the exit status
    reason: str | None = optional(None)  # a sentence
    lost: str = optional("")  # why the record is incomplete
    cut: Sequence[str] = optional(())  # the steps whose end is not recorded
    superseded: Mapping[str, Any] | None = optional(None)  # the later run and the unit
    abandoned: Mapping[str, Any] | None = optional(None)  # when it was given up, and by whom
    folder: str  # of its record
    printed: Sequence[Mapping[str, Any]]  # `file` and `bytes` of each output of a command


P = TypeVar("P", bound=Payload)


@frozen
class Event:
    """One thing that happened. All that a person or a program sees of a run is made from its events."""

    time: float  # in seconds since the epoch
    run: str
    event: str  # an EventName, or the name of another version
    data: Mapping[str, Any] = field(default_factory=dict)  # the payload, as JSON has it

    @classmethod
    def of(cls, time: float, run: str, payload: Payload) -> Self:
        """Return the event of a payload."""
        return cls(time, run, payload.event, payload.to_data())

    @cached_property
    def payload(self) -> Payload | None:
        """What it carries; None for a name of another version. Raises ValueError if the data does not fit the name."""
        known = Payload.types.get(self.event)
        return known.from_data(self.data) if known is not None else None

    def to_line(self) -> str:
        """Return it as one JSON object on a line. `time` is RFC 3339, in UTC, with milliseconds."""
        stamp = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({"time": stamp, "run": self.run, "event": self.event, **self.data}, default=str)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Return the event of a line that `to_line` made. Raises ValueError for any other line."""
        data = json.loads(line)
        try:
            time, run, event = data.pop("time"), data.pop("run"), data.pop("event")
            return cls(datetime.fromisoformat(time).timestamp(), str(run), str(event), data)
        except (AttributeError, KeyError, TypeError, OverflowError, OSError) as error:
            raise ValueError(f"no event: {error}") from None


def select(events: Iterable[Event], kind: type[P]) -> Iterator[P]:
    """Yield the payloads of the events of one kind. Raises ValueError if the data of an event does not fit."""
    for event in events:
        if event.event == kind.event and isinstance(payload := event.payload, kind):
            yield payload
