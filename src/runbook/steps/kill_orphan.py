"""`kill-orphan`: kills the processes that hold the port and belong to no live service."""

from __future__ import annotations

from dataclasses import replace
from signal import Signals
from typing import ClassVar, Literal

from pydantic import Field

from runbook.actions.kill_state import KillOptions, KillOrphanState
from runbook.actions.termination import Termination
from runbook.host.facts import Unit
from runbook.host.holders import Holder
from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict
from runbook.spec.fields import Boolean, Pattern, PortList, PositiveSpan, TextField, TimeSpan, UnitName, UserField
from runbook.spec.step import FileModel, Step
from runbook.util import regex

KILL_GRACE = 25.0  # seconds beyond `grace` in which a process that got KILL must exit, and the port become free


class Expect(FileModel):
    """What a process must match to be killed. All that is given must match."""

    exe: TextField | None = Field(None, description="The path of its executable.", examples=["/usr/bin/node"])
    user: UserField | None = Field(None, description="The user that it runs as.")
    command: Pattern | None = Field(
        None, description="A pattern to be found in its command line.", examples=["gateway.*--port 18789"]
    )

    def find_mismatch(self, holder: Holder) -> str:
        """Return what does not match; empty if all does."""
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
    """Kill the orphans and leftovers that hold the port; then prove that they are gone.

    TERM, `grace`, KILL. It never signals a live service, a container, systemd, sshd, a terminal multiplexer, this
    program or a process that it was started from, nor a client of the port. If one of those holds the port, no process
    at all is signalled, and the message names it.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.REFUSED_TO_KILL

    unit: UnitName = Field(description="The unit that is to own the port.")
    port: PortList = Field(description="The port, or a list of ports, to be freed.")
    signal: Literal["TERM", "INT", "QUIT", "HUP", "KILL"] = Field("TERM", description="The first signal.")
    grace: TimeSpan = Field(5.0, description="How long a process may take to exit before it gets KILL.")
    expect: Expect | None = Field(
        None, description="What a process must match to be killed: `exe`, `user`, `command`; all that are given."
    )
    leftovers: Boolean = Field(False, description="Kill also processes of earlier invocations that hold no port.")
    supervisors: Boolean = Field(False, description="First kill a parent that would start the process again.")
    timeout: PositiveSpan | None = Field(
        None,
        description="How long one try may take; `grace` (twice with `supervisors`) and 25s by default. If it is "
        "shorter than `grace`, no process gets KILL.",
    )

    def check(self, view: HostView, state: KillOrphanState) -> Finding:
        return Termination(view, self._options, state).check()

    def apply(self, host: Host, state: KillOrphanState) -> None:
        Termination(host, self._options, state).act(host)

    def judge_timeout(self, view: HostView, state: KillOrphanState, last: Finding) -> Finding:
        return Termination(view, self._options, state).judge_timeout(last)

    def predict(self, unit: Unit) -> Unit:
        return replace(unit, main_pid=0) if unit.is_untracked else unit

    def time_limit(self, view: HostView) -> float:
        return self.grace * (1 + self.supervisors) + KILL_GRACE if self.timeout is None else self.timeout

    @property
    def _options(self) -> KillOptions:
        mismatch = self.expect.find_mismatch if self.expect is not None else lambda _: ""
        # A `timeout` that ends before the grace means that the process is to be spared.
        kill = self.timeout is None or self.timeout > self.grace
        first = Signals[f"SIG{self.signal}"]
        return KillOptions(
            self.unit, self.port, first, self.grace, kill, self.leftovers, self.supervisors, self.secret, mismatch
        )
