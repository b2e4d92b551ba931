"""What the steps that ask for a job have in common, where the order of two looks matters."""

from __future__ import annotations

from pathlib import Path

from runbook.engine.attempt import attempt
from runbook.engine.events import Events
from runbook.host.facts import ActiveState, JobRef, JobResult, Unit
from runbook.step import RunState
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import step


class Between(FakeMachine):
    """The job ends between two looks: whoever looks at the unit first sees it as it was before.

    Seen on systemd 252 and 257 with a stop of a few milliseconds, in one of five runs of the incident.
    """

    looks = 0

    def unit(self, name: str) -> Unit:
        self.looks += 1
        return super().unit(name)

    def job(self, ref: JobRef) -> JobResult | None:
        self.units[ref.unit] = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0)
        return JobResult.DONE


def test_a_unit_is_looked_at_after_its_job_has_ended() -> None:
    machine = Between(units={"gw.service": unit(active_state=ActiveState.DEACTIVATING, sub_state="stop-sigterm")})
    machine.on_job["stop"] = lambda m, name: None
    tried = attempt(step("stop"), machine, machine, RunState("r", Path("/")), Events("r", machine.clock, ()))
    assert (tried.status, tried.finding.verdict) == ("changed", "job-done"), tried.finding.reason
