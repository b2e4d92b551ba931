"""Asks the probes, one round after the other, and judges whether an answer counts.

An answer counts only while the listener that gave it is the unit's own: an orphan of the old version answers as well.
So it counts only if the invocation, and all sockets on the ports that were asked, are still those that were there when
it was asked; and which port of this machine it was, the connection itself tells, whatever name or address led there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from runbook.checks.health import Look
from runbook.checks.probes import JournalFields, Probe, Round
from runbook.errors import HostError
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.host.queries import Answer, Question
from runbook.model import Finding, Port, ProcessId, Verdict, holds, not_yet
from runbook.spec.state import RunState
from runbook.util.wording import last_words

PROBE_EVERY = 0.5
"""Seconds between two rounds of probes."""

SOON = 0.01
"""Seconds until the answers of a new round are looked for."""


@dataclass
class Asking:
    """The round of probes that is under way: its `number`, and when it was asked, `at` a moment of the monotonic clock.

    It was asked of what `of` says; `wrong` is what the round before it said. `reached` are the ports of this machine
    that answered a probe, by its place in the list, where the probe itself does not tell them.
    """

    number: int = 0
    at: float = 0.0
    of: Round = field(default_factory=Round)
    wrong: str = ""
    reached: dict[int, frozenset[Port]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prober:
    """Asks the probes of a unit that is healthy in all else, as one look shows it."""

    view: HostView
    look: Look
    probes: Sequence[Probe]
    run: RunState
    asking: Asking
    secret: bool = False

    def finding(self, now: float) -> Finding:
        """Say what has been answered; an answer counts only if the unit is still what it was when it was asked."""
        look, asking, facts = self.look, self.asking, self.look.evidence()
        if not self.probes:
            return holds(Verdict.READY, look.reason, **facts)
        try:
            owners = [self._owners(at, probe) for at, probe in enumerate(self.probes)]
            seen = self._round(owners)
        except HostError as error:
            return not_yet(Verdict.PROBE_FAILED, error.message, look.wake(PROBE_EVERY), **facts)
        if not asking.number or seen != asking.of:
            self._ask_anew(seen, now)
        answers = self._answers(owners)
        told = [said for said, answer in answers if answer]
        wrong = [said for said, answer in answers if answer and not answer.good]
        wrong += _of_strangers(owners)
        over = len(told) == len(answers)
        if over and not wrong and (self._led_elsewhere(answers, owners) or self._moved()):
            asking.number = 0
            wake = replace(look.wake(SOON), pending=True)
            return not_yet(Verdict.STILL_STARTING, f"probing {look.unit.name}", wake, **facts)
        # What was answered counts before anything is asked again: a slow no is a no.
        left = max(asking.at + PROBE_EVERY - now, SOON)
        if over:
            asking.wrong = wrong[0] if wrong else ""
            if now - asking.at >= PROBE_EVERY:
                self._ask_anew(seen, now)
        if wrong:
            return not_yet(Verdict.PROBE_FAILED, wrong[0], look.wake(left), **facts, probes=wrong)
        if not over:
            wake = replace(look.wake(1.0), pending=True)
            verdict = Verdict.PROBE_FAILED if asking.wrong else Verdict.STILL_STARTING
            return not_yet(verdict, asking.wrong or f"probing {look.unit.name}", wake, **facts)
        return holds(Verdict.READY, look.reason, **facts, probes=told)

    def _ask_anew(self, seen: Round, now: float) -> None:
        self.asking.number, self.asking.at, self.asking.of = self.run.new_question(), now, seen

    def _owners(self, at: int, probe: Probe) -> list[PortOwnership]:
        """Judge the ports of this machine that a probe asks, besides those that the unit must own anyway."""
        ports = {*([probe.asks.local_port] if probe.asks.local_port else []), *self.asking.reached.get(at, ())}
        found = (asked_besides(self.view, self.look, port) for port in sorted(ports, key=str))
        return [owner for owner in found if owner is not None]

    def _round(self, owners: Sequence[Sequence[PortOwnership]]) -> Round:
        """See of what the probes are to be asked. Raises HostError where the unit's network cannot be entered."""
        unit = self.look.unit
        leftovers: tuple[int, ...] = ()
        if any(isinstance(probe.asks, JournalFields) for probe in self.probes):
            leftovers = tuple(holder.process.pid for holder in self.view.leftovers(unit))
        sockets = self.look.sockets.union(*(owner.sockets for some in owners for owner in some))
        return Round(unit.invocation_id, sockets, self._networks(), leftovers)

    def _networks(self) -> tuple[ProcessId | None, ...]:
        kinds = [probe.asks for probe in self.probes]
        unit = self.look.unit
        return tuple(self.view.network_of(unit, kind.local_port) if kind.networked else None for kind in kinds)

    def _moved(self) -> bool:
        """Whether the unit went into a network of its own while it was judged who answered."""
        try:
            return self._networks() != self.asking.of.networks
        except HostError:
            return True

    def _led_elsewhere(
        self, answers: Sequence[tuple[str, Answer | None]], owners: Sequence[Sequence[PortOwnership]]
    ) -> bool:
        """Notice which ports of this machine answered that nobody was asked about: they are judged from now on."""
        led = False
        for at, ((_, answer), judged) in enumerate(zip(answers, owners, strict=True)):
            port = answer.reached if answer else None
            known = [*(own.port for own in self.look.ports), *(owner.port for owner in judged)]
            if port is not None and not any(covers(one, port) for one in known):
                self.asking.reached[at] = self.asking.reached.get(at, frozenset()) | {port}
                led = True
        return led

    def _answers(self, owners: Sequence[Sequence[PortOwnership]]) -> list[tuple[str, Answer | None]]:
        """Give the answers, as far as they are there, each with what it says in a sentence."""
        answers: list[tuple[str, Answer | None]] = []
        for probe, network, judged in zip(self.probes, self.asking.of.networks, owners, strict=True):
            kind = probe.asks
            question = kind.question(self.run, self.asking.of)
            answer = self.view.ask(Question(question, self.asking.number, kind.timeout, network))
            asked = f"{kind.asked} in the unit's network" if network else kind.asked
            answers.append((self._said(asked, probe, answer, judged) if answer else "", answer))
        return answers

    def _said(self, asked: str, probe: Probe, answer: Answer, owners: Sequence[PortOwnership]) -> str:
        """Say what came of a probe; of a command that failed also the last it printed, which mostly says why."""
        if probe.run is not None:
            return f"{asked} {answer.detail}{'' if answer.good or self.secret else last_words(answer.output)}"
        return f"{asked}: {answer.detail}{_from(probe, answer, owners) if answer.good else ''}"


