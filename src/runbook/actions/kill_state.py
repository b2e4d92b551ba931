"""What a `kill-orphan` is to do, where it stands, and what it has done so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from signal import Signals

from runbook.actions.cgroup_kill import CgroupKillState
from runbook.actions.kill_evidence import EvidenceLookup
from runbook.actions.respawn import FindMismatch
from runbook.checks.unread import UnreadSeries
from runbook.host.holders import Holder
from runbook.model import Port, ProcessId, frozen
from runbook.spec.state import StepState


class Phase(Enum):
    """What a reading of the machine leads to."""

    JUDGE = auto()  # nothing was read yet

    # The step acts
    RELOAD = auto()  # systemd no longer tracks the main process: a daemon-reload makes it forget that process
    KILL_CGROUP = auto()  # with `leftovers`: processes start others faster than they can be read, or than they exit
    SIGNAL = auto()  # a process may be killed, and had no signal yet
    ESCALATE = auto()  # a target runs after its grace: it gets KILL

    # The step waits
    AWAIT_CGROUP_EXIT = auto()  # the whole cgroup got KILL, and is not empty yet
    AWAIT_CLOSE = auto()  # the sockets of exited targets are not closed yet
    READ_AGAIN = auto()  # a process could not be read in time, or the cgroup holds processes that could not be read
    AWAIT_EXIT = auto()  # a target runs, within its grace
    AWAIT_RESPAWN = auto()  # all targets have exited: another process may take their place

    # The step ends
    REFUSED = auto()  # a holder must not be killed, or is unknown
    STILL_HELD = auto()  # killed processes are started again, or processes change too fast
    DONE = auto()  # no process to kill is left


@dataclass
class KillTarget:
    """A process that was signalled."""

    holder: Holder  # the process, as it was judged
    signum: Signals  # the last signal that it got
    signalled_at: float  # when it got that, in seconds of the monotonic clock


@dataclass
class KillOrphanState(StepState):
    """The phase of a `kill-orphan`, and what it has done so far. Times are seconds of the monotonic clock."""

    phase: Phase = Phase.JUDGE  # the phase that the last reading led to
    targets: dict[ProcessId, KillTarget] = field(default_factory=dict)  # the processes that were signalled
    sockets: set[int] = field(default_factory=set)  # the inodes of the sockets that they held
    exited_at: float | None = None  # when a reading first found that all targets had exited
    rounds: int = 0  # how often signals were sent
    changes: Counter[ProcessId] = field(default_factory=Counter)
    """How often a process was no longer what had been judged when it was to be signalled."""
    unread: UnreadSeries = field(default_factory=UnreadSeries)  # the readings that missed something
    evidence: EvidenceLookup = field(default_factory=EvidenceLookup)  # the last journal lines of the next targets
    port_free_since: float | None = None  # since when all targets have exited and no process took their place
    cgroup_kill: CgroupKillState = field(default_factory=CgroupKillState)  # the kill of the whole cgroup
    supervisors: set[ProcessId] = field(default_factory=set)  # the targets that would start another process
    has_reloaded: bool = False  # True once systemd was reloaded, to forget a main process that it no longer tracks


@frozen
class KillOptions:
    """The fields of the step, resolved."""

    unit: str
    ports: tuple[Port, ...]
    signum: Signals
    grace: float
    sends_kill: bool  # True if KILL follows the grace: a shorter `timeout` means that the process is to be spared
    leftovers: bool
    supervisors: bool
    secret: bool
    find_mismatch: FindMismatch

    @property
    def signal_name(self) -> str:
        """The name of the first signal, as in the runbook: `TERM`."""
        return self.signum.name.removeprefix("SIG")
