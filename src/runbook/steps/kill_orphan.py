"""`kill-orphan`: ends what holds the port and belongs to no service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from signal import Signals
from typing import Any, ClassVar, Literal

from pydantic import Field

from runbook import patterns
from runbook.fields import Flag, Limit, Pattern, PortList, Span, Text, UnitName
from runbook.host.facts import Holder, PortOwnership, Role, Sent, Unit
from runbook.host.ports import Host, HostView
from runbook.model import Finding, ProcessId, Verdict, Wake, fails, holds, not_yet, to_do
from runbook.step import Document, Memory, Step

RESPAWNS = 3
"""So many times a new process may take the place of one that was ended, before it counts as being started again."""


@dataclass
class Target:
    """A process that was signalled: who it is, with what, and when (seconds of the monotonic clock)."""

    holder: Holder
    signum: Signals
    at: float


@dataclass
class KillMemory(Memory):
    """The processes that were signalled, by PID and start."""

    targets: dict[ProcessId, Target] = field(default_factory=dict)
    rounds: int = 0


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
        if self.command is not None and not patterns.search(self.command, line):
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
    timeout: Limit | None = Field(30.0, description="How long one try may take.")

    def check(self, view: HostView, memory: KillMemory) -> Finding:
        assert self.unit is not None
        unit = view.unit(self.unit)
        seen = [view.ownership(unit, port) for port in self.port]
        facts = {"ports": [ownership.evidence() for ownership in seen]}
        if refusal := self._refusal(seen):
            return fails(Verdict.REFUSED_TO_KILL, refusal, **facts)
        fresh = [h for h in self._wanted(view, unit, seen) if h.process.id not in memory.targets]
        if fresh and memory.rounds > RESPAWNS:
            return fails(
                Verdict.PORT_STILL_HELD,
                f"something starts it again: {fresh[0].process} took the port after {len(memory.targets)} were ended",
                **facts,
            )
        if fresh:
            how = "" if self.signal == "KILL" else f", KILL after {self.grace:g}s"
            return to_do(
                _held_by(seen) or Verdict.LEFTOVER_HOLDS_PORT, f"end {_named(fresh)}: {self.signal}{how}", **facts
            )
        living = [target for target in memory.targets.values() if view.lives(target.holder.process.id)]
        if living:
            return self._await(view, living, facts)
        if not memory.targets:
            return holds(Verdict.NOTHING_TO_KILL, self._nothing(seen), **facts)
        ended = [target.holder for target in memory.targets.values()]
        ports = ", ".join(str(port) for port in self.port)
        return holds(
            Verdict.KILLED,
            f"{_named(ended)} ended on {self._last_signal(memory)}; {ports} is free",
            killed=[holder.evidence() for holder in ended],
            **facts,
        )

    def apply(self, host: Host, memory: KillMemory) -> None:
        assert self.unit is not None
        unit = host.unit(self.unit)
        seen = [host.ownership(unit, port) for port in self.port]
        if self._refusal(seen):
            return  # It changed since it was looked at; the next look says so.
        now = host.clock.monotonic()
        memory.rounds += 1
        for holder in self._wanted(host, unit, seen):
            if holder.process.id not in memory.targets:
                self._signal(host, unit, memory, holder, self._first_signal, now)
        for target in list(memory.targets.values()):
            overdue = now >= target.at + self.grace and target.signum is not Signals.SIGKILL
            if overdue and host.lives(target.holder.process.id):
                # It may have closed its sockets on TERM and hang on: who it is, is checked; what it holds, no more.
                self._signal(host, unit, memory, replace(target.holder, sockets=()), Signals.SIGKILL, now)

    def timed_out(self, view: HostView, memory: KillMemory, last: Finding) -> Finding:
        states = {
            str(target.holder.process): view.process_state(target.holder.process.id)
            for target in memory.targets.values()
            if view.lives(target.holder.process.id)
        }
        stuck = "; ".join(f"{who} is in state {state}" for who, state in states.items())
        return fails(Verdict.PORT_STILL_HELD, f"the port is not free: {stuck or last.reason}", **last.evidence)

    @property
    def _first_signal(self) -> Signals:
        return Signals[f"SIG{self.signal}"]

    def _signal(self, host: Host, unit: Unit, memory: KillMemory, holder: Holder, signum: Signals, now: float) -> None:
        if host.end(unit, holder, signum) is Sent.NOT_THE_SAME:
            # It became something else, as by execve(2): it is judged afresh with the next look, or let be.
            memory.targets.pop(holder.process.id, None)
        else:
            memory.targets[holder.process.id] = Target(holder, signum, now)

    def _refusal(self, seen: list[PortOwnership]) -> str:
        """Say why nothing at all may be signalled, or nothing."""
        for ownership in seen:
            for holder in ownership.strangers:
                if not holder.may_be_ended:
                    return _why_it_lives(ownership, holder)
                if self.expect is not None and (mismatch := self.expect.mismatch(holder)):
                    return (
                        f"port {ownership.port} is held by {holder.process}, which is not what was expected: {mismatch}"
                    )
            if ownership.verdict is Verdict.OWNER_UNKNOWN:
                return ownership.reason
        return ""

    def _wanted(self, view: HostView, unit: Unit, seen: list[PortOwnership]) -> list[Holder]:
        """Give the processes that are to end: the strangers on the ports, and with `leftovers` those as well."""
        found = {holder.process.id: holder for holder in _strangers(seen)}
        if self.leftovers:
            for holder in view.leftovers(unit):
                # One that must live holds no port here, so it is in nobody's way.
                if holder.may_be_ended and not (self.expect and self.expect.mismatch(holder)):
                    found.setdefault(holder.process.id, holder)
        return list(found.values())

    def _await(self, view: HostView, living: list[Target], facts: Mapping[str, Any]) -> Finding:
        now = view.clock.monotonic()
        mild = [target for target in living if target.signum is not Signals.SIGKILL]
        left = min((target.at + self.grace - now for target in mild), default=1.0)
        names = _named([target.holder for target in living])
        if mild and left <= 0:
            return to_do(Verdict.PORT_STILL_HELD, f"end {names} with KILL: {self.grace:g}s are over", **facts)
        wake = Wake(processes=frozenset(t.holder.process.id for t in living), within=max(left, 0.01))
        return not_yet(Verdict.PORT_STILL_HELD, f"waiting for {names} to end", wake, **facts)

    def _nothing(self, seen: list[PortOwnership]) -> str:
        return "; ".join(ownership.reason for ownership in seen)

    def _last_signal(self, memory: KillMemory) -> str:
        return "KILL" if any(t.signum is Signals.SIGKILL for t in memory.targets.values()) else self.signal


def _strangers(seen: list[PortOwnership]) -> list[Holder]:
    """Give the processes that are not the unit's, each once, with the sockets it holds on all of the ports."""
    found: dict[ProcessId, Holder] = {}
    for ownership in seen:
        for holder in ownership.strangers:
            found.setdefault(holder.process.id, holder)
    return list(found.values())


def _held_by(seen: list[PortOwnership]) -> Verdict:
    # Where no port is held it is leftovers without one that are to end.
    return next((o.verdict for o in seen if o.strangers), Verdict.LEFTOVER_HOLDS_PORT)


def _named(holders: list[Holder]) -> str:
    return ", ".join(str(holder.process) for holder in holders)


def _why_it_lives(ownership: PortOwnership, holder: Holder) -> str:
    why = f"port {ownership.port} is held by {holder.process}: {holder.spared}"
    if holder.role is Role.OTHER_UNIT and holder.unit.endswith((".service", ".socket")):
        why += f"; stop it (systemctl stop {holder.unit}) or give one of them another port"
    return why
