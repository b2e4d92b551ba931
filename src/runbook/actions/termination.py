"""Kill the processes that hold a port and belong to no live service: the state machine behind `kill-orphan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from functools import cached_property
from signal import Signals
from typing import Any

from runbook.actions import kill_advice, respawn
from runbook.actions.cgroup_kill import CgroupKill, PidChurn
from runbook.actions.kill_evidence import make_evidence
from runbook.actions.kill_state import KillOptions, KillOrphanState, KillTarget, Phase
from runbook.actions.respawn import Respawn
from runbook.checks.unread import REREAD_INTERVAL
from runbook.host.holders import Holder, PortOwnership, SignalResult
from runbook.host.interface import Host, HostView
from runbook.host.ownership.describe import describe_processes, describe_untracked
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.util.timespan import format_span
from runbook.util.wording import join_plain

MAX_WATCHED = 100  # processes whose exit is awaited at once: each takes a file descriptor, and the usual limit is 1024

SOCKET_CLOSE_WAIT = 2.0
"""Seconds for which a socket may stay open after its holder has exited.

A process that exits gives up its descriptors before the kernel closes the sockets, and another user may not read the
descriptors of an exiting process: for a moment the port is held, and no holder is visible. A process that runs may have
closed its socket too, while one of its threads is still in accept(2): then the kernel keeps the socket until it exits.
"""


#             ┌─ act ◄──┬─ RELOAD, KILL_CGROUP, SIGNAL, ESCALATE
#             ▼         │
#   start ─► check ─────┼─ REFUSED, STILL_HELD, DONE ─► end
#             ▲         │
#             └─ wait ◄─┴─ AWAIT_CGROUP_EXIT, AWAIT_CLOSE, READ_AGAIN, AWAIT_EXIT, AWAIT_RESPAWN
class Termination:
    """One reading of the unit, its ports and its cgroup, and the phase that follows from it.

    Each reading judges anew which processes may be killed, whatever the phase before it was: the owner of a port may
    change between two readings. If one holder must not be killed, or is unknown, no process is signalled.
    """

    def __init__(self, view: HostView, options: KillOptions, state: KillOrphanState) -> None:
        self.view, self.options, self.state = view, options, state
        self.unit = view.unit(options.unit)

    def check(self) -> Finding:
        """Enter the first phase whose condition holds."""
        if self._running:
            self.state.exited_at = None
        elif self.state.targets and self.state.exited_at is None:
            self.state.exited_at = self.view.clock.monotonic()
        self.state.phase, finding = self._find_phase()
        return finding

    def act(self, host: Host) -> None:
        """Make the move of the phase, unless this reading, which is later than that of `check`, forbids it."""
        match self.state.phase:
            case Phase.RELOAD if self.unit.is_untracked and not self._refusal:
                self.state.has_reloaded = True
                host.daemon_reload()
            case Phase.KILL_CGROUP if self._is_cgroup_kill_due:
                self._begin_round()
                self.state.rounds += 1
                self._cgroup.apply(host, is_last=self.state.unread.is_over(self.view.clock.monotonic()))
            # Of a unit that is untracked by now, the main process must not exit before a reload.
            case Phase.SIGNAL | Phase.ESCALATE if self._is_signal_due:
                self._begin_round()
                self._send_signals(host)

    def judge_timeout(self, last: Finding) -> Finding:
        """Return what did not happen in time. A port on which nothing listens is not called held."""
        why = kill_advice.describe_stuck(self.view, [one.holder.process for one in self._running]) or last.reason
        if self._running and not self.options.sends_kill:
            why += f"; it got {self.options.signal_name}, and `timeout` left no time for KILL"
        if any(ownership.listeners for ownership in self._ownerships):
            return fails(Verdict.PORT_STILL_HELD, f"the port is not free: {why}", **last.evidence)
        return fails(Verdict.TIMED_OUT, f"the port is free, but not all processes exited: {why}", **last.evidence)

    # Which phase follows

    def _find_phase(self) -> tuple[Phase, Finding]:
        return self._find_wait_before_judgement() or self._judge()

    def _find_wait_before_judgement(self) -> tuple[Phase, Finding] | None:
        if self.state.cgroup_kill.is_done and self._has_leftovers:
            reason = f"waiting for all processes of {self.unit.name} to exit"
            return Phase.AWAIT_CGROUP_EXIT, _wait(reason, Wake(within=0.05))
        if self._are_sockets_closing and not self._running:
            reason = f"waiting for the sockets of {_describe(self.state.targets.values())} to close"
            return Phase.AWAIT_CLOSE, _wait(reason, Wake(within=0.05))
        if unread := self._update_unread():
            return Phase.READ_AGAIN, _wait(f"reading again: {unread}", Wake(within=REREAD_INTERVAL), **self._facts)
        return None

    def _judge(self) -> tuple[Phase, Finding]:
        match self._update_churn():
            case PidChurn.SUSPECTED:
                reason = f"reading the processes of {self.unit.name} again"
                return Phase.READ_AGAIN, _wait(reason, Wake(within=0.02))
            case PidChurn.PROVEN if self._cgroup.is_permitted:
                plan = f"{self._cgroup.plan}: {self._cgroup.churn}"
                return Phase.KILL_CGROUP, to_do(Verdict.LEFTOVER_HOLDS_PORT, plan, **self._facts)
            case PidChurn.PROVEN:
                why = self._cgroup.churn + self._cgroup.hint
                return Phase.STILL_HELD, fails(Verdict.PORT_STILL_HELD, why, **self._facts)
        if why := self._refusal or self._explain_vain_reload():
            return Phase.REFUSED, fails(Verdict.REFUSED_TO_KILL, why, **self._facts)
        if self._needs_reload:
            return Phase.RELOAD, self._plan_reload()
        overdue = (target.holder for target in self._overdue)
        if why := kill_advice.find_changing((*self._next_targets, *overdue), self.state.changes):
            return Phase.STILL_HELD, fails(self._held_verdict, why, **self._facts)
        if self._next_targets:
            return self._judge_next_targets()
        if self._overdue:
            plan = f"kill {_describe(self._running)} with KILL: {format_span(self.options.grace)} have passed"
            return Phase.ESCALATE, to_do(Verdict.PORT_STILL_HELD, plan, **self._facts)
        if self._running:
            return Phase.AWAIT_EXIT, self._await_exit()
        if (seconds := self._update_respawn_wait()) > 0:
            wake = Wake(ports=frozenset(self.options.ports), within=max(seconds, 0.01))
            return Phase.AWAIT_RESPAWN, _wait("waiting in case another process takes the port", wake)
        return Phase.DONE, self._report_done()

    def _update_churn(self) -> PidChurn:
        if self._are_sockets_closing:
            return PidChurn.NONE  # Their holders are known.
        return self._cgroup.update_churn(is_idle=lambda: not (self._refusal or self._next_targets or self._running))

    def _update_respawn_wait(self) -> float:
        """Record since when the port is free; return for how many more seconds another process may take it."""
        state, now = self.state, self.view.clock.monotonic()
        if not state.targets and not state.cgroup_kill.is_done:
            return 0.0
        state.port_free_since = now if state.port_free_since is None else state.port_free_since
        seconds = respawn.find_wait(self.view, state.run, state.targets, thorough=self.options.supervisors)
        return state.port_free_since + seconds - now

    def _judge_next_targets(self) -> tuple[Phase, Finding]:
        """Return what follows from processes to kill: a signal, unless others would be started again in their place."""
        in_cgroup = self._cgroup.are_all_leftovers(self._next_targets)
        if self._respawn and not self._supervisors:
            mismatch, enabled = self.options.find_mismatch, self.options.supervisors
            why = self._respawn.explain(self.view, self.unit, mismatch, enabled=enabled)
        elif not self._is_respawned_too_often:
            return Phase.SIGNAL, self._plan_signal()
        elif in_cgroup and self._cgroup.is_permitted:
            plan = f"{self._cgroup.plan}: they start others faster than they exit"
            return Phase.KILL_CGROUP, self._plan_with_evidence(plan)
        else:
            why = respawn.explain_unknown_respawn(len(self.state.targets), self._next_targets[0].process)
            why += self._cgroup.hint if in_cgroup else ""
        return Phase.STILL_HELD, fails(self._held_verdict, why, **self._facts)

    def _explain_vain_reload(self) -> str:
        return describe_untracked(self.unit) if self._needs_reload and self.state.has_reloaded else ""

    def _plan_reload(self) -> Finding:
        plan = f"reload systemd's unit files, so that systemd forgets PID {self.unit.main_pid}; "
        targets = self._foreign_holders or self._next_targets or [target.holder for target in self._running]
        return to_do(self._holder_verdict, f"{plan}then kill {describe_processes(targets)}", **self._facts)

    def _plan_signal(self) -> Finding:
        first, kill = self.options.signal_name, f", KILL after {format_span(self.options.grace)}"
        then = "" if first == "KILL" else kill if self.options.sends_kill else ", and no KILL"
        targets = describe_processes(self._next_targets)
        if self._supervisors:
            targets += f", which would start it again, then {describe_processes(self._candidates)}"
        return self._plan_with_evidence(f"kill {targets}: {first}{then}")

    def _plan_with_evidence(self, plan: str) -> Finding:
        lookup, run, targets = self.state.evidence, self.state.run, self._next_targets
        lines = () if self.options.secret else lookup.poll(self.view, self.unit, run, targets)
        if lines is None:
            return not_yet(self._holder_verdict, "reading the journal", Wake(pending=True))
        evidence = [make_evidence(holder, lines) for holder in targets]
        return to_do(self._holder_verdict, plan, processes=evidence, **self._facts)

    def _await_exit(self) -> Finding:
        times = [target.signalled_at for target in self._running if target.signum is not Signals.SIGKILL]
        grace_rest = min(times) + self.options.grace - self.view.clock.monotonic() if times else 1.0
        processes = frozenset(target.holder.process.id for target in self._running[:MAX_WATCHED])
        wake = Wake(processes=processes, within=max(grace_rest, 0.01))
        return _wait(f"waiting for {_describe(self._running)} to exit", wake, **self._facts)

    def _report_done(self) -> Finding:
        targets, is_cgroup_killed = self.state.targets.values(), self.state.cgroup_kill.is_done
        if not targets and not is_cgroup_killed:
            reasons = (own.reason + self._describe_uses(own) for own in self._ownerships)
            return holds(Verdict.NOTHING_TO_KILL, "; ".join(reasons), **self._facts)
        last = "KILL" if any(target.signum is Signals.SIGKILL for target in targets) else self.options.signal_name
        parts = [f"{_describe(targets)} exited on {last}"] if targets else []
        parts += [f"all processes of {self.unit.name} got KILL at once"] if is_cgroup_killed else []
        free = f"{join_plain(self.options.ports)} {'is' if len(self.options.ports) == 1 else 'are'} free"
        reason = f"{', and '.join(parts)}; {free}"
        return holds(Verdict.KILLED, reason, killed=[target.holder.evidence() for target in targets], **self._facts)

    def _describe_uses(self, ownership: PortOwnership) -> str:
        is_free = ownership.verdict is Verdict.NOT_LISTENING
        return self.view.describe_port_uses(self.unit, ownership.port) if is_free else ""

    # What this reading found

    @cached_property
    def _ownerships(self) -> list[PortOwnership]:
        return [self.view.judge_port(self.unit, port) for port in self.options.ports]

    @cached_property
    def _cgroup(self) -> CgroupKill:
        enabled = self.options.leftovers and self.options.sends_kill
        return CgroupKill(self.view, self.unit, self._ownerships, self.state.cgroup_kill, enabled, self._is_expected)

    @cached_property
    def _facts(self) -> Mapping[str, Any]:
        return {"ports": [ownership.evidence() for ownership in self._ownerships]}

    @cached_property
    def _foreign_holders(self) -> list[Holder]:
        """The holders of the ports that do not belong to the unit's current invocation, each once."""
        holders = (holder for ownership in self._ownerships for holder in ownership.foreign_holders)
        return list({holder.process.id: holder for holder in holders}.values())

    def _update_unread(self) -> str:
        """Return what is to be read again, because it could not be read in time."""
        unread = [reason for ownership in self._ownerships for reason in ownership.unread]
        leftovers = self.view.find_leftovers(self.unit) if self.options.leftovers else ()
        unread += [f"{holder.process}: {holder.protection}" for holder in leftovers if holder.is_unread]
        return self.state.unread.update(unread, self.view.clock.monotonic())

    @cached_property
    def _closing_sockets(self) -> Set[int]:
        """The sockets whose holders are known although none is visible: signalled targets held them until just now."""
        state, exited_at = self.state, self.state.exited_at
        is_late = exited_at is not None and self.view.clock.monotonic() - exited_at >= SOCKET_CLOSE_WAIT
        others = [holder for holder in self._foreign_holders if holder.process.id not in state.targets]
        return frozenset() if is_late or others or not state.targets else state.sockets

    @cached_property
    def _are_sockets_closing(self) -> bool:
        """True if some sockets have no visible holder, and all of these are closing."""
        unseen = {socket.inode for ownership in self._ownerships for socket in ownership.unseen}
        return bool(unseen) and unseen <= self._closing_sockets and not self._refusal

    @property
    def _holder_verdict(self) -> Verdict:
        # If no port is held, the processes to kill are leftovers without one.
        return next((own.verdict for own in self._ownerships if own.foreign_holders), Verdict.LEFTOVER_HOLDS_PORT)

    @property
    def _held_verdict(self) -> Verdict:
        # Leftovers without a port may run on, too: then the port is free.
        is_held = any(ownership.listeners for ownership in self._ownerships)
        return Verdict.PORT_STILL_HELD if is_held else Verdict.REFUSED_TO_KILL

    @cached_property
    def _refusal(self) -> str:
        options, closing = self.options, self._closing_sockets
        return kill_advice.find_refusal(self.unit, self._ownerships, options.find_mismatch, closing)

    @cached_property
    def _candidates(self) -> list[Holder]:
        """The processes to kill that had no signal yet: foreign holders; with `leftovers` also those without a port."""
        if self._are_sockets_closing:
            return []  # Their holders are only inferred, so no further process is signalled.
        holders = {holder.process.id: holder for holder in self._foreign_holders}
        for holder in self.view.find_leftovers(self.unit) if self.options.leftovers else ():
            # A leftover that must not be killed holds no port, so it may stay.
            if holder.may_be_killed and self._is_expected(holder):
                holders.setdefault(holder.process.id, holder)
        return [holder for id_, holder in holders.items() if id_ not in self.state.targets]

    @cached_property
    def _next_targets(self) -> list[Holder]:
        """The processes to signal next: first supervisors, and once these have exited, what they would start again."""
        if self._supervisors:
            return self._supervisors
        waits = any(target.holder.process.id in self.state.supervisors for target in self._running)
        return [] if waits else self._candidates

    @cached_property
    def _supervisors(self) -> list[Holder]:
        """The processes that would start another in the place of a killed one, had no signal yet, and may be killed."""
        if not self.options.supervisors or self._refusal:
            return []
        mismatch = self.options.find_mismatch
        holders = respawn.find_supervisors(self.view, self.unit, self._candidates, self._respawn, mismatch)
        return [holder for holder in holders if holder.process.id not in self.state.targets]

    @cached_property
    def _respawn(self) -> Respawn | None:
        return respawn.find_respawn(self.view, self.state.run, self.state.targets, self._candidates)

    @property
    def _has_leftovers(self) -> bool:
        """True if processes are in the cgroup. The last ones may have been read before they exited, and it after."""
        return self._cgroup.is_left or self._cgroup.are_all_leftovers(self._next_targets)

    @property
    def _is_respawned_too_often(self) -> bool:
        """True if other processes have taken the place of killed ones more often than a killed supervisor explains."""
        return self.state.rounds > respawn.MAX_RESPAWNS + len(self.state.supervisors)

    @cached_property
    def _running(self) -> list[KillTarget]:
        return [one for one in self.state.targets.values() if self.view.is_alive(one.holder.process.id)]

    @property
    def _overdue(self) -> list[KillTarget]:
        """The targets that run on after their grace, and did not get KILL yet."""
        latest = self.view.clock.monotonic() - self.options.grace
        targets = [one for one in self._running if one.signalled_at <= latest and one.signum is not Signals.SIGKILL]
        return targets if self.options.sends_kill else []

    @property
    def _needs_reload(self) -> bool:
        """True if a signal would be next, and systemd would crash if the main process exited now."""
        return self.unit.is_untracked and bool(self._foreign_holders or self._next_targets or self._overdue)

    @property
    def _is_signal_due(self) -> bool:
        """True if this reading, too, permits a signal. While sockets are closing, only a target may get another one."""
        is_due = bool(self._overdue) or not self._are_sockets_closing
        return is_due and not self.unit.is_untracked and not self._refusal

    @property
    def _is_cgroup_kill_due(self) -> bool:
        """True if this reading, too, finds nothing but what is left over in the cgroup of a unit that is down."""
        if not self._cgroup.is_permitted or not self._cgroup.is_down:
            return False
        is_hidden = not self._foreign_holders and self._cgroup.has_own_sockets_only
        is_crowd = self._cgroup.are_all_leftovers(self._next_targets) and self._is_respawned_too_often
        return is_hidden or (is_crowd and not self._refusal)

    def _is_expected(self, holder: Holder) -> bool:
        return not self.options.find_mismatch(holder)

    # Signals

    def _begin_round(self) -> None:
        self.state.evidence.start_over(self.view.clock.monotonic())
        self.state.port_free_since = None
        # A holder of several ports is listed for each of them, with the sockets of that port.
        holders = (holder for ownership in self._ownerships for holder in ownership.foreign_holders)
        self.state.sockets.update(socket.inode for holder in holders for socket in holder.sockets)

    def _send_signals(self, host: Host) -> None:
        self.state.supervisors.update(holder.process.id for holder in self._supervisors)
        sent = [self._send_first_signal(host, holder) for holder in self._next_targets]
        sent += [self._send_kill(host, target.holder) for target in self._overdue]
        self.state.rounds += any(sent)

    def _send_first_signal(self, host: Host, holder: Holder) -> bool:
        respawn.record_ancestors(host, self.state.run, holder)
        return self._send_signal(host, holder, self.options.signum)

    def _send_kill(self, host: Host, holder: Holder) -> bool:
        same = (present for present in self._foreign_holders if present.process.is_same_program(holder.process))
        present = next(same, None)  # It may be in another cgroup by now.
        # It may have closed its sockets on TERM and run on: so its identity is checked again, its sockets are not.
        is_sent = self._send_signal(host, replace(present or holder, sockets=()), Signals.SIGKILL)
        if not is_sent and not present:
            # It became another program, as by execve(2): the next reading judges it anew.
            self.state.targets.pop(holder.process.id)
        return is_sent

    def _send_signal(self, host: Host, holder: Holder, signum: Signals) -> bool:
        """Signal a process, if it still is what was judged; return False if it is not."""
        result = host.signal_process(self.unit, holder, signum)
        self.state.changes[holder.process.id] += result is SignalResult.CHANGED
        if result in (SignalResult.CHANGED, SignalResult.UNREAD):
            return False
        self.state.exited_at = None
        self.state.targets[holder.process.id] = KillTarget(holder, signum, self.view.clock.monotonic())
        return True


def _wait(reason: str, wake: Wake, **evidence: Any) -> Finding:
    return not_yet(Verdict.PORT_STILL_HELD, reason, wake, **evidence)


def _describe(targets: Iterable[KillTarget]) -> str:
    return describe_processes([target.holder for target in targets])
