"""One attempt of a step: time-outs, interruptions, refusals, and a bus that is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbook.engine.execution.attempt import attempt, check_once, make_refusal
from runbook.engine.execution.stream import EventStream
from runbook.engine.runner import Runner
from runbook.errors import AccessDenied, BusLost, BusTimeout, HostError, Interrupted, NoSuchUnit, UnitMasked
from runbook.events import Event, StepWaiting, Waiting, select
from runbook.host.facts import ActiveState, JobVerb, Unit
from runbook.host.interface import Host, HostView
from runbook.host.queries import Answer, CommandResult, StartEvent, StartEventKind
from runbook.model import Finding, Port, Verdict, to_do
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState, StepState
from runbook.spec.step import Step
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import incident, run, step


def test_a_first_change_that_is_denied_means_nothing_was_begun() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.refuse["restart"] = AccessDenied("cannot restart gw.service: not permitted", hint="run it as root")
    end, events = run(machine, step("restart"))
    assert (end.status, end.exit, end.hint) == ("not-begun", 5, "run it as root")
    assert events[-1].data["hint"] == "run it as root"


def test_a_later_change_that_is_denied_is_a_failure() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.refuse["restart"] = AccessDenied("cannot restart gw.service: not permitted")
    end, _ = run(machine, step("run", run="first"), step("restart"))
    assert (end.status, end.exit) == ("failed", 1)


class TwoRequests(Step[StepState]):
    """Makes two requests, the second of which is refused."""

    def check(self, view: HostView, state: StepState) -> Finding:
        return to_do(Verdict.RESET, "make two requests")

    def apply(self, host: Host, state: StepState) -> None:
        host.reset_failed("gw.service")
        host.daemon_reload()

    def cancel(self, host: Host, state: StepState) -> None:
        host.enqueue_job(JobVerb.STOP, "gw.service")


def test_an_action_that_fails_half_way_has_acted_and_is_undone() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.refuse["daemon-reload"] = HostError("cannot reload systemd")
    run = RunState("r", Path("/"))
    tried = attempt(TwoRequests(id="two"), machine, machine, run, EventStream("r", machine.clock, ()))
    assert (tried.status, tried.acted) == ("failed", True)
    assert machine.written == ["reset-failed gw.service", "daemon-reload", "stop gw.service"]


def test_a_bus_that_stays_away_is_a_time_out() -> None:
    """It is no verdict on the port, whatever the step type calls its refusals."""

    class Gone(FakeMachine):
        def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
            if self.waits:
                raise BusTimeout("cannot find the unit of invocation 1: it did not answer in time")
            return super().unit(name)

    machine = Gone(units={"gw.service": unit()}, processes={100: process(100)})
    machine.processes[74] = process(74, cgroup="/user.slice/user-1000.slice/session-9.scope")
    listen(machine, 74, "0.0.0.0:80")
    machine.dies_on[74] = None
    tried = attempt(
        step("kill-orphan"), machine, machine, RunState("r", Path("/")), EventStream("r", machine.clock, ())
    )
    assert (tried.status, tried.verdict) == ("failed", "timed-out")
    assert "did not answer in time" in tried.reason


def test_a_bus_that_goes_away_for_a_moment_is_waited_for() -> None:
    class Flaky(FakeMachine):
        lost = 3

        def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
            if self.waits and self.lost:
                self.lost -= 1
                raise BusLost("cannot reach systemd: the connection is closed")
            return super().unit(name)

    machine = Flaky(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    end, _ = run(machine, step("wait-ready", **{"healthy-for": "2s"}))
    assert (end.status, machine.lost) == ("ok", 0)


def test_the_intent_is_reported_before_anything_is_changed() -> None:
    machine = incident()
    written_when_told: list[int] = []
    runbook = Runbook.model_validate({"unit": "gw.service", "steps": [step("restart")], "path": "x"})
    events = EventStream(
        "r",
        machine.clock,
        (lambda e: written_when_told.append(len(machine.written)) if e.event == "step-acting" else None,),
    )
    Runner(runbook, machine, machine, events, RunState("r", Path("/srv"))).run()
    assert written_when_told == [0]


def test_a_command_that_cannot_be_stopped_in_time_is_reported() -> None:
    class Stubborn(FakeMachine):
        def stop_command(self, ref: Any) -> None:
            raise BusTimeout("cannot stop runbook-x.service: it did not end")

    machine = Stubborn(units={"gw.service": unit()})
    machine.on_command = lambda m, command: None
    end, _ = run(machine, step("run", run="sleep 100", timeout="5s"))
    assert (end.status, end.exit) == ("failed", 1)
    assert "cannot stop runbook-x.service" in end.reason


def test_an_interruption_wins_over_what_cannot_be_stopped_in_time() -> None:
    class Stubborn(FakeMachine):
        def stop_command(self, ref: Any) -> None:
            raise BusTimeout("cannot stop runbook-x.service: it did not answer in time")

    def interrupted(machine: FakeMachine) -> None:
        raise Interrupted(15)

    machine = Stubborn(units={"gw.service": unit()}, later=[(1001.0, interrupted)])
    machine.on_command = lambda m, command: None
    end, _ = run(machine, step("run", run="sleep 100"))
    assert (end.status, end.exit) == ("interrupted", 143)


def test_the_time_out_of_the_whole_run_is_reported_as_such() -> None:
    """The reason names it, and not the time-out of the step, which is longer."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, _ = run(machine, step("wait-ready", timeout="120s"), timeout="3s")
    assert machine.clock.time - 1000.0 == pytest.approx(3.0)
    assert "the time of all steps is over (`timeout`)" in end.reason
    assert "120s" not in end.reason


