"""`kill-orphan`: ends what holds the port and belongs to no service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from signal import Signals
from typing import Any, ClassVar, Literal

from pydantic import Field

from runbook.actions import cgroup_kill, termination
from runbook.actions.termination import KillOrphanState, KillTarget, collect_foreign_holders
from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, SignalResult
from runbook.host.interface import Host, HostView
from runbook.host.ownership.describe import describe_processes, describe_untracked
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Boolean, Pattern, PortList, PositiveSpan, TextField, TimeSpan, UnitName
from runbook.spec.step import FileModel, Step
from runbook.util import regex
from runbook.util.timespan import format_span

MAX_RESPAWNS = 3
"""So many times a new process may take the place of one that was ended, before it counts as being started again."""

KILL_GRACE = 25.0
"""Seconds beyond `grace` in which what got KILL must be gone, and the port free."""

SOCKET_CLOSE_WAIT = 2.0
"""Seconds in which a socket may outlive the sight of its holder.

A process that ends gives its descriptors away before the kernel closes what they were, and a user may not look into
one that ends: for a moment the port is held, and by nobody.
"""

RESPAWN_WAIT = 0.5
"""Seconds in which a supervisor may start another in the place of one that ended, before the port counts as free."""

SUPERVISED_RESPAWN_WAIT = 2.0
"""The same where a process lives that may be one: an interpreter and its program take a while to listen."""

MAX_WATCHED = 100
"""So many processes are watched for their end at once; each takes a descriptor, of which there may be 1024."""


class Expect(FileModel):
    """What a process must be, to be ended. All that is given must match."""

    exe: TextField | None = Field(None, description="The path of its executable.")
    user: TextField | None = Field(None, description="The user it runs as.")
    command: Pattern | None = Field(None, description="A pattern to be found in its command line.")

    def find_mismatch(self, holder: Holder) -> str:
        """Say what does not match, or nothing."""
        process = holder.process
        line = " ".join(process.command)
        if self.exe is not None and process.exe.removesuffix(" (deleted)") != self.exe:
            return f"its executable is {process.exe or 'unknown'}, not {self.exe}"
        if self.user is not None and process.user != self.user:
            return f"it runs as {process.user}, not as {self.user}"
        if self.command is not None and not regex.search(self.command, line):
            return f"its command line does not match {self.command}"
        return ""


class KillOrphan(Step[KillOrphanState]):
    """End the processes that hold the port and belong to no service; then prove that they are gone.

    TERM, `grace`, KILL. It never signals a live service, a container, systemd, sshd, a terminal multiplexer,
    this program or what started it, nor a client of the port: if one of those holds the port, nothing at all is
    signalled, and the message says who it is.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.REFUSED_TO_KILL

    unit: UnitName = Field(description="The unit that is to own the port.")
    port: PortList = Field(description="The port, or a list of ports, to be freed.")
    signal: Literal["TERM", "INT", "QUIT", "HUP", "KILL"] = Field("TERM", description="The signal to begin with.")
    grace: TimeSpan = Field(5.0, description="How long a process has before it gets KILL.")
    expect: Expect | None = Field(None, description="What a process must be, to be ended: `exe`, `user`, `command`.")
    leftovers: Boolean = Field(False, description="End also the processes of earlier invocations that hold no port.")
    timeout: PositiveSpan | None = Field(
        None,
        description="How long one try may take; by default `grace` and 25s. Where it ends first, nothing gets KILL.",
    )

    def check(self, view: HostView, state: KillOrphanState) -> Finding:
        unit = view.unit(self.unit)
        if ending := state.cgroup_kill.await_exit(view, unit):
            return ending
        seen = [view.judge_port(unit, port) for port in self.port]
        facts = {"ports": [ownership.evidence() for ownership in seen]}
        if dying := self._await_socket_close(view, seen, state):
            return dying
        if cgroup_kill.has_pid_churn(view, unit, seen):
            return state.cgroup_kill.check_churn(view, unit, facts, wanted=self._may_kill_cgroup(state))
        if glimpsed := state.cgroup_kill.recheck_unseen(view, unit, seen):
            return glimpsed
        if refusal := self._find_refusal(view, unit, seen):
            return fails(Verdict.REFUSED_TO_KILL, refusal, **facts)
        if (next_move := self._find_next_move(view, unit, state, seen, facts)) is not None:
            return next_move
        living = [target for target in state.targets.values() if view.is_alive(target.holder.process.id)]
        if living:
            return self._await_exit(view, living, facts)
        if self._may_kill_cgroup(state) and cgroup_kill.may_kill_all(view, unit, self._is_expected):
            return state.cgroup_kill.check_churn(view, unit, facts, wanted=True)
        if not state.targets and not state.cgroup_kill.done:
            return holds(Verdict.NOTHING_TO_KILL, "; ".join(ownership.reason for ownership in seen), **facts)
        if (lingering := self._await_respawn(view, state)) is not None:
            return lingering
        return self._report_killed(unit, state, facts)

    def _find_next_move(
        self, view: HostView, unit: Unit, state: KillOrphanState, seen: list[PortOwnership], facts: Mapping[str, Any]
    ) -> Finding | None:
        """Say who is to be ended next, or why that would be in vain; None where all of them have their signal."""
        if unit.is_untracked and (mains := collect_foreign_holders(seen)):
            if state.reloaded:
                return fails(Verdict.REFUSED_TO_KILL, describe_untracked(unit), **facts)
            told = f"reload systemd's unit files, so that it lets go of PID {unit.main_pid};"
            told += f" then end {describe_processes(mains)}"
            return to_do(_find_holder_verdict(seen), told, **facts)
        fresh = [h for h in self._find_targets(view, unit, seen) if h.process.id not in state.targets]
        if again := termination.find_respawner(view, unit, state, fresh):
            return fails(Verdict.PORT_STILL_HELD, again, **facts)
        if (
            fresh
            and state.rounds > MAX_RESPAWNS
            and not (self._may_kill_cgroup(state) and cgroup_kill.are_all_leftovers(fresh, unit))
        ):
            how = cgroup_kill.kill_hint(unit) if cgroup_kill.are_all_leftovers(fresh, unit) else ""
            why = termination.describe_unknown_respawner(state, fresh) + how
            return fails(Verdict.PORT_STILL_HELD, why, **facts)
        if fresh:
            known = termination.gather_evidence(view, unit, state, fresh, secret=self.secret)
            if known is None:
                return not_yet(
                    _find_holder_verdict(seen),
                    "reading the journal",
                    Wake(pending=True, within=termination.EVIDENCE_TIMEOUT),
                )
            return to_do(_find_holder_verdict(seen), self._describe_plan(unit, state, fresh), processes=known, **facts)
        return None

    def apply(self, host: Host, state: KillOrphanState) -> None:
        unit = host.unit(self.unit)
        seen = [host.judge_port(unit, port) for port in self.port]
        blurred = cgroup_kill.has_pid_churn(host, unit, seen) or (
            state.cgroup_kill.is_churn_lasting(host, unit) and not collect_foreign_holders(seen)
        )
        if not blurred and self._find_refusal(host, unit, seen):
            return  # It changed since it was looked at; the next look says so.
        if unit.is_untracked:
            state.reloaded = True
            host.daemon_reload()
            return
        now = host.clock.monotonic()
        state.rounds += 1
        state.query = state.port_free_since = None
        state.sockets.update(s.inode for o in seen for holder in o.foreign_holders for s in holder.sockets)
        wanted = self._find_targets(host, unit, seen)
        fresh = [holder for holder in wanted if holder.process.id not in state.targets]
        if self._may_kill_cgroup(state) and (
            blurred or (state.rounds > MAX_RESPAWNS + 1 and cgroup_kill.are_all_leftovers(fresh, unit))
        ):
            state.cgroup_kill.kill(host, unit, self._is_expected)
            return
        for holder in fresh:
            termination.record_ancestors(host, state, holder)
            self._send_signal(host, unit, state, holder, self._first_signal, now)
        for target in list(state.targets.values()):
            overdue = now >= target.signalled_at + self.grace and target.signum is not Signals.SIGKILL
            if overdue and self._sends_kill and host.is_alive(target.holder.process.id):
                # It may have closed its sockets on TERM and hang on: who it is, is checked; what it holds, no more.
                self._send_signal(host, unit, state, replace(target.holder, sockets=()), Signals.SIGKILL, now)

    def predict(self, unit: Unit) -> Unit:
        return replace(unit, main_pid=0) if unit.is_untracked else unit

    def time_limit(self, view: HostView) -> float:
        return self._limit

    def judge_timeout(self, view: HostView, state: KillOrphanState, last: Finding) -> Finding:
        living = [target for target in state.targets.values() if view.is_alive(target.holder.process.id)]
        stuck = termination.describe_stuck(view, living)
        spared = "" if self._sends_kill or not stuck else f"; it had {self.signal}, and was to get no KILL"
        return fails(Verdict.PORT_STILL_HELD, f"the port is not free: {stuck or last.reason}{spared}", **last.evidence)

    @property
    def _limit(self) -> float:
        return self.grace + KILL_GRACE if self.timeout is None else self.timeout

    @property
    def _sends_kill(self) -> bool:
        """Whether KILL comes at all: who gives up before the grace is over would rather let the process live."""
        return self._limit > self.grace

    @property
    def _first_signal(self) -> Signals:
        return Signals[f"SIG{self.signal}"]

    def _may_kill_cgroup(self, state: KillOrphanState) -> bool:
        """Whether all that is left of the unit may get KILL at once: those that hold no port as well."""
        return self.leftovers and self._sends_kill and state.cgroup_kill.may_run

    def _is_expected(self, holder: Holder) -> bool:
        return self.expect is None or not self.expect.find_mismatch(holder)

    def _describe_plan(self, unit: Unit, state: KillOrphanState, fresh: list[Holder]) -> str:
        if state.rounds > MAX_RESPAWNS:
            return f"end all that is left of {unit.name} at once, with KILL: it starts others faster than they end"
        how = f", KILL after {format_span(self.grace)}" if self._sends_kill else ", and no KILL"
        return f"end {describe_processes(fresh)}: {self.signal}{'' if self.signal == 'KILL' else how}"

    def _await_respawn(self, view: HostView, state: KillOrphanState) -> Finding | None:
        now = view.clock.monotonic()
        state.port_free_since = now if state.port_free_since is None else state.port_free_since
        left = (
            state.port_free_since
            + (SUPERVISED_RESPAWN_WAIT if termination.has_supervisor(view, state) else RESPAWN_WAIT)
            - now
        )
        wake = Wake(ports=frozenset(self.port), within=max(left, 0.01))
        what = "looking whether something starts another one"
        return not_yet(Verdict.PORT_STILL_HELD, what, wake) if left > 0 else None

    def _report_killed(self, unit: Unit, state: KillOrphanState, facts: Mapping[str, Any]) -> Finding:
        ended = [target.holder for target in state.targets.values()]
        ports = ", ".join(str(port) for port in self.port)
        signal = "KILL" if any(t.signum is Signals.SIGKILL for t in state.targets.values()) else self.signal
        told = [f"{describe_processes(ended)} ended on {signal}"] if ended else []
        told += [f"all that was left of {unit.name} got KILL at once"] if state.cgroup_kill.done else []
        reason = f"{', and '.join(told)}; {ports} is free"
        return holds(Verdict.KILLED, reason, killed=[holder.evidence() for holder in ended], **facts)

    def _send_signal(
        self, host: Host, unit: Unit, state: KillOrphanState, holder: Holder, signum: Signals, now: float
    ) -> None:
        if host.signal_process(unit, holder, signum) is SignalResult.CHANGED:
            # It became something else, as by execve(2): it is judged afresh with the next look, or let be.
            state.targets.pop(holder.process.id, None)
        else:
            state.targets[holder.process.id] = KillTarget(holder, signum, now)

    def _await_socket_close(self, view: HostView, seen: list[PortOwnership], state: KillOrphanState) -> Finding | None:
        """Wait a moment where nobody is seen any more with the very sockets that were held by what was just ended."""
        unseen = {socket.inode for ownership in seen for socket in ownership.unseen}
        last = max((target.signalled_at for target in state.targets.values()), default=-SOCKET_CLOSE_WAIT)
        late = view.clock.monotonic() - last >= SOCKET_CLOSE_WAIT
        if late or not unseen or not unseen <= state.sockets or any(o.foreign_holders for o in seen):
            return None
        names = describe_processes([target.holder for target in state.targets.values()])
        return not_yet(Verdict.PORT_STILL_HELD, f"waiting for the sockets of {names} to close", Wake(within=0.05))

    def _find_refusal(self, view: HostView, unit: Unit, seen: list[PortOwnership]) -> str:
        """Say why nothing at all may be signalled, or nothing."""
        for ownership in seen:
            for holder in ownership.foreign_holders:
                if not holder.may_be_killed and holder.protection != describe_untracked(unit):
                    return termination.explain_refusal(unit, ownership, holder)
                if self.expect is not None and (mismatch := self.expect.find_mismatch(holder)):
                    return (
                        f"port {ownership.port} is held by {holder.process}, which is not what was expected: {mismatch}"
                    )
            if ownership.verdict is Verdict.OWNER_UNKNOWN:
                return ownership.reason
        return ""

    def _find_targets(self, view: HostView, unit: Unit, seen: list[PortOwnership]) -> list[Holder]:
        """Give the processes that are to end: the strangers on the ports, and with `leftovers` those as well."""
        found = {holder.process.id: holder for holder in collect_foreign_holders(seen)}
        if self.leftovers:
            for holder in view.find_leftovers(unit):
                # One that must live holds no port here, so it is in nobody's way.
                if holder.may_be_killed and self._is_expected(holder):
                    found.setdefault(holder.process.id, holder)
        return list(found.values())

    def _await_exit(self, view: HostView, living: list[KillTarget], facts: Mapping[str, Any]) -> Finding:
        now = view.clock.monotonic()
        mild = [target for target in living if target.signum is not Signals.SIGKILL]
        left = min((target.signalled_at + self.grace - now for target in mild), default=1.0)
        names = describe_processes([target.holder for target in living])
        if mild and left <= 0 and self._sends_kill:
            return to_do(Verdict.PORT_STILL_HELD, f"end {names} with KILL: {format_span(self.grace)} are over", **facts)
        some = frozenset(target.holder.process.id for target in living[:MAX_WATCHED])
        wake = Wake(processes=some, within=max(left, 0.01))
        return not_yet(Verdict.PORT_STILL_HELD, f"waiting for {names} to end", wake, **facts)


def _find_holder_verdict(seen: list[PortOwnership]) -> Verdict:
    # Where no port is held it is leftovers without one that are to end.
    return next((o.verdict for o in seen if o.foreign_holders), Verdict.LEFTOVER_HOLDS_PORT)
