"""Asks the probes, one round after the other, and judges whether an answer counts.

An answer counts only while the listener that gave it is the unit's own: an orphan of the old version answers as well.
So it counts only if the invocation, and all sockets on the ports that were asked, are still those that were there when
it was asked; and which port of this machine it was, the connection itself tells, whatever name or address led there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from runbook.checks.health import HealthReport
from runbook.checks.probes import JournalFields, Probe, ProbeRound
from runbook.errors import HostError
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.host.queries import Answer, Query
from runbook.model import Finding, Port, ProcessId, Verdict, holds, not_yet
from runbook.spec.state import RunState
from runbook.util.wording import describe_last_line

PROBE_INTERVAL = 0.5
"""Seconds between two rounds of probes."""

ANSWER_POLL = 0.01
"""Seconds until the answers of a new round are looked for."""


@dataclass
class ProbeRoundState:
    """The round of probes that is under way: its `number`, and when it was asked, `at` a moment of the monotonic clock.

    It was asked of what `of` says; `wrong` is what the round before it said. `reached` are the ports of this machine
    that answered a probe, by its place in the list, where the probe itself does not tell them.
    """

    query_id: int = 0
    started_at: float = 0.0
    round: ProbeRound = field(default_factory=ProbeRound)
    last_failure: str = ""
    reached_ports: dict[int, frozenset[Port]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prober:
    """Asks the probes of a unit that is healthy in all else, as one look shows it."""

    view: HostView
    report: HealthReport
    probes: Sequence[Probe]
    run: RunState
    state: ProbeRoundState
    secret: bool = False

    def check(self, now: float) -> Finding:
        """Say what has been answered; an answer counts only if the unit is still what it was when it was asked."""
        look, asking, facts = self.report, self.state, self.report.evidence()
        if not self.probes:
            return holds(Verdict.READY, look.reason, **facts)
        try:
            owners = [self._judge_extra_ports(at, probe) for at, probe in enumerate(self.probes)]
            seen = self._make_round(owners)
        except HostError as error:
            return not_yet(Verdict.PROBE_FAILED, error.message, look.wake(PROBE_INTERVAL), **facts)
        if not asking.query_id or seen != asking.round:
            self._start_round(seen, now)
        answers = self._answers(owners)
        told = [said for said, answer in answers if answer]
        wrong = [said for said, answer in answers if answer and not answer.ok]
        wrong += _find_foreign_ports(owners)
        over = len(told) == len(answers)
        if over and not wrong and (self._found_new_ports(answers, owners) or self._network_changed()):
            asking.query_id = 0
            wake = replace(look.wake(ANSWER_POLL), pending=True)
            return not_yet(Verdict.STILL_STARTING, f"probing {look.unit.name}", wake, **facts)
        # What was answered counts before anything is asked again: a slow no is a no.
        left = max(asking.started_at + PROBE_INTERVAL - now, ANSWER_POLL)
        if over:
            asking.last_failure = wrong[0] if wrong else ""
            if now - asking.started_at >= PROBE_INTERVAL:
                self._start_round(seen, now)
        if wrong:
            return not_yet(Verdict.PROBE_FAILED, wrong[0], look.wake(left), **facts, probes=wrong)
        if not over:
            wake = replace(look.wake(1.0), pending=True)
            verdict = Verdict.PROBE_FAILED if asking.last_failure else Verdict.STILL_STARTING
            return not_yet(verdict, asking.last_failure or f"probing {look.unit.name}", wake, **facts)
        return holds(Verdict.READY, look.reason, **facts, probes=told)

    def _start_round(self, seen: ProbeRound, now: float) -> None:
        self.state.query_id, self.state.started_at, self.state.round = self.run.next_query_id(), now, seen

    def _judge_extra_ports(self, at: int, probe: Probe) -> list[PortOwnership]:
        """Judge the ports of this machine that a probe asks, besides those that the unit must own anyway."""
        ports = {*([probe.chosen.local_port] if probe.chosen.local_port else []), *self.state.reached_ports.get(at, ())}
        found = (judge_extra_port(self.view, self.report, port) for port in sorted(ports, key=str))
        return [owner for owner in found if owner is not None]

    def _make_round(self, owners: Sequence[Sequence[PortOwnership]]) -> ProbeRound:
        """See of what the probes are to be asked. Raises HostError where the unit's network cannot be entered."""
        unit = self.report.unit
        leftovers: tuple[int, ...] = ()
        if any(isinstance(probe.chosen, JournalFields) for probe in self.probes):
            leftovers = tuple(holder.process.pid for holder in self.view.find_leftovers(unit))
        sockets = self.report.sockets.union(*(owner.sockets for some in owners for owner in some))
        return ProbeRound(unit.invocation_id, sockets, self._networks(), leftovers)

    def _networks(self) -> tuple[ProcessId | None, ...]:
        kinds = [probe.chosen for probe in self.probes]
        unit = self.report.unit
        return tuple(
            self.view.find_network_process(unit, kind.local_port) if kind.uses_network else None for kind in kinds
        )

    def _network_changed(self) -> bool:
        """Whether the unit went into a network of its own while it was judged who answered."""
        try:
            return self._networks() != self.state.round.networks
        except HostError:
            return True

    def _found_new_ports(
        self, answers: Sequence[tuple[str, Answer | None]], owners: Sequence[Sequence[PortOwnership]]
    ) -> bool:
        """Notice which ports of this machine answered that nobody was asked about: they are judged from now on."""
        led = False
        for at, ((_, answer), judged) in enumerate(zip(answers, owners, strict=True)):
            port = answer.reached_port if answer else None
            known = [*(own.port for own in self.report.ports), *(owner.port for owner in judged)]
            if port is not None and not any(port_covers(one, port) for one in known):
                self.state.reached_ports[at] = self.state.reached_ports.get(at, frozenset()) | {port}
                led = True
        return led

    def _answers(self, owners: Sequence[Sequence[PortOwnership]]) -> list[tuple[str, Answer | None]]:
        """Give the answers, as far as they are there, each with what it says in a sentence."""
        answers: list[tuple[str, Answer | None]] = []
        for probe, network, judged in zip(self.probes, self.state.round.networks, owners, strict=True):
            kind = probe.chosen
            question = kind.make_query(self.run, self.state.round)
            answer = self.view.query(Query(question, self.state.query_id, kind.timeout, network))
            asked = f"{kind.label} in the unit's network" if network else kind.label
            answers.append((self._describe_answer(asked, probe, answer, judged) if answer else "", answer))
        return answers

    def _describe_answer(self, asked: str, probe: Probe, answer: Answer, owners: Sequence[PortOwnership]) -> str:
        """Say what came of a probe; of a command that failed also the last it printed, which mostly says why."""
        if probe.run is not None:
            return f"{asked} {answer.detail}{'' if answer.ok or self.secret else describe_last_line(answer.output)}"
        return f"{asked}: {answer.detail}{_describe_origin(probe, answer, owners) if answer.ok else ''}"


