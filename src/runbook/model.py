"""The values that travel through the program (verdicts, statuses, findings, deadlines), and how to declare one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class of immutable values, as `@dataclass(frozen=True)` does, but with methods that all classes share.

    dataclass() compiles methods for each class. For the classes of this program that took 12 ms of each command.
    """
    made: Any = dataclass(init=False, repr=False, eq=False)(cls)
    declared = fields(made)
    made._shape = _Shape(
        names=frozenset(one.name for one in declared),
        positional=tuple(one.name for one in declared if not one.kw_only),
        defaults={one.name: one.default for one in declared if one.default is not MISSING},
        factories=tuple((one.name, one.default_factory) for one in declared if one.default_factory is not MISSING),
        read_compared=_make_reader(one.name for one in declared if one.compare),
        read_hashed=_make_reader(one.name for one in declared if (one.compare if one.hash is None else one.hash)),
    )
    for name, method in _METHODS.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    return cls


class _Shape(NamedTuple):
    """What the shared methods know of a class."""

    names: frozenset[str]
    positional: tuple[str, ...]
    defaults: dict[str, Any]
    factories: tuple[tuple[str, Callable[[], Any]], ...]
    read_compared: Callable[[dict[str, Any]], Any]
    read_hashed: Callable[[dict[str, Any]], Any]


def _make_reader(names: Iterable[str]) -> Callable[[dict[str, Any]], Any]:
    """Return a function that reads these values of an instance's `__dict__`."""
    wanted = tuple(names)
    return itemgetter(*wanted) if wanted else lambda _: ()


def _init(self: Any, *args: Any, **values: Any) -> None:
    shape: _Shape = self._shape
    made: dict[str, Any] = self.__dict__
    made.update(shape.defaults)
    if args:
        given = dict(zip(shape.positional, args, strict=False))
        if len(given) < len(args) or not values.keys().isdisjoint(given):
            raise TypeError(f"{type(self).__name__} takes the fields {', '.join(shape.positional)} in this order, once")
        made.update(given)
    made.update(values)
    for name, make in shape.factories:
        if name not in made:
            made[name] = make()
    if made.keys() != shape.names:
        raise TypeError(f"{type(self).__name__} has the fields {', '.join(shape.names)}")


def _repr(self: Any) -> str:
    values = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self))
    return f"{type(self).__name__}({values})"


