"""`wait-ready`: the unit is healthy, and stays so for a while."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from runbook.fields import Limit, PortList, Span, UnitName, Whole
from runbook.health import Look, Looker, Patience
from runbook.host.ports import HostView
from runbook.host.tasks import Answer, Question
from runbook.jobs import how_it_ended
from runbook.model import Finding, Impact, State, Verdict, fails, holds, not_yet
from runbook.probes import Probe
from runbook.spans import format_span
from runbook.step import Memory, Step

PROBE_EVERY = 0.5
"""Seconds between two rounds of probes."""

SOON = 0.01
"""Seconds until the answers of a new round are looked for."""


@dataclass
class WaitMemory(Memory):
    """The clocks of one wait, in seconds of the monotonic clock, and the round of probes that is under way.

    `invocation` is what has been healthy since `healthy_since`. The probes of round `asked` were asked at
    `asked_at`, while `sockets` listened; `wrong` is what the round before it said.
    """

    patience: Patience = field(default_factory=Patience)
    began: float | None = None
    invocation: str = ""
    healthy_since: float | None = None
    asked: int = 0
    asked_at: float = 0.0
    sockets: frozenset[int] = frozenset()
    wrong: str = ""


class WaitReady(Step[WaitMemory]):
    """Hold until the unit has been healthy without a break for `healthy-for`.

    Healthy is: one and the same invocation, active in the way its Type= means it, every port owned by it alone,
    every probe green. An answer to a probe counts only while the listener that gave it is the unit's own: an
    orphan of the old version answers as well.
    """

    kind: ClassVar[str] = "wait-ready"
    impact: ClassVar[Impact] = Impact.READ_ONLY
    takes: ClassVar[tuple[str, ...]] = ("unit", "port")
    needs: ClassVar[tuple[str, ...]] = ("unit",)
    remembers: ClassVar[type[Memory]] = WaitMemory
    fails_as: ClassVar[Verdict] = Verdict.PROBE_FAILED

    unit: UnitName | None = Field(None, description="The unit that is waited for.")
    port: PortList = Field((), description="The port, or a list of ports, that it must own.")
    healthy_for: Span = Field(5.0, description="How long it must have been healthy without a break.")
    timeout: Limit | None = Field(120.0, description="How long one try may take.")
    max_restarts: Whole = Field(0, description="Restarts by systemd that are allowed.")
    probes: tuple[Probe, ...] = Field((), description="What must answer: `tcp`, `http` or `run`, each with `timeout`.")
    on_timeout: Literal["leave", "fail"] = Field(
        "leave",
        description="`leave`: a unit that lives is left alone, as still starting; `fail`: the step fails.",
    )

    @model_validator(mode="after")
    def _fits(self) -> WaitReady:
        if self.timeout is not None and self.healthy_for > self.timeout:
            spans = format_span(self.healthy_for), format_span(self.timeout)
            raise ValueError("`healthy-for` ({}) is longer than `timeout` ({}); it could never be met".format(*spans))
        return self

    def check(self, view: HostView, memory: WaitMemory) -> Finding:
        now = view.clock.monotonic()
        if memory.began is None:
            memory.began = now
        look = self._look(view, memory, memory.patience)
        finding = self._found(view, look, memory, now)
        if finding.state is State.HOLDS:
            return self._held(look, finding, memory, now)
        # A round of probes that is still out breaks nothing: its answers will.
        if not (look.healthy and finding.wake is not None and finding.wake.pending):
            memory.healthy_since = None
        return finding

    def glance(self, view: HostView, memory: WaitMemory) -> Finding:
        return self._found(view, self._look(view, memory, None), memory, view.clock.monotonic())

    def timed_out(self, view: HostView, memory: WaitMemory, last: Finding) -> Finding:
        unit = view.unit(self._unit)
        waited = f"not ready within {self.timeout:g}s: {last.reason}"
        if not unit.runs:
            # Between two restarts it reads activating; but nothing of it lives.
            dead = Verdict.UNIT_FAILED if last.verdict is Verdict.STILL_STARTING else last.verdict
            return fails(dead, f"{waited}; {unit.name} is {unit.describe()}: {how_it_ended(unit)}", **last.evidence)
        if self.on_timeout == "fail":
            return fails(last.verdict, waited, **last.evidence)
        alone = f"{waited}; {unit.name} is {unit.describe()} and was left alone"
        return Finding(State.LEFT_ALONE, Verdict.STILL_STARTING, alone, last.evidence)

    @property
    def _unit(self) -> str:
        assert self.unit is not None
        return self.unit

    def _look(self, view: HostView, memory: WaitMemory, patience: Patience | None) -> Look:
        unit = view.unit(self._unit)
        counted_from = memory.run.starts.get(unit.name)
        return Looker(view, unit, self.port, counted_from, self.max_restarts, patience).look()

    def _found(self, view: HostView, look: Look, memory: WaitMemory, now: float) -> Finding:
        if look.healthy:
            return self._probed(view, look, memory, now)
        if look.final:
            return fails(look.verdict, look.reason, **look.evidence())
        return not_yet(look.verdict, look.reason, look.wake(look.again_within), **look.evidence())

    def _held(self, look: Look, finding: Finding, memory: WaitMemory, now: float) -> Finding:
        """Let the clock of the window run on, or start it anew with another invocation."""
        if memory.healthy_since is None or memory.invocation != look.unit.invocation_id:
            memory.healthy_since, memory.invocation = now, look.unit.invocation_id
        healthy = now - memory.healthy_since
        if healthy < self.healthy_for:
            left = self.healthy_for - healthy
            wake = look.wake(min(left, PROBE_EVERY) if self.probes else left)
            reason = f"healthy for {healthy:.1f}s of {self.healthy_for:g}s"
            return not_yet(Verdict.STILL_STARTING, reason, wake, **finding.evidence)
        took = memory.healthy_since - (memory.began or now)
        times = {"ready-after": round(took, 3), "healthy-for": self.healthy_for}
        stayed = f"healthy for {self.healthy_for:g}s, " if self.healthy_for else ""
        return holds(Verdict.READY, f"{stayed}ready after {took:.1f}s", **finding.evidence, **times)

    def _probed(self, view: HostView, look: Look, memory: WaitMemory, now: float) -> Finding:
        """Ask the probes; an answer counts only if the sockets are still those that listened when it was asked."""
        facts = look.evidence()
        if not self.probes:
            return holds(Verdict.READY, look.reason, **facts)
        if not memory.asked or look.sockets != memory.sockets:
            _ask_anew(look, memory, now)
        answers = self._answers(view, memory)
        wrong = [answer.detail for answer in answers if answer and not answer.good]
        wrong += filter(None, (_answered_by_a_stranger(view, look, probe) for probe in self.probes))
        told = [answer.detail for answer in answers if answer]
        # What was answered counts before anything is asked again: a slow no is a no.
        over = None not in answers
        left = max(memory.asked_at + PROBE_EVERY - now, SOON)
        if over:
            memory.wrong = wrong[0] if wrong else ""
            if now - memory.asked_at >= PROBE_EVERY:
                _ask_anew(look, memory, now)
        if wrong:
            return not_yet(Verdict.PROBE_FAILED, wrong[0], look.wake(left), **facts, probes=wrong)
        if not over:
            wake = replace(look.wake(1.0), pending=True)
            verdict = Verdict.PROBE_FAILED if memory.wrong else Verdict.STILL_STARTING
            return not_yet(verdict, memory.wrong or f"probing {self._unit}", wake, **facts)
        return holds(Verdict.READY, look.reason, **facts, probes=told)

    def _answers(self, view: HostView, memory: WaitMemory) -> list[Answer | None]:
        kinds = [probe.asks for probe in self.probes]
        return [view.ask(Question(kind.question(memory.run), memory.asked, kind.timeout)) for kind in kinds]


def _answered_by_a_stranger(view: HostView, look: Look, probe: Probe) -> str:
    """Say that a port of this machine which a probe asks, besides the unit's, is not the unit's to answer on.

    Another live service may be a proxy before it, and counts as it is.
    """
    port = probe.asks.local_port
    if port is None or any(port.number == own.port.number for own in look.ports):
        return ""
    owner = view.ownership(look.unit, port)
    if owner.verdict in (Verdict.OWNED, Verdict.OTHER_UNIT_HOLDS_PORT, Verdict.NOT_LISTENING):
        return ""
    return f"an answer from port {port} does not count: {owner.reason}"


def _ask_anew(look: Look, memory: WaitMemory, now: float) -> None:
    memory.asked, memory.asked_at, memory.sockets = memory.run.new_question(), now, look.sockets
