"""Runs the probes round by round, and judges whether an answer counts.

An orphan of the old version answers as well, so an answer counts only if the unit's own listener gave it. The
invocation and all sockets on the probed ports must still be those from before the probe. Which port of this machine was
reached is read from the connection, whatever name or address led there.

    round ─┬─ an answer is missing ──► wait
           ├─ a probe failed ──► probe-failed; the next round begins PROBE_INTERVAL after this one
           ├─ a port was reached that is not judged yet, or the unit's network changed ──► a new round at once
           └─ all probes passed ──► ready

If the invocation or a socket changes, a new round begins at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runbook.checks.health import HealthReport
from runbook.checks.probes import JournalFields, Probe, ProbeRound
from runbook.errors import HostError
from runbook.host.facts import Unit
from runbook.host.holders import Listener, PortOwnership
from runbook.host.interface import HostView
from runbook.host.queries import Answer, LogSettings, Query
from runbook.model import Finding, Port, ProcessId, Verdict, frozen, holds, not_yet
from runbook.spec.state import RunState
from runbook.util.wording import describe_body, describe_last_line

ProbeAnswer = Answer[str | None]  # what a probe is answered by: a page or the output of a command, or nothing
CERTAINLY_FOREIGN = (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT, Verdict.PORT_SHARED)
PROBE_INTERVAL = 0.5  # seconds between two rounds of probes
ANSWER_POLL = 0.01  # seconds until the answers of a new round are read


@dataclass
class ProbeRoundState:
    """The round of probes that is under way."""

    query_id: int = 0  # the id of its queries; 0 before the first round
    started_at: float = 0.0  # seconds of the monotonic clock
    round: ProbeRound = field(default_factory=ProbeRound)  # what it was asked of
    last_failure: str = ""  # the first failure of the previous round
    last_answers: tuple[str, ...] = ()  # the last answer of each probe, in words
    has_wrong_answer: bool = False  # True if an answer was wrong in the last round that had a failure
    reached_ports: dict[int, frozenset[Port]] = field(default_factory=dict)
    """Ports of this machine that a probe reached and does not name, by the probe's place in the list."""


