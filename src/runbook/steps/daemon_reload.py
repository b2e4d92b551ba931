"""`daemon-reload`: systemd reads its unit files again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict, holds, to_do
from runbook.spec.fields import Limit
from runbook.spec.state import Memory
from runbook.spec.step import Step


@dataclass
class DaemonReloadMemory(Memory):
    """Whether systemd has answered that it is done."""

    done: bool = False


class DaemonReload(Step[DaemonReloadMemory]):
    """Let systemd read all of its unit files again, and run its generators.

    It does so whatever systemd says of a single unit: NeedDaemonReload knows the files of the units that are
    loaded, and nothing of one that a generator is yet to make (systemd.generator(7)).
    """

    kind: ClassVar[str] = "daemon-reload"
    remembers: ClassVar[type[Memory]] = DaemonReloadMemory
    fails_as: ClassVar[Verdict] = Verdict.JOB_FAILED
    brings_units: ClassVar[bool] = True
    settled: ClassVar[bool] = True

    timeout: Limit | None = Field(120.0, description="How long one try may take.")

    def check(self, view: HostView, memory: DaemonReloadMemory) -> Finding:
        if memory.done:
            return holds(Verdict.RELOADED, "systemd has read its unit files again")
        return to_do(Verdict.RELOADED, "let systemd read its unit files again")

    def apply(self, host: Host, memory: DaemonReloadMemory) -> None:
        host.daemon_reload()
        memory.done = True