def test_a_refusal_has_the_verdict_of_its_error_and_the_hint_in_its_reason() -> None:
    stop = step("stop")
    assert [make_refusal(stop, error("x")).verdict for error in (NoSuchUnit, UnitMasked, AccessDenied)] == [
        "unit-not-found",
        "unit-masked",
        "job-failed",
    ]
    refused = make_refusal(stop, AccessDenied("no permission", hint="run it as root", dbus_error="org.x.Denied"))
    assert (refused.reason, refused.evidence) == ("no permission; run it as root", {"dbus-error": "org.x.Denied"})


def waits_of(events: list[Event]) -> list[StepWaiting]:
    return list(select(events, StepWaiting))


def test_a_window_without_probes_reports_how_far_it_has_come() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    _, events = run(machine, step("wait-ready", **{"healthy-for": "40s"}))
    waits = waits_of(events)
    assert [(one.seconds, one.healthy, one.left) for one in waits] == [(0, 0, 120), (15, 15, 105), (30, 30, 90)]
    assert [one.reason for one in waits][1:] == ["healthy for 15.0s of 40s", "healthy for 30.0s of 40s"]
    assert (waits[0].healthy_for, waits[0].facts) == (40, ["port 80 is held only by PID 100"])


def test_a_window_with_probes_reports_for_how_long_the_unit_is_healthy_and_each_answer() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)}, slow=0.1)
    listen(machine, 100, "0.0.0.0:80")
    machine.answers = {
        "tcp 127.0.0.1:80": [
            Answer(True, f"connected in {ms}ms", reached_port=Port(80, address="127.0.0.1")) for ms in (4, 11)
        ]
    }
    _, events = run(machine, step("wait-ready", **{"healthy-for": "40s"}, probes=[{"tcp": {"port": 80}}]))
    waits = waits_of(events)
    assert [(one.facts[-1], one.healthy) for one in waits[:2]] == [
        ("tcp 127.0.0.1:80: no answer yet", None),
        ("tcp 127.0.0.1:80: connected in 4ms", 0),
    ]
    assert [one.seconds for one in waits[2:]] == pytest.approx([15, 30], abs=0.6)
    assert {one.reason.partition(" for ")[0] for one in waits[1:]} == {"healthy"}
    assert [one.healthy for one in waits[2:]] == pytest.approx([15, 30], abs=0.6)


def test_a_new_invocation_begins_the_reported_time_anew() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    machine.later = [(1005.0, lambda m: m.units.update({"gw.service": unit(invocation_id="b" * 32)}))]
    _, events = run(machine, step("wait-ready", **{"healthy-for": "9s", "max-restarts": 1}))
    assert [(one.seconds, one.healthy) for one in waits_of(events)] == [(0, 0), (5, 0)]


