"""Which services a step changed, judged when it has ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from runbook.engine.changed_services import ServiceJudge, find_changed_services
from runbook.engine.execution.replay import BY_OPERATOR
from runbook.errors import BusLost, Interrupted
from runbook.events import Event, RunResumed, RunStarted, StepActing, StepFinished
from runbook.host.facts import JobRef, Unit
from runbook.host.queries import Answer, Command, CommandResult, StartEvent, StartEventKind
from runbook.host.requesters import JobRequest, Requester
from runbook.records.store import boot_id
from runbook.spec.step import Step
from tests.unit.fake_machine import EPOCH, FakeMachine, unit
from tests.unit.runs import run, step

SINCE = 990.0
"""A step began to act 990 seconds after the boot."""

COMMAND, JOB = step("run", run="/opt/migrate"), step("restart")


def at(seconds: float) -> int:
    return int(seconds * 1e6)


def began(seconds: float, before: float = 0.0, **changes: Any) -> Unit:
    """Return a service whose invocation began at a time, after an end of the previous one."""
    times = {"inactive_exit_monotonic": at(seconds), "exec_main_start_monotonic": at(seconds)}
    ends = {"active_exit_monotonic": at(before), "inactive_enter_monotonic": at(before)} if before else {}
    none_before = {} if before else {"inactive_enter_monotonic": 0}
    return unit("worker.service", **{**times, **none_before, **ends, **changes})


def judged(*units: Unit, by: Step[Any] = COMMAND, foreign: Iterable[str] = (), looping: bool = False) -> dict[str, Any]:
    machine = FakeMachine(units={one.name: one for one in (unit(), *units)})
    others = ServiceJudge(lambda: set(foreign), lambda unit: looping)
    return find_changed_services(machine, by, machine.list_services(), at(SINCE), others)


CHANGED = {"changed-services": ["worker.service"]}


@pytest.mark.parametrize(
    "worker",
    [
        began(992, before=991),
        began(900, active_exit_monotonic=at(994), sub_state="stop-sigterm"),  # It is slow to stop.
        began(900, exec_main_start_monotonic=at(992)),
        began(900, reload_monotonic=at(992)),
        began(992, before=991, bus_name="org.example"),
        began(992, before=991, triggered_by=("worker.socket",)),
    ],
)
def test_a_service_that_changed_since_a_command_began_was_changed_by_it(worker: Unit) -> None:
    assert judged(worker) == CHANGED


def test_who_started_a_service_that_was_down_is_uncertain() -> None:
    assert judged(began(992)) == {"uncertain-services": ["worker.service"]}
    assert judged(began(992, before=980)) == {"uncertain-services": ["worker.service"]}


@pytest.mark.parametrize(
    "worker",
    [
        began(900),
        began(980, before=970),
        began(992, bus_name="org.freedesktop.hostname1"),
        began(992, triggered_by=("worker.socket",)),
        began(992, is_transient=True),
        began(992, activation=(("trigger_unit", "worker.timer"), ("trigger_timer_monotonic_usec", str(at(992))))),
        replace(began(992), name="systemd-hostnamed.service"),
        replace(began(992, before=991), name="user@1000.service"),
        replace(began(992, before=991), name="dbus.service"),
    ],
)
def test_a_service_that_did_not_or_that_was_started_on_demand_was_not(worker: Unit) -> None:
    assert judged(worker) == {}


def test_the_requester_decides_if_it_is_known() -> None:
    own = Requester(500, ("systemctl", "start", "worker"), "root", is_own=True)
    other = Requester(600, ("systemctl", "restart", "worker"), "root")
    crashing = began(999, job_requests=(JobRequest(7, (own,)), JobRequest(8)))
    assert judged(crashing) == judged(crashing, foreign=["worker.service"]) == CHANGED
    queued = began(900, job=8, job_type="restart", job_requests=(JobRequest(8, (own,)),))
    assert judged(queued) == CHANGED
    left = judged(began(992, before=991, job_requests=(JobRequest(7, (other,)),)))
    assert list(left) == ["left-services"]
    assert "restarted by something else (PID 600 `systemctl restart worker`" in left["left-services"]["worker.service"]


def test_a_job_counts_only_for_what_it_reached() -> None:
    worker = began(992, before=991)
    assert judged(worker, by=JOB) == {}
    assert judged(worker, unit(wants=("worker.service",)), by=JOB) == CHANGED
    assert judged(worker, unit(consists_of=("worker.service",)), by=JOB) == CHANGED
    assert judged(worker, unit(consists_of=("worker.service",)), by=step("reload")) == {}
    assert judged(worker, unit(propagates_reload_to=("worker.service",)), by=step("reload")) == CHANGED


def test_a_unit_on_which_another_run_acted_is_not_counted_without_a_requester() -> None:
    worker = began(992, before=991, names=("worker.service", "jobs.service"))
    assert judged(worker, foreign=["jobs.service"]) == {}


def test_a_unit_that_restarts_by_itself_since_before_the_step_is_left_alone() -> None:
    worker = began(992, before=991)
    sentence = "worker.service restarts by itself since before this step, and is left alone"
    assert judged(worker, looping=True) == {"left-services": {"worker.service": sentence}}


class Site(FakeMachine):
    """A machine with a worker, which a command restarts."""

    def __init__(self, *, listing: Exception | None = None) -> None:
        super().__init__(units={"gw.service": unit(), "worker.service": began(900)})
        self.listing = listing
        self.announced: tuple[str, ...] | None = None
        self.on_command = self.restarts

    def restarts(self, machine: FakeMachine, command: Command) -> CommandResult:
        now = self.clock.monotonic()
        self.units["worker.service"] = began(now, before=now)
        return CommandResult("success", 0)

    def list_changed_services(self) -> tuple[str, ...]:
        if self.listing and self.written:
            raise self.listing
        return super().list_changed_services() if self.announced is None else self.announced


def evidence(events: list[Event], name: str = "run") -> dict[str, Any]:
    ends = (event.data for event in events if event.event == "step-finished" and event.data["id"] == name)
    return dict(next(ends)["evidence"])


BACK: dict[str, Any] = {"rollback": (step("restart", id="rollback.restart"),)}


def test_the_judgement_is_in_the_evidence_of_the_step_if_there_is_a_rollback() -> None:
    _, events = run(Site(), COMMAND, **BACK)
    assert evidence(events)["changed-services"] == ["worker.service"]
    _, events = run(Site(), COMMAND)
    assert "changed-services" not in evidence(events)
    _, events = run(Site(), step("run", run="/opt/look", **{"read-only": "true"}), **BACK)
    assert "changed-services" not in evidence(events)


def test_services_that_cannot_be_read_are_not_known() -> None:
    _, events = run(Site(listing=BusLost("the bus is gone")), COMMAND, **BACK)
    assert evidence(events)["changed-services"] is None


def test_an_interruption_meanwhile_leaves_the_end_of_the_step_in_the_record() -> None:
    end, events = run(Site(listing=Interrupted(15)), COMMAND, **BACK)
    assert (end.status, end.exit) == ("interrupted", 143)
    assert evidence(events)["changed-services"] is None


FAILS = step("run", id="fails", run="false")


def restarted(site: Site, *earlier: Event) -> list[str]:
    """Return what a rollback restarts beside the units of the runbook."""
    _, events = run(site, COMMAND, FAILS, earlier=earlier, **BACK)
    return list(next(event.data.get("units", []) for event in events if event.event == "rollback-started"))


def test_what_a_service_does_after_the_command_does_not_matter() -> None:
    site = Site()

    def restarts_again(machine: FakeMachine, command: Command) -> CommandResult:
        if str(command) != "false":
            return site.restarts(machine, command)
        site.units["worker.service"] = began(100, reload_monotonic=0)  # None of its times is in the command's any more.
        return CommandResult("exit-code", 1)

    site.on_command = restarts_again
    assert restarted(site) == ["worker.service"]


def fail_false(site: Site) -> Site:
    site.on_command = lambda machine, command: (
        CommandResult("exit-code", 1) if str(command) == "false" else site.restarts(machine, command)
    )
    return site


def test_a_step_after_which_the_services_could_not_be_read_is_judged_at_the_rollback() -> None:
    assert restarted(fail_false(Site(listing=BusLost("the bus is gone")))) == ["worker.service"]


EARLIER = (
    Event.of(EPOCH + SINCE - 1, "run-1", RunStarted()),
    Event.of(EPOCH + SINCE, "run-1", StepActing(id="run", type="run", reason="run it", evidence={})),
)


def test_a_command_that_an_earlier_part_of_the_run_began_is_judged_by_all_services() -> None:
    """What systemd announced before this part began was not recorded."""
    site = fail_false(Site())
    site.units["worker.service"] = began(992, before=991)
    site.found_commands["run-1-run"] = JobRef("/org/freedesktop/systemd1/job/1", "runbook-run-1-run.service", "start")
    site.results["/org/freedesktop/systemd1/job/1"] = CommandResult("success", 0)
    site.announced = ()
    assert restarted(site, *EARLIER) == ["worker.service"]


def test_a_step_that_the_operator_skipped_is_judged_at_the_rollback() -> None:
    site = fail_false(Site())
    site.units["worker.service"] = began(992, before=991)
    skipped = StepFinished(
        id="run",
        type="run",
        status="skipped",
        verdict=None,
        reason="",
        attempts=0,
        seconds=0,
        evidence={BY_OPERATOR: True},
    )
    assert restarted(site, *EARLIER, Event.of(EPOCH + 995, "run-1", skipped)) == ["worker.service"]


def test_the_judgement_of_an_earlier_part_counts() -> None:
    site = fail_false(Site())
    facts: dict[str, Any] = {"id": "run", "type": "run", "verdict": None, "reason": "", "attempts": 1, "seconds": 0}
    ended = StepFinished(**facts, status="changed", evidence={"changed-services": ["worker.service"]})
    assert restarted(site, *EARLIER, Event.of(EPOCH + 995, "run-1", ended)) == ["worker.service"]
    before_the_boot = Event.of(EPOCH + 996, "run-1", RunResumed(boot=boot_id()))
    assert restarted(site, *EARLIER, Event.of(EPOCH + 995, "run-1", ended), before_the_boot) == []


@pytest.mark.parametrize(
    ("counted", "starts", "expected"),
    [
        (40, (-5, -4, 0, 1), []),
        (2, (-5, 0, 1), []),
        (1, (-5, 0, 1), ["worker.service"]),  # The command restarted it, and then systemd did.
        (0, (-5, 0), ["worker.service"]),
        (1, (0,), ["worker.service"]),  # The command killed it.
        (40, (), ["worker.service"]),  # The journal could not be read.
    ],
)
def test_the_counter_of_restarts_shows_whether_a_client_restarted_a_unit_that_loops(
    counted: int, starts: tuple[float, ...], expected: list[str]
) -> None:
    site = fail_false(Site())
    now = site.clock.now()
    events = tuple(StartEvent(now + seconds, StartEventKind.START) for seconds in starts)
    site.answers["starts of worker.service"] = [Answer(bool(starts), "", events or None)]

    def loops(machine: FakeMachine, command: Command) -> CommandResult:
        began_at = site.clock.monotonic()
        times = {"before": began_at, "inactive_exit": int((now + 2) * 1e6), "n_restarts": counted}
        site.units["worker.service"] = began(began_at, **times)
        return CommandResult("exit-code" if str(command) == "false" else "success", int(str(command) == "false"))

    site.on_command = loops
    assert restarted(site) == expected
