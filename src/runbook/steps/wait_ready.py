"""`wait-ready`: the unit is healthy, and stays so for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from runbook.checks import previous_exit
from runbook.checks.exit_reason import how_it_ended, in_its_file
from runbook.checks.health import Look, Looker, Patience
from runbook.checks.prober import PROBE_EVERY, Asking, Prober
from runbook.checks.probes import Probe
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.model import Finding, Impact, State, Verdict, fails, holds, not_yet
from runbook.spec.fields import Limit, PortList, Span, UnitName, Whole
from runbook.spec.state import Memory
from runbook.spec.step import Runbook, Step
from runbook.util.timespan import format_span

RECENT = 2.0
"""Seconds for which it need not be found anew that the unit owns its ports, between two rounds of probes.

A look at all processes for each would keep a machine of some thousand busy. A window begins and ends with one.
"""

NO_LOOP = (Verdict.READY, Verdict.STILL_STARTING, Verdict.NOT_LISTENING)
"""What a unit that was restarted more often than allowed is not, until somebody else starts it anew."""

OFTEN = 2
"""Starts by somebody else in one wait from which on it is they that keep the unit from being ready."""


@dataclass
class WaitMemory(Memory):
    """The clocks of one wait, in seconds of the monotonic clock, and what is asked of the probes.

    `invocation` is what has been healthy since `healthy_since`. `only_words`: it has failed, and is to be told how.
    """

    patience: Patience = field(default_factory=Patience)
    began: float | None = None
    invocation: str = ""
    healthy_since: float | None = None
    asking: Asking = field(default_factory=Asking)
    previous_exit: previous_exit.Asking = field(default_factory=previous_exit.Asking)
    only_words: bool = False


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
    probes: tuple[Probe, ...] = Field((), description="What must answer, each with a `timeout`.")
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

    def misfits(self, runbook: Runbook) -> Iterator[tuple[str, str]]:
        if self.unit is not None and self.unit.endswith(".socket") and any(probe.journal for probe in self.probes):
            yield "probes", f"{self.unit} writes nothing into the journal; ask for the `journal` of its service"

    def check(self, view: HostView, memory: WaitMemory) -> Finding:
        now = view.clock.monotonic()
        if memory.began is None:
            memory.began = now
        # Without probes it looks only when something has changed, or at the end.
        look = self._look(view, memory, memory.patience, RECENT if self.probes else 0.0)
        look = self._told(view, look, memory)
        finding = self._found(view, look, memory, now)
        if self.probes and finding.state is State.HOLDS and self._begins_or_ends(look, memory, now):
            look, finding = self._confirmed(view, look, finding, memory, now)
        if finding.state is State.HOLDS:
            return self._held(look, finding, memory, now)
        # A round of probes that is still out breaks nothing: its answers will.
        if not (look.healthy and finding.wake is not None and finding.wake.pending):
            memory.healthy_since = None
        return finding

    def glance(self, view: HostView, memory: WaitMemory) -> Finding:
        return self._found(view, self._look(view, memory, None), memory, view.clock.monotonic())

    def timed_out(self, view: HostView, memory: WaitMemory, last: Finding) -> Finding:
        if memory.only_words:
            return fails(last.verdict, last.reason, **last.evidence)
        unit = view.unit(self._unit)
        waited = f"not ready within {self.timeout:g}s: {last.reason}"
        if last.verdict is Verdict.NOT_LISTENING and (elsewhere := view.listens_on(unit)):
            waited += f" (it listens on {', '.join(elsewhere)}: is `port` right?)"
        if not unit.runs:
            # Between two restarts it reads activating; but nothing of it lives.
            dead = Verdict.UNIT_FAILED if last.verdict is Verdict.STILL_STARTING else last.verdict
            return fails(dead, f"{waited}; {unit.name} is {unit.describe()}: {how_it_ended(unit)}", **last.evidence)
        if memory.patience.others >= OFTEN:
            why = memory.patience.others_told(unit)
            return fails(Verdict.UNIT_CHANGED, f"{waited}; {why}", **last.evidence)
        if unit.active_state is ActiveState.DEACTIVATING and unit.job_type not in ("start", "restart"):
            why = f"{unit.name} is {unit.describe()}: it is being stopped, and no start is to follow"
            return fails(Verdict.UNIT_CHANGED, f"{waited}; {why}", **last.evidence)
        if self.on_timeout == "fail":
            return fails(last.verdict, waited, **last.evidence)
        now = f"{unit.name} is {unit.describe()}"
        alone = "it was left alone" if unit.describe() in last.reason else f"{now} and was left alone"
        return Finding(
            State.LEFT_ALONE, Verdict.STILL_STARTING, f"{waited}; {alone}{_leftovers(view, unit)}", last.evidence
        )

    def _begins_or_ends(self, look: Look, memory: WaitMemory, now: float) -> bool:
        """Whether the window begins or ends with this look."""
        begun = memory.healthy_since is not None and memory.invocation == look.unit.invocation_id
        return not begun or now - (memory.healthy_since or now) >= self.healthy_for

    def _confirmed(
        self, view: HostView, look: Look, finding: Finding, memory: WaitMemory, now: float
    ) -> tuple[Look, Finding]:
        """Look at all processes: somebody may have been given a socket since, which nothing announces."""
        fresh = self._look(view, memory, memory.patience)
        same = fresh.sockets == look.sockets and fresh.unit.invocation_id == look.unit.invocation_id
        if fresh.healthy and same:
            return fresh, replace(finding, evidence={**finding.evidence, **fresh.evidence()})
        return fresh, self._found(view, fresh, memory, now)

    @property
    def _unit(self) -> str:
        assert self.unit is not None
        return self.unit

    def _look(self, view: HostView, memory: WaitMemory, patience: Patience | None, recent: float = 0.0) -> Look:
        unit = view.unit(self._unit, recent=recent)
        counted_from = memory.run.starts.get(unit.name)
        began = memory.run.invocations.get(unit.name, "")
        return Looker(view, unit, self.port, counted_from, self.max_restarts, patience, began, recent).look()

    def _found(self, view: HostView, look: Look, memory: WaitMemory, now: float) -> Finding:
        if look.healthy:
            return Prober(view, look, self.probes, memory.run, memory.asking, secret=self.secret).finding(now)
        if look.final and not memory.only_words:
            return fails(look.verdict, look.reason, **look.evidence())
        wake = replace(look.wake(look.again_within), pending=memory.only_words)
        return not_yet(look.verdict, look.reason, wake, **look.evidence())

    def _told(self, view: HostView, look: Look, memory: WaitMemory) -> Look:
        """Have the journal tell how the last process ended, where the unit tells it no more."""
        memory.only_words = False
        if look.verdict in NO_LOOP:
            memory.previous_exit = previous_exit.Asking()
        if not look.untold:
            return look
        end = memory.previous_exit.tell(view, look.unit, memory.run)
        if end is None:
            memory.only_words = True
            return look
        memory.patience.ended, memory.patience.silent = end.text, end.silent
        return self._look(view, memory, memory.patience)

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
        reason = f"{stayed}ready after {took:.1f}s{_besides(look, memory)}"
        return holds(Verdict.READY, reason, **finding.evidence, **times)


def _besides(look: Look, memory: WaitMemory) -> str:
    """Say what an operator must know of a unit that is ready all the same."""
    started = memory.patience.others_told(look.unit)
    return "".join(f"; {text}" for text in (started, in_its_file(look.unit)) if text)


def _leftovers(view: HostView, unit: Unit) -> str:
    """Name what is left over from earlier runs in a unit that has no main process yet: it may be what it waits for."""
    found = () if unit.main_pid else view.leftovers(unit)
    if not found:
        return ""
    named = ", ".join(str(holder.process) for holder in found[:3])
    return f"; in it {'is' if len(found) == 1 else 'are'} {named}, left over from an earlier run"