def test_a_text_that_changes_all_the_time_is_reported_every_two_seconds() -> None:
    starting = unit(active_state=ActiveState.ACTIVATING, sub_state="start")
    machine = FakeMachine(units={"gw.service": starting}, processes={100: process(100)})

    def loads(percent: int) -> Callable[[FakeMachine], None]:
        return lambda m: m.units.update({"gw.service": replace(starting, status_text=f"loaded {percent} %")})

    machine.later = [(1000 + percent / 10, loads(percent)) for percent in range(1, 100)]
    _, events = run(machine, step("wait-ready", timeout="60s"))
    waits = waits_of(events)
    assert [one.seconds for one in waits] == pytest.approx([0, 2, 4, 6, 8, 10, 15, 30, 45])
    assert waits[1].reason.endswith("reports `loaded 20 %`")


def test_a_pause_between_two_attempts_is_reported_from_time_to_time() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_command = lambda m, command: CommandResult("exit-code", 1)
    _, events = run(machine, step("run", run="fetch", retries="1", delay="40s"))
    assert [(one.reason, one.seconds, one.left) for one in waits_of(events)] == [
        ("a pause before the next attempt", 15, 25),
        ("a pause before the next attempt", 30, 10),
    ]


@pytest.mark.parametrize(("secret", "output"), [("false", "/out/run.log"), ("true", "")])
def test_a_wait_for_a_command_names_the_file_of_its_output(secret: str, output: str) -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: None
    _, events = run(machine, step("run", run="sleep 100", timeout="5s", secret=secret))
    assert [one.output for one in waits_of(events)] == [output]


def test_a_wait_for_a_start_limit_has_the_time_at_which_it_opens() -> None:
    machine = FakeMachine(units={"gw.service": unit(inactive_exit_monotonic=995_000_000)})
    now = machine.clock.now()
    starts = tuple(StartEvent(now - ago, StartEventKind.START) for ago in (20, 15, 10, 7, 5))
    machine.answers["starts of gw.service"] = [Answer(True, "", starts)]
    end, events = run(machine, step("restart"))
    assert end.exit == 0, end
    waits = [one for one in waits_of(events) if one.opens_in is not None]
    assert [(one.seconds, one.opens_in) for one in waits] == [(0, 40), (15, 25), (30, 10)]
    assert list(waits[0].facts) == ["gw.service was started 5 times, and its start limit is 5 in 1min"]


def test_a_wait_for_another_process_to_exit_has_the_time_that_it_is_given() -> None:
    machine = incident()
    _, events = run(machine, step("wait-ready"))
    (waiting,) = waits_of(events)
    assert ("PID 74" in waiting.reason, waiting.left) == (True, 2)
    assert waiting.seen is not None
    assert waiting.seen["ActiveState"] == "active"
    assert [one["pid"] for one in waiting.seen["ports"][0]["holders"]] == [74]


@pytest.mark.parametrize(("slow", "reported"), [(0.5, []), (20.0, [(1, 89), (16, 74)])])
def test_a_look_reports_what_it_waits_for_if_that_takes_long(slow: float, reported: list[tuple[float, float]]) -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)}, slow=slow)
    listen(machine, 100, "0.0.0.0:80")
    machine.answers["app --version"] = [Answer(True, "", "1.0.0")]
    asks = step("verify-version", run="app --version", expect="1.0.0", unit="gw.service")
    seen: list[Event] = []
    events = EventStream("r", machine.clock, (seen.append,))
    assert check_once(asks, machine, machine, RunState("r", Path("/")), events).verdict == "version-ok"
    waits = list(select(seen, Waiting))
    assert [(one.seconds, one.left) for one in waits] == reported
    assert all((one.name, one.reason) == ("verify-version", "asking `app --version`") for one in waits)


def test_a_wait_is_reported_again_when_the_verdict_changes_or_after_a_while() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.later = [(1005.0, lambda m: listen(m, 74, "0.0.0.0:80"))]
    machine.processes[74] = process(74, cgroup="/user.slice/user-1000.slice/session-9.scope")
    _, events = run(machine, step("wait-ready", timeout="40s"))
    waits = [e.data["seconds"] for e in events if e.event == "step-waiting"]
    assert waits[0] == 0.0
    assert len(waits) >= 2