def _eq(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    read = self._shape.read_compared
    return read(self.__dict__) == read(other.__dict__)


def _hash(self: Any) -> int:
    return hash(self._shape.read_hashed(self.__dict__))


def _refuse(self: Any, name: str, _: Any = None) -> NoReturn:
    raise FrozenInstanceError(f"cannot change {name} of {type(self).__name__}")


_METHODS = {
    "__init__": _init,
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
}


class Verdict(StrEnum):
    """One word for what was found, the same in text, JSON, JUnit and the record."""

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Verdict:
        """Return the member with its meaning, the sentence for the reference."""
        verdict = str.__new__(cls, word)
        verdict._value_ = word
        verdict.meaning = meaning
        return verdict

    # Ports
    OWNED = "owned", "every socket on the unit's addresses of the port belongs to the unit's current invocation"
    NOT_LISTENING = "not-listening", "no process listens on the port, on an address of the unit"
    ORPHAN_HOLDS_PORT = "orphan-holds-port", "a process that belongs to no service holds the port"
    LEFTOVER_HOLDS_PORT = "leftover-holds-port", "a process of an earlier invocation of the unit holds the port"
    OTHER_UNIT_HOLDS_PORT = "other-unit-holds-port", "another live service, or a container, holds the port"
    PORT_SHARED = "port-shared", "the unit and another process both listen on the port"
    OWNER_UNKNOWN = "owner-unknown", "the holder of the port, or its unit, cannot be determined"
    OWNER_MISMATCH = "owner-mismatch", "the unit holds the port, but not with its main process, as required"
    # Units
    READY = "ready", "the unit has been healthy for the required time, without interruption"
    STILL_STARTING = "still-starting", "the unit runs, but was not ready in time; it was left running"
    CRASH_LOOP = "crash-loop", "the unit was restarted by systemd more often than allowed"
    START_LIMIT_HIT = "start-limit-hit", "systemd refuses to start the unit: too many starts in too short a time"
    UNIT_FAILED = "unit-failed", "the unit failed, and no restart is pending; or systemd cannot load its file"
    UNIT_EXITED = "unit-exited", "the unit exited without an error, but it should keep running"
    CONDITION_NOT_MET = "condition-not-met", "a Condition or an Assert of the unit was not met, so it did not start"
    NOT_NOTIFYING = "not-notifying", "the unit runs, but does not report that it is ready, as its Type= requires"
    UNIT_MASKED = "unit-masked", "the unit is masked, which an operator has decided"
    UNIT_NOT_FOUND = "unit-not-found", "systemd finds no unit of this name"
    UNIT_CHANGED = "unit-changed", "another program or user started, restarted or stopped the unit during the step"
    UNIT_FROZEN = "unit-frozen", "the unit is frozen, or its main process is stopped, so that it does not run"
    PROBE_FAILED = "probe-failed", "a probe got a wrong answer"
    # Jobs
    JOB_DONE = "job-done", "systemd finished the job, and the unit is in the state that the job should reach"
    ALREADY_SO = "already-so", "the unit was already in that state; nothing was done"
    JOB_FAILED = "job-failed", "systemd refused the request, or the job failed"
    JOB_TIMEOUT = "job-timeout", "the job was not finished in time"
    JOB_CANCELED = "job-canceled", "another job replaced this one"
    JOB_DEPENDENCY = (
        "job-dependency",
        "a unit that this one requires, directly or not, did not start, or failed",
    )
    NOT_RESTARTED = "not-restarted", "the job finished, but no new invocation of the unit has begun"
    RESET = "reset", "the failed state and the start-limit counter are cleared"
    RELOADED = "reloaded", "the unit reloaded its configuration"
    # Versions
    UPDATED = "updated", "the version is now the wanted one"
    UP_TO_DATE = "up-to-date", "the version was already the wanted one"
    UPDATE_FAILED = "update-failed", "the update's command failed"
    VERSION_MISMATCH = "version-mismatch", "the version is not the wanted one"
    VERSION_OK = "version-ok", "the running service has the wanted version"
    OLD_CODE_SERVING = "old-code-serving", "the running process is older than the files that it was started from"
    # Killing
    KILLED = "killed", "the processes that held the port were killed, and none of their sockets listens any more"
    NOTHING_TO_KILL = "nothing-to-kill", "no process that may be killed holds the port"
    REFUSED_TO_KILL = "refused-to-kill", "a process must not be killed, or would be started again at once"
    PORT_STILL_HELD = "port-still-held", "the port is still held after everything that is allowed was tried"
    # Commands
    COMMAND_DONE = "command-done", "the command exited with status 0"
    COMMAND_FAILED = "command-failed", "the command exited with a status other than 0, or its output is not as expected"
    TIMED_OUT = "timed-out", "the step did not finish in time, and what it had started was stopped"
    # Remediation
    HOLDS = "holds", "every check passed at first; nothing was changed"
    FIXED = "fixed", "every check passes after the fix"
    NOT_FIXED = "not-fixed", "a check still fails, or the fix was refused or failed"


class Impact(StrEnum):
    """What a step would do to the machine."""

    NONE = "none"
    READ_ONLY = "read-only"
    MUTATING = "mutating"
    UNDETERMINED = "undetermined"


class StepStatus(StrEnum):
    """How a step finished."""

    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    REMEDIATED = "remediated"


class RunStatus(StrEnum):
    """How a run finished, as `run-finished` reports it."""

    OK = "ok"
    CHANGED = "changed"
    REMEDIATED = "remediated"
    FAILED = "failed"
    STILL_STARTING = "still-starting"
    ROLLED_BACK = "rolled-back"
    INTERRUPTED = "interrupted"
    INVALID = "invalid"
    NOT_BEGUN = "not-begun"
    LOCKED = "locked"


class RecordState(StrEnum):
    """The state of a run that has not ended, or not for good. Only its record shows it."""

    UNDER_WAY = "under-way"  # its program is running
    CUT_SHORT = "cut-short"  # its program was killed, or the machine went down
    SUPERSEDED = "superseded"  # a later run has acted on one of its units
    ABANDONED = "abandoned"  # the operator has given it up
    RECORD_LOST = "record-lost"  # the record could not grow, so the end is unknown


class FindingState(StrEnum):
    """The result of a step's `check`."""

    HOLDS = "holds"  # the goal of the step is reached
    TO_DO = "to-do"  # it is not reached, and `apply` can do the next action
    NOT_YET = "not-yet"  # the step must wait
    FAILS = "fails"  # it is not reached, and this attempt cannot reach it
    STILL_STARTING = "still-starting"  # not reached in time, but in progress: no fix, no rollback


@frozen
class ProcessId:
    """The identity of a process. A PID can be used again, but not together with the same start time."""

    pid: int
    start: int  # field 22 of /proc/PID/stat, in clock ticks since boot (proc(5))


class Wake(NamedTuple):
    """What can change a NOT_YET: the engine waits for the first of these."""

    units: frozenset[str] = frozenset()  # a change of one of these units
    processes: frozenset[ProcessId] = frozenset()  # the exit of one of these processes
    ports: frozenset[Port] = frozenset()  # a change of their sockets; polled, as listen(2) causes no event
    within: float = 1.0  # seconds until the next check, even if nothing changes
    pending: bool = False  # the answer to a query of this check is missing; a dry run waits for it too


class Progress(NamedTuple):
    """What an observer of a wait is shown beside its reason."""

    healthy_since: float | None = None  # when the unit became healthy, in seconds of the monotonic clock
    healthy_for: float = 0.0  # how long it must stay healthy, in seconds
    facts: tuple[str, ...] = ()  # one line each: who has the ports, and each probe with its last answer
    output: str = ""  # the path of the file that the command writes its output to
    fails_at: float | None = None  # when the wait ends if nothing changes, in seconds of the monotonic clock
    opens_at: float | None = None  # when the start limit of the unit allows a start, in seconds of the monotonic clock


NO_PROGRESS = Progress()


@frozen
class Finding:
    """What a step's `check` found."""

    state: FindingState
    verdict: Verdict
    reason: str  # a sentence; of a TO_DO the action in the infinitive: "restart gw.service"
    evidence: Mapping[str, Any] = field(default_factory=dict)  # the facts behind the verdict
    wake: Wake | None = None  # of a NOT_YET: what to wait for
    progress: Progress = NO_PROGRESS  # of a NOT_YET: how far the wait has come


def holds(verdict: Verdict, reason: str, **evidence: Any) -> Finding:
    """Return a finding that the goal is reached."""
    return Finding(FindingState.HOLDS, verdict, reason, evidence)


def to_do(verdict: Verdict, reason: str, **evidence: Any) -> Finding:
    """Return a finding that there is something to do: `reason`, in the infinitive."""
    return Finding(FindingState.TO_DO, verdict, reason, evidence)


def fails(verdict: Verdict, reason: str, **evidence: Any) -> Finding:
    """Return a finding that neither waiting nor acting can reach the goal."""
    return Finding(FindingState.FAILS, verdict, reason, evidence)


def not_yet(verdict: Verdict, reason: str, wake: Wake, **evidence: Any) -> Finding:
    """Return a finding that the step must wait for `wake`."""
    return Finding(FindingState.NOT_YET, verdict, reason, evidence, wake)


@frozen
class Port:
    """A port that a unit must own."""

    number: int
    protocol: str = "tcp"  # or "udp"
    address: str | None = None  # None means any address

    def __str__(self) -> str:
        prefix = "" if self.protocol == "tcp" else f"{self.protocol}:"
        if self.address is None:
            return f"{prefix}{self.number}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{prefix}{host}:{self.number}"


class Clock(Protocol):
    """The source of time, so that tests can control it."""

    def monotonic(self) -> float:
        """Return seconds that never decrease: CLOCK_MONOTONIC, the clock of systemd's `…TimestampMonotonic`."""

    def now(self) -> float:
        """Return seconds since the epoch."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        return time.time()


@frozen
class Deadline:
    """The time at which a wait ends. Every wait has one."""

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """Return the deadline that is `seconds` from now."""
        return cls(clock, clock.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """The seconds that are left, at least 0."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        """True if no time is left."""
        return self.clock.monotonic() >= self.at

    def no_later_than(self, other: Deadline | None) -> Deadline:
        """Return the earlier of the two deadlines."""
        return other if other is not None and other.at < self.at else self