def _from(probe: Probe, answer: Answer, owners: Sequence[PortOwnership]) -> str:
    """Say that it is not the unit itself that answered, where that is so."""
    if probe.asks.networked and answer.reached is None:
        return ", from another machine"
    between = [holder for owner in owners for holder in owner.strangers]
    return f", through {between[0].process} of {between[0].unit}" if between else ""


def _of_strangers(owners: Sequence[Sequence[PortOwnership]]) -> Iterator[str]:
    """Say that a port which a probe asks is not the unit's to answer on."""
    for owner in (owner for some in owners for owner in some):
        if not may_answer(owner):
            yield not_counted(owner)


def not_counted(owner: PortOwnership) -> str:
    """Say that an answer from a port does not count, and whose it is."""
    return f"an answer from port {owner.port} does not count: {owner.reason}"


def asked_besides(view: HostView, look: Look, port: Port | None) -> PortOwnership | None:
    """Judge a port of this machine that is asked, where it is none of those that the unit must own anyway."""
    if port is None or any(covers(own.port, port) for own in look.ports):
        return None
    return view.ownership(look.unit, port)


def covers(own: Port, asked: Port) -> bool:
    """Whether who owns the one owns the other: a port on another address, or of UDP, is another's to answer on."""
    same = (own.protocol, own.number) == (asked.protocol, asked.number)
    return same and own.address in (None, asked.address)


def may_answer(owner: PortOwnership) -> bool:
    """Whether an answer from a port counts: another live service may be a proxy before the unit."""
    return owner.verdict in (Verdict.OWNED, Verdict.OTHER_UNIT_HOLDS_PORT, Verdict.NOT_LISTENING)
