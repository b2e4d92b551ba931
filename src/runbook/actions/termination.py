"""Kill the processes that hold a port and belong to no service: the state machine behind `kill-orphan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from signal import Signals
from typing import Any

from runbook.actions import cgroup_kill, kill_advice, respawn
from runbook.actions.cgroup_kill import CgroupKill, PidChurn
from runbook.actions.kill_evidence import EvidenceLookup, make_evidence
from runbook.actions.respawn import FindMismatch, Respawn
from runbook.host.holders import Holder, PortOwnership, SignalResult
from runbook.host.interface import Host, HostView
from runbook.host.ownership.describe import describe_processes, describe_untracked
from runbook.model import Finding, Port, ProcessId, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.state import StepState
from runbook.util.timespan import format_span

MAX_RESPAWNS = 3  # how often another process may take the place of a killed one before the step gives up
RESPAWN_WAIT = 0.5  # seconds in which another process may take the place of a killed one; then the port counts as free
SUPERVISED_RESPAWN_WAIT = 2.0  # the same if an ancestor of it runs on: an interpreter needs time to start a program
SLOW_RESPAWN_WAIT = 10.0
"""The same with `supervisors`: the loop of a script may sleep before it starts another process."""

MAX_WATCHED = 100  # processes whose exit is awaited at once: each takes a file descriptor, and the usual limit is 1024

SOCKET_CLOSE_WAIT = 2.0
"""Seconds for which a socket may stay open after its holder was killed.