@frozen
class Prober:
    """Runs the probes of a unit whose health report is good."""

    view: HostView
    report: HealthReport
    probes: Sequence[Probe]
    run: RunState
    state: ProbeRoundState
    secret: bool = False

    def check(self, now: float) -> Finding:
        """Return the result of the probes so far."""
        report, state, facts = self.report, self.state, self.report.evidence()
        if not self.probes:
            return holds(Verdict.READY, report.reason, **facts)
        try:
            owners = [self._judge_extra_ports(index, probe) for index, probe in enumerate(self.probes)]
            current = self._make_round(owners)
        except HostError as error:
            return not_yet(Verdict.PROBE_FAILED, error.message, report.wake(PROBE_INTERVAL), **facts)
        # If the unit changed since the probes were asked, another process may have answered.
        if not state.query_id or current != state.round:
            self._start_round(current, now)
        answers = self._answers(owners)
        known = state.last_answers or [f"{probe.chosen.label}: no answer yet" for probe in self.probes]
        state.last_answers = tuple(text or before for (text, _), before in zip(answers, known, strict=True))
        results = [text for text, answer in answers if answer]
        failures = [text for text, answer in answers if answer and not answer.ok]
        failures += [why for judged in owners for owner in judged if (why := describe_foreign_answer(owner))]
        complete = len(results) == len(answers)
        if complete and not failures and (self._found_new_ports(answers, owners) or self._network_changed()):
            # The new port is judged first; then the probes run again.
            state.query_id = 0
            wake = report.wake(ANSWER_POLL)._replace(pending=True)
            return not_yet(Verdict.STILL_STARTING, f"probing {report.unit.name}", wake, **facts)
        # The answers of this round count before the next round starts: a slow failure is a failure.
        left = max(state.started_at + PROBE_INTERVAL - now, ANSWER_POLL)
        if complete:
            state.last_failure = failures[0] if failures else ""
            if now - state.started_at >= PROBE_INTERVAL:
                self._start_round(current, now)
        if failures:
            state.has_wrong_answer = any(answer.is_wrong for _, answer in answers if answer) or any(
                owner.verdict in CERTAINLY_FOREIGN for judged in owners for owner in judged
            )
            return not_yet(Verdict.PROBE_FAILED, failures[0], report.wake(left), **facts, probes=failures)
        if not complete:
            wake = report.wake(1.0)._replace(pending=True)
            verdict = Verdict.PROBE_FAILED if state.last_failure else Verdict.STILL_STARTING
            return not_yet(verdict, state.last_failure or f"probing {report.unit.name}", wake, **facts)
        return holds(Verdict.READY, report.reason, **facts, probes=results)

    def _start_round(self, current: ProbeRound, now: float) -> None:
        self.state.query_id, self.state.started_at, self.state.round = self.run.next_query_id(), now, current

    def _judge_extra_ports(self, index: int, probe: Probe) -> list[PortOwnership]:
        """Judge the ports of this machine that a probe reaches, except those that the unit must own anyway."""
        named = [probe.chosen.local_port] if probe.chosen.local_port else []
        ports = {*named, *self.state.reached_ports.get(index, ())}
        found = (judge_extra_port(self.view, self.report, port) for port in sorted(ports, key=str))
        return [owner for owner in found if owner is not None]

    def _make_round(self, owners: Sequence[Sequence[PortOwnership]]) -> ProbeRound:
        """Return what the probes are asked of now. Raises HostError if the unit's network cannot be entered."""
        unit = self.report.unit
        leftovers: tuple[int, ...] = ()
        # Only a journal probe needs them, and finding them reads the whole cgroup.
        if any(isinstance(probe.chosen, JournalFields) for probe in self.probes):
            leftovers = tuple(holder.process.pid for holder in self.view.find_leftovers(unit))
        sockets = self.report.sockets.union(*(owner.sockets for judged in owners for owner in judged))
        return ProbeRound(unit.name, unit.invocation_id, sockets, self._networks(), leftovers, _find_log_settings(unit))

    def _networks(self) -> tuple[ProcessId | None, ...]:
        unit, find = self.report.unit, self.view.find_network_process
        kinds = (probe.chosen for probe in self.probes)
        return tuple(find(unit, kind.local_port) if kind.uses_network else None for kind in kinds)

    def _network_changed(self) -> bool:
        """True if the unit entered a network of its own while the answers were judged."""
        try:
            return self._networks() != self.state.round.networks
        except HostError:
            return True

    def _found_new_ports(
        self, answers: Sequence[tuple[str, ProbeAnswer | None]], owners: Sequence[Sequence[PortOwnership]]
    ) -> bool:
        """Add the ports of this machine that were reached and not judged; return whether there are any."""
        found = False
        for index, ((_, answer), judged) in enumerate(zip(answers, owners, strict=True)):
            reached = answer.reached_port if answer else None
            known = [*self.report.ports, *judged]
            if reached is not None and not any(port_covers(own, reached) for own in known):
                self.state.reached_ports[index] = self.state.reached_ports.get(index, frozenset()) | {reached}
                found = True
        return found

    def _answers(self, owners: Sequence[Sequence[PortOwnership]]) -> list[tuple[str, ProbeAnswer | None]]:
        """Return for each probe its answer in words, and the answer; empty and None while it runs."""
        answers: list[tuple[str, ProbeAnswer | None]] = []
        for probe, network, judged in zip(self.probes, self.state.round.networks, owners, strict=True):
            kind = probe.chosen
            query = kind.make_query(self.run, self.state.round)
            answer = self.view.query(Query(query, self.state.query_id, kind.timeout, network))
            label = f"{kind.label} in the unit's network" if network else kind.label
            answers.append((self._describe_answer(label, probe, answer, judged) if answer else "", answer))
        return answers

    def _describe_answer(self, label: str, probe: Probe, answer: ProbeAnswer, owners: Sequence[PortOwnership]) -> str:
        """Return the answer in words. After a failed command, its last line of output often has the cause."""
        if probe.run is not None:
            last_line = "" if answer.ok or self.secret else describe_last_line(answer.value or "")
            return f"{label} {answer.detail}{last_line}"
        if probe.http is not None and probe.http.body and answer.is_wrong and not self.secret:
            return f"{label}: {answer.detail}{describe_body(answer.value or '')}"
        return f"{label}: {answer.detail}{_describe_origin(probe, answer, owners) if answer.ok else ''}"


def _find_log_settings(unit: Unit) -> LogSettings:
    return LogSettings(
        unit.inactive_exit / 1e6,
        unit.inactive_exit_monotonic / 1e6,
        unit.log_rate_limit_interval_usec / 1e6,
        unit.log_rate_limit_burst,
        unit.log_level_max,
        bool(unit.log_filter_patterns),
    )


def _describe_origin(probe: Probe, answer: ProbeAnswer, owners: Sequence[PortOwnership]) -> str:
    """Return where the answer came from; empty if it came from the unit itself."""
    if probe.chosen.uses_network and answer.reached_port is None:
        return ", from another machine"
    proxies = [holder for owner in owners for holder in owner.foreign_holders]
    return f", through {proxies[0].process} of {proxies[0].unit}" if proxies else ""


def describe_foreign_answer(owner: PortOwnership) -> str:
    """Return why an answer from a port does not count; empty if it counts."""
    # Another service that is running may be a proxy before the unit.
    if owner.verdict in (Verdict.OWNED, Verdict.OTHER_UNIT_HOLDS_PORT, Verdict.NOT_LISTENING):
        return ""
    return f"an answer from port {owner.port} does not count: {owner.reason}"


def judge_extra_port(view: HostView, report: HealthReport, port: Port | None) -> PortOwnership | None:
    """Judge a probed port of this machine; None if the unit must own it anyway, so that it is judged already."""
    if port is None or any(port_covers(own, port) for own in report.ports):
        return None
    return view.judge_port(report.unit, port)


def port_covers(own: PortOwnership, probed: Port) -> bool:
    """True if the owner of a port owns `probed` too. Another process may own it on another address, or of UDP."""
    port = own.port
    if (port.protocol, port.number) != (probed.protocol, probed.number):
        return False
    if port.address is not None or probed.address is None:
        return port.address in (None, probed.address)
    reached = Listener(probed.protocol, probed.address, probed.number, 0)
    return not any(one.overlaps(reached) for one in own.apart)
