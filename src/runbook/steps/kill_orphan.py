"""`kill-orphan`: ends what holds the port and belongs to no service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from signal import Signals
from typing import Any, ClassVar, Literal

from pydantic import Field

from runbook.actions import cgroup_kill, termination
from runbook.actions.termination import KillMemory, Target, strangers
from runbook.host.facts import Unit
from runbook.host.holders import Holder, PortOwnership, Sent
from runbook.host.interface import Host, HostView
from runbook.host.ownership.describe import lost, named
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.spec.fields import Flag, Limit, Pattern, PortList, Span, Text, UnitName
from runbook.spec.state import Memory
from runbook.spec.step import Document, Step
from runbook.util import regex
from runbook.util.timespan import format_span

RESPAWNS = 3
"""So many times a new process may take the place of one that was ended, before it counts as being started again."""

AFTER_GRACE = 25.0
"""Seconds beyond `grace` in which what got KILL must be gone, and the port free."""

DYING = 2.0
"""Seconds in which a socket may outlive the sight of its holder.

A process that ends gives its descriptors away before the kernel closes what they were, and a user may not look into
one that ends: for a moment the port is held, and by nobody.
"""

LINGER = 0.5
"""Seconds in which a supervisor may start another in the place of one that ended, before the port counts as free."""

SUPERVISED = 2.0
"""The same where a process lives that may be one: an interpreter and its program take a while to listen."""

WATCHED = 100
"""So many processes are watched for their end at once; each takes a descriptor, of which there may be 1024."""


class Expect(Document):
    """What a process must be, to be ended. All that is given must match."""

    exe: Text | None = Field(None, description="The path of its executable.")
    user: Text | None = Field(None, description="The user it runs as.")
    command: Pattern | None = Field(None, description="A pattern to be found in its command line.")

    def mismatch(self, holder: Holder) -> str:
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


class KillOrphan(Step[KillMemory]):
    """End the processes that hold the port and belong to no service; then prove that they are gone.

    TERM, `grace`, KILL. It never signals a live service, a container, systemd, sshd, a terminal multiplexer,
    this program or what started it, nor a client of the port: if one of those holds the port, nothing at all is
    signalled, and the message says who it is.
    """

    kind: ClassVar[str] = "kill-orphan"
    takes: ClassVar[tuple[str, ...]] = ("unit", "port")
    needs: ClassVar[tuple[str, ...]] = ("unit", "port")
    remembers: ClassVar[type[Memory]] = KillMemory
    fails_as: ClassVar[Verdict] = Verdict.REFUSED_TO_KILL

    unit: UnitName | None = Field(None, description="The unit that is to own the port.")
    port: PortList = Field((), description="The port, or a list of ports, to be freed.")
    signal: Literal["TERM", "INT", "QUIT", "HUP", "KILL"] = Field("TERM", description="The signal to begin with.")
    grace: Span = Field(5.0, description="How long a process has before it gets KILL.")
    expect: Expect | None = Field(None, description="What a process must be, to be ended: `exe`, `user`, `command`.")
    leftovers: Flag = Field(False, description="End also the processes of earlier invocations that hold no port.")
    timeout: Limit | None = Field(
        None,
        description="How long one try may take; by default `grace` and 25s. Where it ends first, nothing gets KILL.",
    )

    def check(self, view: HostView, memory: KillMemory) -> Finding:
        assert self.unit is not None
        unit = view.unit(self.unit)
        if ending := memory.sweep.goes_on(view, unit):
            return ending
        seen = [view.ownership(unit, port) for port in self.port]
        facts = {"ports": [ownership.evidence() for ownership in seen]}
        if dying := self._dying(view, seen, memory):
            return dying
        if cgroup_kill.blurred(view, unit, seen):
            return memory.sweep.of_blur(view, unit, facts, wanted=self._sweeps(memory))
        if glimpsed := memory.sweep.glimpsed(view, unit, seen):
            return glimpsed
        if refusal := self._refusal(view, unit, seen):
            return fails(Verdict.REFUSED_TO_KILL, refusal, **facts)
        if (next_move := self._next(view, unit, memory, seen, facts)) is not None:
            return next_move
        living = [target for target in memory.targets.values() if view.lives(target.holder.process.id)]
        if living:
            return self._await(view, living, facts)
        if self._sweeps(memory) and cgroup_kill.none_stays(view, unit, self._expected):
            return memory.sweep.of_blur(view, unit, facts, wanted=True)
        if not memory.targets and not memory.sweep.done:
            return holds(Verdict.NOTHING_TO_KILL, "; ".join(ownership.reason for ownership in seen), **facts)
        if (lingering := self._linger(view, memory)) is not None:
            return lingering
        return self._killed(unit, memory, facts)

    def _next(
        self, view: HostView, unit: Unit, memory: KillMemory, seen: list[PortOwnership], facts: Mapping[str, Any]
    ) -> Finding | None:
        """Say who is to be ended next, or why that would be in vain; None where all of them have their signal."""
        if unit.lost and (mains := strangers(seen)):
            if memory.reloaded:
                return fails(Verdict.REFUSED_TO_KILL, lost(unit), **facts)
            told = f"reload systemd's unit files, so that it lets go of PID {unit.main_pid}; then end {named(mains)}"
            return to_do(_held_by(seen), told, **facts)
        fresh = [h for h in self._wanted(view, unit, seen) if h.process.id not in memory.targets]
        if again := termination.started_again(view, unit, memory, fresh):
            return fails(Verdict.PORT_STILL_HELD, again, **facts)
        if fresh and memory.rounds > RESPAWNS and not (self._sweeps(memory) and cgroup_kill.outran(fresh, unit)):
            how = cgroup_kill.advice(unit) if cgroup_kill.outran(fresh, unit) else ""
            why = termination.unknown_starter(memory, fresh) + how
            return fails(Verdict.PORT_STILL_HELD, why, **facts)
        if fresh:
            known = termination.evidence(view, unit, memory, fresh, secret=self.secret)
            if known is None:
                return not_yet(_held_by(seen), "reading the journal", Wake(pending=True, within=termination.HEARING))
            return to_do(_held_by(seen), self._plan(unit, memory, fresh), processes=known, **facts)
        return None

    def apply(self, host: Host, memory: KillMemory) -> None:
        assert self.unit is not None
        unit = host.unit(self.unit)
        seen = [host.ownership(unit, port) for port in self.port]
        blurred = cgroup_kill.blurred(host, unit, seen) or (memory.sweep.outrun(host, unit) and not strangers(seen))
        if not blurred and self._refusal(host, unit, seen):
            return  # It changed since it was looked at; the next look says so.
        if unit.lost:
            memory.reloaded = True
            host.daemon_reload()
            return
        now = host.clock.monotonic()
        memory.rounds += 1
        memory.question = memory.quiet = None
        memory.sockets.update(s.inode for o in seen for holder in o.strangers for s in holder.sockets)
        wanted = self._wanted(host, unit, seen)
        fresh = [holder for holder in wanted if holder.process.id not in memory.targets]
        if self._sweeps(memory) and (blurred or (memory.rounds > RESPAWNS + 1 and cgroup_kill.outran(fresh, unit))):
            memory.sweep.carry_out(host, unit, self._expected)
            return
        for holder in fresh:
            termination.remember(host, memory, holder)
            self._signal(host, unit, memory, holder, self._first_signal, now)
        for target in list(memory.targets.values()):
            overdue = now >= target.at + self.grace and target.signum is not Signals.SIGKILL
            if overdue and self._kills and host.lives(target.holder.process.id):
                # It may have closed its sockets on TERM and hang on: who it is, is checked; what it holds, no more.
                self._signal(host, unit, memory, replace(target.holder, sockets=()), Signals.SIGKILL, now)

    def leaves(self, unit: Unit) -> Unit:
        return replace(unit, main_pid=0) if unit.lost else unit

    def time_limit(self, view: HostView) -> float:
        return self._limit

    def timed_out(self, view: HostView, memory: KillMemory, last: Finding) -> Finding:
        living = [target for target in memory.targets.values() if view.lives(target.holder.process.id)]
        stuck = termination.stuck(view, living)
        spared = "" if self._kills or not stuck else f"; it had {self.signal}, and was to get no KILL"
        return fails(Verdict.PORT_STILL_HELD, f"the port is not free: {stuck or last.reason}{spared}", **last.evidence)

    @property
    def _limit(self) -> float:
        return self.grace + AFTER_GRACE if self.timeout is None else self.timeout

    @property
    def _kills(self) -> bool:
        """Whether KILL comes at all: who gives up before the grace is over would rather let the process live."""
        return self._limit > self.grace

    @property
    def _first_signal(self) -> Signals:
        return Signals[f"SIG{self.signal}"]

    def _sweeps(self, memory: KillMemory) -> bool:
        """Whether all that is left of the unit may get KILL at once: those that hold no port as well."""
        return self.leftovers and self._kills and memory.sweep.untried

    def _expected(self, holder: Holder) -> bool:
        return self.expect is None or not self.expect.mismatch(holder)

    def _plan(self, unit: Unit, memory: KillMemory, fresh: list[Holder]) -> str:
        if memory.rounds > RESPAWNS:
            return f"end all that is left of {unit.name} at once, with KILL: it starts others faster than they end"
        how = f", KILL after {format_span(self.grace)}" if self._kills else ", and no KILL"
        return f"end {named(fresh)}: {self.signal}{'' if self.signal == 'KILL' else how}"

    def _linger(self, view: HostView, memory: KillMemory) -> Finding | None:
        now = view.clock.monotonic()
        memory.quiet = now if memory.quiet is None else memory.quiet
        left = memory.quiet + (SUPERVISED if termination.supervised(view, memory) else LINGER) - now
        wake = Wake(ports=frozenset(self.port), within=max(left, 0.01))
        what = "looking whether something starts another one"
        return not_yet(Verdict.PORT_STILL_HELD, what, wake) if left > 0 else None

    def _killed(self, unit: Unit, memory: KillMemory, facts: Mapping[str, Any]) -> Finding:
        ended = [target.holder for target in memory.targets.values()]
        ports = ", ".join(str(port) for port in self.port)
        signal = "KILL" if any(t.signum is Signals.SIGKILL for t in memory.targets.values()) else self.signal
        told = [f"{named(ended)} ended on {signal}"] if ended else []
        told += [f"all that was left of {unit.name} got KILL at once"] if memory.sweep.done else []
        reason = f"{', and '.join(told)}; {ports} is free"
        return holds(Verdict.KILLED, reason, killed=[holder.evidence() for holder in ended], **facts)

    def _signal(self, host: Host, unit: Unit, memory: KillMemory, holder: Holder, signum: Signals, now: float) -> None:
        if host.end(unit, holder, signum) is Sent.NOT_THE_SAME:
            # It became something else, as by execve(2): it is judged afresh with the next look, or let be.
            memory.targets.pop(holder.process.id, None)
        else:
            memory.targets[holder.process.id] = Target(holder, signum, now)

    def _dying(self, view: HostView, seen: list[PortOwnership], memory: KillMemory) -> Finding | None:
        """Wait a moment where nobody is seen any more with the very sockets that were held by what was just ended."""
        unseen = {socket.inode for ownership in seen for socket in ownership.unseen}
        last = max((target.at for target in memory.targets.values()), default=-DYING)
        late = view.clock.monotonic() - last >= DYING
        if late or not unseen or not unseen <= memory.sockets or any(o.strangers for o in seen):
            return None
        names = named([target.holder for target in memory.targets.values()])
        return not_yet(Verdict.PORT_STILL_HELD, f"waiting for the sockets of {names} to close", Wake(within=0.05))

    def _refusal(self, view: HostView, unit: Unit, seen: list[PortOwnership]) -> str:
        """Say why nothing at all may be signalled, or nothing."""
        for ownership in seen:
            for holder in ownership.strangers:
                if not holder.may_be_ended and holder.spared != lost(unit):
                    return termination.why_it_lives(unit, ownership, holder)
                if self.expect is not None and (mismatch := self.expect.mismatch(holder)):
                    return (
                        f"port {ownership.port} is held by {holder.process}, which is not what was expected: {mismatch}"
                    )
            if ownership.verdict is Verdict.OWNER_UNKNOWN:
                return ownership.reason
        return ""

    def _wanted(self, view: HostView, unit: Unit, seen: list[PortOwnership]) -> list[Holder]:
        """Give the processes that are to end: the strangers on the ports, and with `leftovers` those as well."""
        found = {holder.process.id: holder for holder in strangers(seen)}
        if self.leftovers:
            for holder in view.leftovers(unit):
                # One that must live holds no port here, so it is in nobody's way.
                if holder.may_be_ended and self._expected(holder):
                    found.setdefault(holder.process.id, holder)
        return list(found.values())

    def _await(self, view: HostView, living: list[Target], facts: Mapping[str, Any]) -> Finding:
        now = view.clock.monotonic()
        mild = [target for target in living if target.signum is not Signals.SIGKILL]
        left = min((target.at + self.grace - now for target in mild), default=1.0)
        names = named([target.holder for target in living])
        if mild and left <= 0 and self._kills:
            return to_do(Verdict.PORT_STILL_HELD, f"end {names} with KILL: {format_span(self.grace)} are over", **facts)
        some = frozenset(target.holder.process.id for target in living[:WATCHED])
        wake = Wake(processes=some, within=max(left, 0.01))
        return not_yet(Verdict.PORT_STILL_HELD, f"waiting for {names} to end", wake, **facts)


def _held_by(seen: list[PortOwnership]) -> Verdict:
    # Where no port is held it is leftovers without one that are to end.
    return next((o.verdict for o in seen if o.strangers), Verdict.LEFTOVER_HOLDS_PORT)
