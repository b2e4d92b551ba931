"""`daemon-reload`: systemd reads its unit files again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict, holds, to_do
from runbook.spec.fields import PositiveSpan
from runbook.spec.state import StepState
from runbook.spec.step import Step


@dataclass
class DaemonReloadState(StepState):
    """Remembers that the reload is done."""

    done: bool = False


class DaemonReload(Step[DaemonReloadState]):
    """Make systemd read all of its unit files again, and run its generators.

    It does not ask first whether a unit needs it: NeedDaemonReload covers the files of loaded units, and not a file
    that a generator would only write now (systemd.generator(7)).
    """

    may_create_units: ClassVar[bool] = True
    always_acts: ClassVar[bool] = True

    timeout: PositiveSpan | None = Field(120.0, description="How long one try may take.")

    def check(self, view: HostView, state: DaemonReloadState) -> Finding:
        if state.done:
            return holds(Verdict.RELOADED, "systemd has read its unit files again")
        return to_do(Verdict.RELOADED, "make systemd read its unit files again")

    def apply(self, host: Host, state: DaemonReloadState) -> None:
        host.daemon_reload()
        state.done = True
