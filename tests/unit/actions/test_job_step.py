"""What the steps that ask for a job have in common, where the order of two looks matters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from runbook.engine.execution.attempt import attempt
from runbook.engine.execution.stream import EventStream
from runbook.errors import BusTimeout
from runbook.host.facts import ActiveState, JobRef, JobResult, JobVerb, Unit, job_path
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, start_anew, unit
from tests.unit.runs import step


class Between(FakeMachine):
    """The job ends between two readings: if the unit is read first, it is still as it was before the job.

    Seen on systemd 252 and 257 with a stop of a few milliseconds, in one of five runs of the incident.
    """

    looks = 0

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        self.looks += 1
        return super().unit(name)

    def job(self, ref: JobRef) -> JobResult | None:
        self.units[ref.unit] = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0)
        return JobResult.DONE


def test_a_unit_is_read_after_its_job_has_ended() -> None:
    machine = Between(units={"gw.service": unit(active_state=ActiveState.DEACTIVATING, sub_state="stop-sigterm")})
    machine.on_job["stop"] = lambda m, name: None
    tried = attempt(step("stop"), machine, machine, RunState("r", Path("/")), EventStream("r", machine.clock, ()))
    assert (tried.status, tried.verdict) == ("changed", "job-done"), tried.reason


def test_an_automatic_restart_just_before_the_job_is_none_of_the_new_invocation() -> None:
    """A start during the pause before an automatic restart does not reset NRestarts (seen on systemd 252)."""
    machine = FakeMachine(units={"gw.service": unit(n_restarts=1)})

    def anew(on: FakeMachine, name: str) -> JobResult:
        start_anew(on, name)
        on.units[name] = replace(on.units[name], n_restarts=2)
        return JobResult.DONE

    machine.on_job["restart"] = anew
    run = RunState("r", Path("/"))
    attempt(step("restart"), machine, machine, run, EventStream("r", machine.clock, ()))
    assert run.baseline_restarts == {"gw.service": 2}


@dataclass
class Silent(FakeMachine):
    """systemd does not answer the first request for a job. `hears`: it received the request all the same."""

    hears: bool = True
    queues: bool = False
    """True if the job still waits when the unit is read; otherwise it has ended."""
    orders: list[str] = field(default_factory=list)

    def enqueue_job(self, verb: JobVerb, unit: str) -> JobRef:
        self.orders.append(str(verb))
        if len(self.orders) > 1:
            return super().enqueue_job(verb, unit)
        if self.hears:
            ref = super().enqueue_job(verb, unit)
            if self.queues:
                self.units[unit] = replace(self.units[unit], job=7, job_type=str(verb))
                self.jobs[job_path(7)] = self.jobs[ref.path]
        raise BusTimeout(f"cannot {verb} {unit}: it did not answer in time")


def tried(machine: FakeMachine, kind: str) -> tuple[str, str]:
    """Try such a step once; return its status and its verdict."""
    done = attempt(step(kind), machine, machine, RunState("r", Path("/")), EventStream("r", machine.clock, ()))
    return str(done.status), str(done.verdict)


DOWN = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0)


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize("kind", ["start", "stop", "restart"])
def test_a_job_that_systemd_received_and_did_not_confirm_is_not_requested_again(kind: str, queues: bool) -> None:
    machine = Silent(units={"gw.service": DOWN if kind == "start" else unit()}, queues=queues)
    assert tried(machine, kind) == ("changed", "job-done")
    assert machine.orders == [kind]


@pytest.mark.parametrize("kind", ["start", "stop", "restart"])
def test_a_job_that_systemd_did_not_receive_is_requested_again(kind: str) -> None:
    machine = Silent(units={"gw.service": DOWN if kind == "start" else unit()}, hears=False)
    assert tried(machine, kind) == ("changed", "job-done")
    assert machine.orders == [kind, kind]


def test_a_reload_shows_no_trace_and_is_asked_for_again() -> None:
    machine = Silent(units={"gw.service": unit(can_reload=True)})
    assert tried(machine, "reload") == ("changed", "reloaded")
    assert machine.orders == ["reload", "reload"]
