"""The values that travel through the program: verdicts, statuses, findings, deadlines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Verdict(StrEnum):
    """One word for what was found, the same in text, JSON, JUnit and the record."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Verdict:
        """Keep the sentence of the reference beside the word, so that neither goes without the other."""
        verdict = str.__new__(cls, word)
        verdict._value_ = word
        verdict.meaning = meaning
        return verdict

    @classmethod
    def from_word(cls, word: str) -> Verdict:
        """Give the verdict of a word, as a record has it. Raises KeyError for none of these."""
        found: Verdict = cls._value2member_map_[word]  # type: ignore[assignment]
        return found

    # Ports
    OWNED = "owned", "every socket that listens on the port belongs to the unit's current invocation"
    NOT_LISTENING = "not-listening", "nobody listens on the port"
    ORPHAN_HOLDS_PORT = "orphan-holds-port", "a process that belongs to no service holds the port"
    LEFTOVER_HOLDS_PORT = (
        "leftover-holds-port",
        "a process of an earlier invocation of the unit holds the port",
    )
    OTHER_UNIT_HOLDS_PORT = "other-unit-holds-port", "another live service, or a container, holds the port"
    PORT_SHARED = "port-shared", "the unit listens on the port, and so does somebody else"
    OWNER_UNKNOWN = "owner-unknown", "who holds the port cannot be seen, or whose that is cannot be told"
    OWNER_MISMATCH = "owner-mismatch", "the unit holds the port, but not by its main process as was asked"
    # Units
    READY = "ready", "the unit has been healthy without a break for as long as was asked"
    STILL_STARTING = "still-starting", "the unit lives, but was not ready in time; it was left alone"
    CRASH_LOOP = "crash-loop", "the unit was restarted by systemd more often than allowed"
    START_LIMIT_HIT = (
        "start-limit-hit",
        "systemd gave up starting the unit: too many starts in too short a time",
    )
    UNIT_FAILED = "unit-failed", "the unit failed, and no restart is coming"
    UNIT_EXITED = "unit-exited", "the unit ended without an error, but it was to stay up"
    CONDITION_NOT_MET = (
        "condition-not-met",
        "a Condition or Assert of the unit did not hold, so it did not start",
    )
    NOT_NOTIFYING = "not-notifying", "the unit runs, but never reports that it is ready as its Type= promises"
    UNIT_MASKED = "unit-masked", "the unit is masked, which is an operator's decision"
    UNIT_NOT_FOUND = "unit-not-found", "systemd knows no unit of this name"
    UNIT_CHANGED = "unit-changed", "somebody else started, restarted or stopped the unit while it was watched"
    PROBE_FAILED = "probe-failed", "a probe does not answer as it should"
    # Jobs
    JOB_DONE = "job-done", "systemd did the job, and the unit is what the job promises"
    ALREADY_SO = "already-so", "the unit was so already; nothing was done"
    JOB_FAILED = "job-failed", "systemd tried the job and it failed"
    JOB_TIMEOUT = "job-timeout", "the job was not finished in time"
    JOB_CANCELED = "job-canceled", "somebody else's job took the place of this one"
    JOB_DEPENDENCY = "job-dependency", "a unit which this one needs did not start"
    NOT_RESTARTED = "not-restarted", "the job ended, but the unit still runs the invocation from before"
    RESET = "reset", "the failed state and the start-limit counter are clear"
    RELOADED = "reloaded", "the unit took its configuration in again"
    # Versions
    UPDATED = "updated", "the version is now the one that was asked for"
    UP_TO_DATE = "up-to-date", "the version was the one that was asked for already"
    UPDATE_FAILED = "update-failed", "the update's command failed"
    VERSION_MISMATCH = "version-mismatch", "the version is not the one that was asked for"
    VERSION_OK = "version-ok", "what serves is the version that was asked for"
    OLD_CODE_SERVING = (
        "old-code-serving",
        "the process that serves is older than the files it was started from",
    )
    # Killing
    KILLED = "killed", "the processes that held the port ended, and nothing of theirs listens any more"
    NOTHING_TO_KILL = "nothing-to-kill", "no process that may be ended holds the port"
    REFUSED_TO_KILL = "refused-to-kill", "the port is held by a process that must live"
    PORT_STILL_HELD = "port-still-held", "the port is still held after all that may be done"
    # Commands
    COMMAND_DONE = "command-done", "the command exited with status 0"
    COMMAND_FAILED = "command-failed", "the command ended with another status than 0, or not as expected"
    TIMED_OUT = "timed-out", "the step was not finished in time, and what it had started was stopped"
    # Remediation
    HOLDS = "holds", "every check held the first time; nothing was touched"
    FIXED = "fixed", "the checks hold after the fix"
    NOT_FIXED = "not-fixed", "a check still fails, or the fix was refused or failed"