A process that exits gives up its descriptors before the kernel closes the sockets, and another user may not read the
descriptors of an exiting process: for a moment the port is held, and no holder is visible.
"""


# The phases of the state machine, which is drawn above `Termination`.
Phase = Enum(
    "Phase",
    "JUDGE RELOAD SIGNAL AWAIT_EXIT ESCALATE AWAIT_CLOSE AWAIT_RESPAWN READ_AGAIN KILL_CGROUP AWAIT_CGROUP_EXIT "
    "DONE REFUSED STILL_HELD",
)


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
    rounds: int = 0  # how often signals were sent
    evidence: EvidenceLookup = field(default_factory=EvidenceLookup)  # the last journal lines of the next targets
    port_free_since: float | None = None  # since when all targets have exited and no process took their place
    cgroup_kill: CgroupKill = field(default_factory=CgroupKill)  # the kill of the whole cgroup
    supervisors: set[ProcessId] = field(default_factory=set)  # the targets that would start another process
    reloaded: bool = False  # True once systemd was reloaded, to forget a main process that it no longer tracks


@dataclass(frozen=True)
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


#              ┌─ apply ◄─┬─ RELOAD             systemd no longer tracks the main process: a daemon-reload forgets it
#              │          ├─ KILL_CGROUP        with `leftovers`: PIDs change faster than they can be read
#              │          ├─ SIGNAL             a process may be killed, and had no signal yet
#              ▼          └─ ESCALATE           a target runs after its grace: it gets KILL
#   start ─► JUDGE ─►
#              ▲          ┌─ AWAIT_CGROUP_EXIT  the whole cgroup got KILL, and is not empty yet
#              │          ├─ AWAIT_CLOSE        the sockets of exited targets are not closed yet
#              │          ├─ READ_AGAIN         the cgroup holds processes that could not be read
#              │          ├─ AWAIT_EXIT         a target runs, within its grace
#              └── wait ◄─┴─ AWAIT_RESPAWN      all targets have exited: another process may take their place
#
#                         ┌─ REFUSED            a holder must not be killed, or is unknown
#                  end ◄──┼─ STILL_HELD         killed processes are started again, or PIDs change too fast
#                         └─ DONE               no process to kill is left
class Termination:
    """One reading of the unit, its ports and its cgroup, and the phase that follows from it.

    Each reading judges anew which processes may be killed, whatever the phase before it was: the owner of a port may
    change between two readings. If one holder must not be killed, or is unknown, no process is signalled.
    """

    def __init__(self, view: HostView, options: KillOptions, state: KillOrphanState) -> None:
        self.view, self.options, self.state = view, options, state
        self.unit = view.unit(options.unit)

    def check(self) -> Finding:
        """Enter the first phase whose condition holds. Doubt comes before any signal."""
        self.state.phase, finding = self._find_phase()
        return finding

    def _find_phase(self) -> tuple[Phase, Finding]:
        if self.state.cgroup_kill.done and cgroup_kill.is_left(self.view, self.unit):
            waited_for = f"all processes of {self.unit.name}"
            return Phase.AWAIT_CGROUP_EXIT, _wait(f"waiting for {waited_for} to exit", Wake(within=0.05))
        if self._are_sockets_closing:
            killed = _names(self.state.targets.values())
            return Phase.AWAIT_CLOSE, _wait(f"waiting for the sockets of {killed} to close", Wake(within=0.05))
        if self._churn is PidChurn.SUSPECTED:
            return Phase.READ_AGAIN, _wait(f"reading the processes of {self.unit.name} again", Wake(within=0.02))
        if why := self._explain_refusal():
            return Phase.REFUSED, fails(Verdict.REFUSED_TO_KILL, why, **self._facts)
        if self._needs_reload:
            return Phase.RELOAD, self._plan_reload()
        if why := self._explain_futility():
            # Leftovers without a port may be started again, too: then the port is free.
            held = self._is_churning or any(ownership.listeners for ownership in self._seen)
            verdict = Verdict.PORT_STILL_HELD if held else Verdict.REFUSED_TO_KILL
            return Phase.STILL_HELD, fails(verdict, why, **self._facts)
        if self._is_churning or (self._fresh and self._is_respawned_too_often):
            return Phase.KILL_CGROUP, self._plan_cgroup_kill()
        if self._fresh:
            return Phase.SIGNAL, self._plan_signal()
        if self._overdue:
            plan = f"kill {_names(self._living)} with KILL: {format_span(self.options.grace)} have passed"
            return Phase.ESCALATE, to_do(Verdict.PORT_STILL_HELD, plan, **self._facts)
        if self._living:
            return Phase.AWAIT_EXIT, self._await_exit()
        if (left := self._find_respawn_wait()) > 0:
            wake = Wake(ports=frozenset(self.options.ports), within=max(left, 0.01))
            return Phase.AWAIT_RESPAWN, _wait("waiting in case another process takes the port", wake)
        return Phase.DONE, self._report_done()

    def act(self, host: Host) -> None:
        """Make the move of the phase, unless this reading, which is later than that of `check`, forbids it."""
        phase, state = self.state.phase, self.state
        if (self._refusal and phase is not Phase.KILL_CGROUP) or self.unit.is_untracked != (phase is Phase.RELOAD):
            return
        if phase is Phase.RELOAD:
            state.reloaded = True
            host.daemon_reload()
            return
        now = self.view.clock.monotonic()
        state.rounds += 1
        state.evidence.start_over(now)
        state.port_free_since = None
        state.sockets.update(socket.inode for holder in self._foreign_holders for socket in holder.sockets)
        if phase is Phase.KILL_CGROUP:
            self._kill_cgroup(host)
            return
        state.supervisors.update(holder.process.id for holder in self._supervisors)
        for holder in self._fresh:
            respawn.record_ancestors(host, state.run, holder)
            self._send_signal(host, holder, self.options.signum, now)
        for target in self._overdue:
            # It may have closed its sockets on TERM and run on: so its identity is checked again, its sockets are not.
            self._send_signal(host, replace(target.holder, sockets=()), Signals.SIGKILL, now)

    def judge_timeout(self, last: Finding) -> Finding:
        """Return what did not happen in time. A port on which nothing listens is not called held."""
        why = kill_advice.describe_stuck(self.view, [one.holder.process for one in self._living]) or last.reason
        if self._living and not self.options.sends_kill:
            why += f"; it got {self.options.signal_name}, and `timeout` left no time for KILL"
        if any(ownership.listeners for ownership in self._seen):
            return fails(Verdict.PORT_STILL_HELD, f"the port is not free: {why}", **last.evidence)
        return fails(Verdict.TIMED_OUT, f"the port is free, but not all processes exited: {why}", **last.evidence)

    # The phases

    def _explain_refusal(self) -> str:
        """Return why no process may be signalled; empty if there is no such reason."""
        if self._is_churning:
            return ""  # The holder is unknown, but certainly in the cgroup of a unit that is down.
        reloaded_in_vain = self._needs_reload and self.state.reloaded
        return self._refusal or (describe_untracked(self.unit) if reloaded_in_vain else "")

    def _plan_reload(self) -> Finding:
        plan = f"reload systemd's unit files, so that systemd forgets PID {self.unit.main_pid}; "
        next_ones = self._foreign_holders or self._fresh or [target.holder for target in self._living]
        return to_do(self._holder_verdict, f"{plan}then kill {describe_processes(next_ones)}", **self._facts)

    def _explain_futility(self) -> str:
        """Return why signals cannot free the port: processes are started again, or PIDs change too fast; else empty."""
        state, hint = self.state, cgroup_kill.kill_hint(self.unit)
        if self._is_churning and not self._may_kill_cgroup:
            return cgroup_kill.describe_churn(self.unit) + hint
        if not self._fresh:
            return ""
        if self._respawn and not self._supervisors:
            mismatch, enabled = self.options.find_mismatch, self.options.supervisors
            remedy = respawn.describe_remedy(self.view, self.unit, self._respawn, mismatch, enabled=enabled)
            return self._respawn.explain(self.unit, remedy)
        in_cgroup = cgroup_kill.are_all_leftovers(self._fresh, self.unit)
        if not self._is_respawned_too_often or (in_cgroup and self._may_kill_cgroup):
            return ""
        return respawn.explain_unknown_respawn(len(state.targets), self._fresh) + (hint if in_cgroup else "")

    def _plan_cgroup_kill(self) -> Finding:
        plan = f"kill all processes of {self.unit.name} at once, with KILL"
        if self._is_churning:
            return to_do(Verdict.LEFTOVER_HOLDS_PORT, f"{plan}: {cgroup_kill.describe_churn(self.unit)}", **self._facts)
        return self._plan_with_evidence(f"{plan}: they start others faster than they exit")

    def _plan_signal(self) -> Finding:
        first, kill = self.options.signal_name, f", KILL after {format_span(self.options.grace)}"
        then = "" if first == "KILL" else kill if self.options.sends_kill else ", and no KILL"
        targets = describe_processes(self._fresh)
        if self._supervisors:
            targets += f", which would start it again, then {describe_processes(self._found)}"
        return self._plan_with_evidence(f"kill {targets}: {first}{then}")

    def _plan_with_evidence(self, plan: str) -> Finding:
        lookup, run, secret = self.state.evidence, self.state.run, self.options.secret
        lines = () if secret else lookup.poll(self.view, self.unit, run, self._fresh)
        if lines is None:
            return not_yet(self._holder_verdict, "reading the journal", Wake(pending=True))
        evidence = [make_evidence(holder, lines) for holder in self._fresh]
        return to_do(self._holder_verdict, plan, processes=evidence, **self._facts)

    def _await_exit(self) -> Finding:
        mild = [target.signalled_at for target in self._living if target.signum is not Signals.SIGKILL]
        left = min(mild) + self.options.grace - self.view.clock.monotonic() if mild else 1.0
        some = frozenset(target.holder.process.id for target in self._living[:MAX_WATCHED])
        wake = Wake(processes=some, within=max(left, 0.01))
        return _wait(f"waiting for {_names(self._living)} to exit", wake, **self._facts)

    def _find_respawn_wait(self) -> float:
        """Return for how many more seconds another process may take the place of a killed one."""
        state, now = self.state, self.view.clock.monotonic()
        if not state.targets and not state.cgroup_kill.done:
            return 0.0
        state.port_free_since = now if state.port_free_since is None else state.port_free_since
        supervised = respawn.has_supervisor(self.view, state.run, state.targets, thorough=self.options.supervisors)
        long = SLOW_RESPAWN_WAIT if self.options.supervisors else SUPERVISED_RESPAWN_WAIT
        return state.port_free_since + (long if supervised else RESPAWN_WAIT) - now

    def _report_done(self) -> Finding:
        targets, whole = self.state.targets.values(), self.state.cgroup_kill.done
        if not targets and not whole:
            reasons = (own.reason + self._describe_uses(own) for own in self._seen)
            return holds(Verdict.NOTHING_TO_KILL, "; ".join(reasons), **self._facts)
        last = "KILL" if any(target.signum is Signals.SIGKILL for target in targets) else self.options.signal_name
        parts = [f"{_names(targets)} exited on {last}"] if targets else []
        parts += [f"all processes of {self.unit.name} got KILL at once"] if whole else []
        reason = f"{', and '.join(parts)}; {', '.join(map(str, self.options.ports))} is free"
        return holds(Verdict.KILLED, reason, killed=[target.holder.evidence() for target in targets], **self._facts)

    def _describe_uses(self, ownership: PortOwnership) -> str:
        is_free = ownership.verdict is Verdict.NOT_LISTENING
        return self.view.describe_port_uses(self.unit, ownership.port) if is_free else ""

    # What this reading found

    @cached_property
    def _seen(self) -> list[PortOwnership]:
        return [self.view.judge_port(self.unit, port) for port in self.options.ports]

    @cached_property
    def _facts(self) -> Mapping[str, Any]:
        return {"ports": [ownership.evidence() for ownership in self._seen]}

    @cached_property
    def _foreign_holders(self) -> list[Holder]:
        """The holders of the ports that do not belong to the unit's current invocation, each once."""
        return list({holder.process.id: holder for own in self._seen for holder in own.foreign_holders}.values())

    @property
    def _are_sockets_closing(self) -> bool:
        """True if nothing but sockets of processes that were just killed is open."""
        unseen = {socket.inode for ownership in self._seen for socket in ownership.unseen}
        last = max((target.signalled_at for target in self.state.targets.values()), default=-SOCKET_CLOSE_WAIT)
        is_recent = self.view.clock.monotonic() - last < SOCKET_CLOSE_WAIT
        return is_recent and bool(unseen) and unseen <= self.state.sockets and not self._foreign_holders

    @property
    def _holder_verdict(self) -> Verdict:
        # If no port is held, the processes to kill are leftovers without one.
        return next((own.verdict for own in self._seen if own.foreign_holders), Verdict.LEFTOVER_HOLDS_PORT)

    @cached_property
    def _refusal(self) -> str:
        return kill_advice.find_refusal(self.unit, self._seen, self.options.find_mismatch)

    @cached_property
    def _fresh(self) -> list[Holder]:
        """The processes to kill next that had no signal yet: first supervisors, then those that they would start."""
        if self._supervisors:
            return self._supervisors
        waits = any(target.holder.process.id in self.state.supervisors for target in self._living)
        return [] if waits else self._found

    @cached_property
    def _supervisors(self) -> list[Holder]:
        """The processes that would start another in the place of a killed one, had no signal yet, and may be killed."""
        if not self.options.supervisors or self._refusal:
            return []
        mismatch = self.options.find_mismatch
        found = respawn.find_supervisors(self.view, self.unit, self._found, self._respawn, mismatch)
        return [holder for holder in found if holder.process.id not in self.state.targets]

    @cached_property
    def _respawn(self) -> Respawn | None:
        return respawn.find_respawn(self.view, self.state.run, self.state.targets, self._found)

    @property
    def _is_respawned_too_often(self) -> bool:
        """True if other processes have taken the place of killed ones more often than a killed supervisor explains."""
        return self.state.rounds > MAX_RESPAWNS + len(self.state.supervisors)

    @cached_property
    def _found(self) -> list[Holder]:
        """The targets that had no signal yet: foreign holders, and with `leftovers` leftovers without a port."""
        found = {holder.process.id: holder for holder in self._foreign_holders}
        for holder in self.view.find_leftovers(self.unit) if self.options.leftovers else ():
            # A leftover that must not be killed holds no port, so it may stay.
            if holder.may_be_killed and self._is_expected(holder):
                found.setdefault(holder.process.id, holder)
        return [holder for id_, holder in found.items() if id_ not in self.state.targets]

    @cached_property
    def _living(self) -> list[KillTarget]:
        return [one for one in self.state.targets.values() if self.view.is_alive(one.holder.process.id)]

    @property
    def _overdue(self) -> list[KillTarget]:
        """The targets that run on after their grace, and did not get KILL yet."""
        latest = self.view.clock.monotonic() - self.options.grace
        late = [one for one in self._living if one.signalled_at <= latest and one.signum is not Signals.SIGKILL]
        return late if self.options.sends_kill else []

    @property
    def _needs_reload(self) -> bool:
        """True if a signal would be next, and systemd would crash if the main process exited now."""
        return self.unit.is_untracked and bool(self._foreign_holders or self._fresh or self._overdue)

    @cached_property
    def _churn(self) -> PidChurn:
        suspected = cgroup_kill.misses_processes(self.view, self.unit, self._seen)
        if not suspected and self._may_kill_cgroup and not (self._refusal or self._fresh or self._living):
            suspected = cgroup_kill.may_kill_all(self.view, self.unit, self._is_expected)
        return self.state.cgroup_kill.judge_churn(self.view, self.unit, self._seen, suspected=suspected)

    @property
    def _is_churning(self) -> bool:
        """True if PID churn is proven, and matters: it held the port, or all leftovers are to be killed."""
        matters = self._may_kill_cgroup or self.state.cgroup_kill.port_held
        return self._churn is PidChurn.PROVEN and matters

    @property
    def _may_kill_cgroup(self) -> bool:
        """True if all processes left in the cgroup may get KILL at once, those without a port too; once is enough."""
        kill = self.state.cgroup_kill
        return self.options.leftovers and self.options.sends_kill and not kill.done and not kill.refused

    def _is_expected(self, holder: Holder) -> bool:
        return not self.options.find_mismatch(holder)

    # Signals

    def _kill_cgroup(self, host: Host) -> None:
        """Kill the whole cgroup, if this reading finds nothing but what is left over in it."""
        unseen = not self._foreign_holders and cgroup_kill.is_created_in_cgroup(self.unit, self._seen)
        again = self.state.rounds > MAX_RESPAWNS + 1 and not self._refusal
        leftovers = again and cgroup_kill.are_all_leftovers(self._fresh, self.unit)
        if self._may_kill_cgroup and cgroup_kill.may_kill_cgroup(self.unit) and (unseen or leftovers):
            self.state.cgroup_kill.kill(host, self.unit, self._is_expected)

    def _send_signal(self, host: Host, holder: Holder, signum: Signals, now: float) -> None:
        if host.signal_process(self.unit, holder, signum) is SignalResult.CHANGED:
            # It became another program, as by execve(2): the next reading judges it anew.
            self.state.targets.pop(holder.process.id, None)
        else:
            self.state.targets[holder.process.id] = KillTarget(holder, signum, now)


def _wait(reason: str, wake: Wake, **evidence: Any) -> Finding:
    return not_yet(Verdict.PORT_STILL_HELD, reason, wake, **evidence)


def _names(targets: Iterable[KillTarget]) -> str:
    return describe_processes([target.holder for target in targets])
