"""Remediations on a machine made of data: no half a fix, and no fix where waiting is right."""

from __future__ import annotations

import pytest

from runbook.errors import BusTimeout
from runbook.host.facts import ActiveState, JobResult, LoadState, Unit
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import FIX, finished, incident, remediate, run, step


def test_the_incident_is_healed() -> None:
    machine = incident()
    end, events = run(
        machine,
        step("restart"),
        remediate(step("wait-ready", **{"healthy-for": "2s"}), step("verify-port-owner"), fix=tuple(map(step, FIX))),
    )
    assert (end.status, end.exit) == ("remediated", 0), end.reason
    assert finished(events) == [
        ("restart", "changed", "job-done"),
        ("remediate.check.wait-ready", "failed", "orphan-holds-port"),
        ("remediate.fix.stop", "changed", "job-done"),
        ("remediate.fix.kill-orphan", "changed", "killed"),
        ("remediate.fix.reset-failed", "changed", "reset"),
        ("remediate.fix.start", "changed", "job-done"),
        ("remediate.check.wait-ready", "ok", "ready"),
        ("remediate.check.verify-port-owner", "ok", "owned"),
        ("remediate", "remediated", "mended"),
    ]
    assert [w for w in machine.written if w.startswith("end")] == ["end 74 SIGTERM"]
    assert events[0].event == "run-started"
    assert events[-1].event == "run-finished"
    assert events[-1].data["status"] == "remediated"


def test_checks_that_hold_touch_nothing() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    end, events = run(machine, remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert (end.status, machine.written) == ("ok", [])
    assert finished(events)[-1] == ("remediate", "ok", "holds")


def test_a_refusal_that_can_be_foreseen_stops_nothing() -> None:
    """Half a fix is worse than none: the unit would be down, and the port still taken."""
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {
        100: process(100),
        981: process(981, name="nginx", cgroup="/system.slice/nginx.service"),
    }
    listen(machine, 981, "0.0.0.0:80")
    end, events = run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert (end.status, end.exit, machine.written) == ("failed", 1, [])
    assert "nginx.service is a live service" in end.reason
    assert "nothing was stopped" in end.reason
    assert finished(events)[-1] == ("remediate", "failed", "not-mended")


def test_a_fix_that_breaks_later_starts_the_unit_again() -> None:
    machine = incident()
    machine.dies_on[74] = None
    end, _ = run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert end.status == "failed"
    assert machine.written == [
        "stop gw.service",
        "end 74 SIGTERM",
        "end 74 SIGKILL",
        "reset-failed gw.service",
        "start gw.service",
    ]
    assert "gw.service is active (running), PID 200" in end.reason


def test_a_unit_that_was_down_before_the_fix_is_not_started() -> None:
    machine = incident()
    machine.dies_on[74] = None
    machine.units["gw.service"] = unit(
        active_state=ActiveState.FAILED, sub_state="failed", main_pid=0, control_group=""
    )
    run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert "start gw.service" not in machine.written


def test_still_starting_sets_off_no_fix() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, events = run(machine, remediate(step("wait-ready", timeout="20s"), fix=tuple(map(step, FIX))), step("stop"))
    assert (end.status, end.exit, machine.written) == ("still-starting", 3, [])
    assert finished(events)[-1] == ("remediate", "failed", "still-starting")


def test_rounds_are_counted() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=(step("restart"),), rounds="3"))
    assert machine.written == ["restart gw.service"] * 3
    assert "fixed 3 times, and verify-port-owner still finds not-listening" in end.reason


def test_a_remediation_can_be_tried_again() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    _, events = run(machine, remediate(step("verify-port-owner"), fix=(step("restart"),), retries="1"))
    assert machine.written == ["restart gw.service"] * 2
    assert events[-2].data["attempts"] == 2


def test_the_time_of_a_remediation_bounds_its_steps() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    wait = step("wait-ready", timeout="60s", **{"on-timeout": "fail"})
    run(machine, remediate(wait, fix=(step("restart"),), timeout="5s"))
    assert machine.clock.time - 1000.0 == pytest.approx(5.0)


def test_a_start_that_is_bound_to_fail_stops_nothing() -> None:
    """The unit runs, but its file is gone: once it is stopped nothing can start it."""
    machine = FakeMachine(units={"gw.service": unit(load_state=LoadState.NOT_FOUND)}, processes={100: process(100)})
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert (end.status, machine.written) == ("failed", [])
    assert "would fail: systemd knows no unit gw.service; nothing was stopped" in end.reason


def test_unit_files_are_read_again_before_anything_is_stopped() -> None:
    machine = FakeMachine(units={"gw.service": unit(need_daemon_reload=True)}, processes={100: process(100)})
    run(machine, remediate(step("verify-port-owner"), fix=(step("stop"), step("start"))))
    assert machine.written[:2] == ["daemon-reload", "stop gw.service"]


def test_a_fix_that_would_be_skipped_is_not_foreseen() -> None:
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")
    skipped = step("kill-orphan", when="false")
    _, events = run(machine, remediate(step("verify-port-owner"), fix=(skipped, step("restart"))))
    assert machine.written == ["restart gw.service"]
    assert [status for name, status, _ in finished(events) if name.endswith("kill-orphan")] == ["skipped"]


def test_a_wait_in_a_fix_that_is_left_alone_is_no_failure() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    fix = (step("restart"), step("wait-ready", timeout="10s"))
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=fix))
    assert (end.status, end.exit) == ("still-starting", 3)


def test_a_manager_that_is_busy_for_a_while_does_not_leave_the_unit_down() -> None:
    class Busy(FakeMachine):
        silent = 0

        def unit(self, name: str) -> Unit:
            if self.written == ["stop gw.service"]:
                self.silent += 1
                if self.silent < 5:
                    raise BusTimeout(f"cannot look at {name}: it did not answer in time")
            return super().unit(name)

    machine = Busy(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_job["start"] = lambda m, name: JobResult.FAILED
    fix = (step("stop"), step("start", timeout="1s"))
    run(machine, remediate(step("verify-port-owner"), fix=fix))
    assert machine.written.count("start gw.service") >= 1