class Impact(StrEnum):
    """What carrying out a step would do to the machine."""

    NONE = "none"
    READ_ONLY = "read-only"
    MUTATING = "mutating"
    UNDETERMINED = "undetermined"


class StepStatus(StrEnum):
    """How a step ended."""

    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    REMEDIATED = "remediated"


class RunStatus(StrEnum):
    """How a run ended; `run-finished` carries it."""

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
    """How a run stands that has not ended, or not for good: what only its record shows."""

    UNDER_WAY = "under-way"  # its program is running
    CUT_SHORT = "cut-short"  # its program was killed, or the machine went down
    SUPERSEDED = "superseded"  # a later run has acted on one of its units
    ABANDONED = "abandoned"  # the operator has given it up
    RECORD_LOST = "record-lost"  # the record could not grow, so the end is unknown


class FindingState(StrEnum):
    """Where a step stands, as its `check` sees it."""

    HOLDS = "holds"  # what the step is for is so
    TO_DO = "to-do"  # it is not so, and `apply` can go a move further
    NOT_YET = "not-yet"  # nothing to do but wait
    FAILS = "fails"  # it is not so, and this try cannot make it so
    STILL_STARTING = "left-alone"  # not so in time, but on its way: nothing to mend, nothing to undo


@dataclass(frozen=True)
class ProcessId:
    """A process for good: a PID may be used again, a PID and its start may not.

    `start` is field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)).
    """

    pid: int
    start: int


@dataclass(frozen=True)
class Wake:
    """What could change a NOT_YET, so that the engine knows what to wait for.

    `within` is in seconds: look again then, even if nothing was heard. `ports` are looked at cheaply all the
    while (there is no event for listen(2)); a change of their sockets wakes. `pending` says that the answer
    to a question of this very check is still on its way: a dry run waits for it too.
    """

    units: frozenset[str] = frozenset()
    processes: frozenset[ProcessId] = frozenset()
    ports: frozenset[Port] = frozenset()
    within: float = 1.0
    pending: bool = False


@dataclass(frozen=True)
class Finding:
    """What a step's `check` found: a verdict, a sentence for people, the facts behind it.

    `reason` of a TO_DO is what would be done, in the infinitive: "restart gw.service".
    """

    state: FindingState
    verdict: Verdict
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    wake: Wake | None = None


def holds(verdict: Verdict, reason: str, **evidence: Any) -> Finding:
    """What the step is for is so."""
    return Finding(FindingState.HOLDS, verdict, reason, evidence)


def to_do(verdict: Verdict, reason: str, **evidence: Any) -> Finding:
    """There is something to do; `reason` says what, in the infinitive."""
    return Finding(FindingState.TO_DO, verdict, reason, evidence)


def fails(verdict: Verdict, reason: str, **evidence: Any) -> Finding:
    """It is not so, and neither waiting nor acting will make it so."""
    return Finding(FindingState.FAILS, verdict, reason, evidence)


def not_yet(verdict: Verdict, reason: str, wake: Wake, **evidence: Any) -> Finding:
    """It is not so yet; `wake` says what could change that."""
    return Finding(FindingState.NOT_YET, verdict, reason, evidence, wake)


@dataclass(frozen=True)
class Port:
    """A port that a unit must own. `address` None means any; `protocol` is `tcp` or `udp`."""

    number: int
    protocol: str = "tcp"
    address: str | None = None

    def __str__(self) -> str:
        if self.address is not None:
            host = f"[{self.address}]" if ":" in self.address else self.address
            return f"{host}:{self.number}"
        return str(self.number) if self.protocol == "tcp" else f"{self.protocol}:{self.number}"


class Clock(Protocol):
    """Where time comes from, so that a test can hold it in its hand."""

    def monotonic(self) -> float:
        """Seconds that never go back, from a point of no meaning."""

    def now(self) -> float:
        """Seconds since the epoch."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC, the clock of systemd's `…TimestampMonotonic`."""
        return time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()


@dataclass(frozen=True)
class Deadline:
    """A moment on a clock by which something must be over. Every wait has one."""

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """Start counting now."""
        return cls(clock, clock.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds that are left, never less than 0."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it is over."""
        return self.clock.monotonic() >= self.at

    def at_most(self, seconds: float) -> Deadline:
        """Give this deadline, or one `seconds` from now if that comes first."""
        return Deadline(self.clock, min(self.at, self.clock.monotonic() + seconds))