def _describe_origin(probe: Probe, answer: Answer, owners: Sequence[PortOwnership]) -> str:
    """Say that it is not the unit itself that answered, where that is so."""
    if probe.chosen.uses_network and answer.reached_port is None:
        return ", from another machine"
    between = [holder for owner in owners for holder in owner.foreign_holders]
    return f", through {between[0].process} of {between[0].unit}" if between else ""


def _find_foreign_ports(owners: Sequence[Sequence[PortOwnership]]) -> Iterator[str]:
    """Say that a port which a probe asks is not the unit's to answer on."""
    for owner in (owner for some in owners for owner in some):
        if not does_answer_count(owner):
            yield describe_foreign_answer(owner)


def describe_foreign_answer(owner: PortOwnership) -> str:
    """Say that an answer from a port does not count, and whose it is."""
    return f"an answer from port {owner.port} does not count: {owner.reason}"


def judge_extra_port(view: HostView, look: HealthReport, port: Port | None) -> PortOwnership | None:
    """Judge a port of this machine that is asked, where it is none of those that the unit must own anyway."""
    if port is None or any(port_covers(own.port, port) for own in look.ports):
        return None
    return view.judge_port(look.unit, port)


def port_covers(own: Port, asked: Port) -> bool:
    """Whether who owns the one owns the other: a port on another address, or of UDP, is another's to answer on."""
    same = (own.protocol, own.number) == (asked.protocol, asked.number)
    return same and own.address in (None, asked.address)


def does_answer_count(owner: PortOwnership) -> bool:
    """Whether an answer from a port counts: another live service may be a proxy before the unit."""
    return owner.verdict in (Verdict.OWNED, Verdict.OTHER_UNIT_HOLDS_PORT, Verdict.NOT_LISTENING)
