"""The rounds of a remediation: refusals found before the first fix, and what a failed fix leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.errors import BusTimeout
from runbook.host.facts import ActiveState, JobResult, LoadState, Unit
from tests.unit.fake_machine import FakeMachine, listen, process, start_anew, unit
from tests.unit.runs import FIX, finished, incident, plan, remediate, run, step


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
    assert "no fix was begun" in end.reason
    assert end.now.endswith("port 80 is held by PID 981 (nginx), in nginx.service")
    assert finished(events)[-1] == ("remediate", "failed", "not-fixed")


def test_a_fix_that_stops_the_other_unit_by_its_name() -> None:
    """That unit is then no reason to refuse the fix. Any other holder of the port is."""
    fixes = (step("stop", unit="nginx.service"), *map(step, FIX))

    def with_nginx() -> FakeMachine:
        nginx = unit("nginx.service", main_pid=981)
        machine = FakeMachine(units={"gw.service": unit(), "nginx.service": nginx})
        machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
        listen(machine, 981, "0.0.0.0:80")
        return machine

    machine = with_nginx()
    _, events = run(machine, remediate(step("wait-ready", **{"healthy-for": "0"}), fix=fixes))
    assert ("remediate.fix.kill-orphan", "ok", "nothing-to-kill") in finished(events)
    assert machine.written == ["stop nginx.service", "stop gw.service", "reset-failed gw.service", "start gw.service"]

    machine = with_nginx()
    machine.processes[74] = process(74, name="sshd", cgroup="/user.slice/user-0.slice/session-9.scope")
    machine.spared[74] = "it must live"
    listen(machine, 74, "127.0.0.1:80")
    end, _ = run(machine, remediate(step("wait-ready"), fix=fixes))
    assert (end.status, machine.written) == ("failed", [])
    assert "PID 74 (sshd): it must live" in end.reason

    # If the unit is down already, another stop does not kill the process that it left behind.
    machine = with_nginx()
    machine.units["nginx.service"] = unit(
        "nginx.service", active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, control_group=""
    )
    end, _ = run(machine, remediate(step("wait-ready"), fix=fixes))
    assert (end.status, machine.written) == ("failed", [])
    assert "it was left over by nginx.service, which is inactive" in end.reason

    # If a stop kills only the main process, a process without its parent remains too.
    machine = with_nginx()
    machine.units["nginx.service"] = unit("nginx.service", main_pid=980, kill_mode="process")
    end, _ = run(machine, remediate(step("wait-ready"), fix=fixes))
    assert (end.status, machine.written) == ("failed", [])

    # The service with that name may belong to the manager of a user.
    machine = with_nginx()
    theirs = "/user.slice/user-1001.slice/user@1001.service/app.slice/nginx.service"
    machine.processes[981] = process(981, name="nginx", user="bob", cgroup=theirs)
    end, _ = run(machine, remediate(step("wait-ready"), fix=fixes))
    assert (end.status, machine.written) == ("failed", [])
    assert "systemctl --user -M bob@ stop nginx.service" in end.reason


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


def test_the_time_of_a_remediation_bounds_its_steps() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    wait = step("wait-ready", timeout="60s", **{"on-timeout": "fail"})
    run(machine, remediate(wait, fix=(step("restart"),), timeout="5s"))
    assert machine.clock.time - 1000.0 == pytest.approx(5.0)


def test_a_start_that_is_bound_to_fail_stops_nothing() -> None:
    """The unit runs, but its file is missing: once stopped, it could not be started again."""
    machine = FakeMachine(units={"gw.service": unit(load_state=LoadState.NOT_FOUND)}, processes={100: process(100)})
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert (end.status, machine.written) == ("failed", [])
    assert "no fix was begun: reset-failed would fail: systemd has no unit gw.service" in end.reason


def test_unit_files_are_read_again_before_anything_is_stopped() -> None:
    machine = FakeMachine(units={"gw.service": unit(need_daemon_reload=True)}, processes={100: process(100)})
    _, events = run(machine, remediate(step("verify-port-owner"), fix=(step("stop"), step("start"))))
    assert machine.written[:2] == ["daemon-reload", "stop gw.service"]
    order = [event.event for event in events if event.event in ("notice", "fix-started")]
    assert order == ["notice", "fix-started"]


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

        def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
            if self.written == ["stop gw.service"]:
                self.silent += 1
                if self.silent < 5:
                    raise BusTimeout(f"cannot read {name}: it did not answer in time")
            return super().unit(name)

    machine = Busy(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_job["start"] = lambda m, name: JobResult.FAILED
    fix = (step("stop"), step("start", timeout="1s"))
    run(machine, remediate(step("verify-port-owner"), fix=fix))
    assert machine.written.count("start gw.service") >= 1


def test_a_stop_by_another_requester_is_not_undone() -> None:
    """An administrator stops the unit during `wait-ready`: no fix starts it again."""

    def stop(machine: FakeMachine) -> None:
        down: dict[str, Any] = {
            "active_state": ActiveState.INACTIVE,
            "sub_state": "dead",
            "main_pid": 0,
            "other_jobs": 1,
        }
        machine.units["gw.service"] = replace(machine.units["gw.service"], **down)
        machine.kill(100)

    machine = FakeMachine(units={"gw.service": unit(restart="no")}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    machine.later.append((1001.0, stop))
    end, events = run(machine, remediate(step("wait-ready"), fix=(step("reset-failed"), step("start"))))
    assert (end.status, end.exit, machine.written) == ("failed", 1, [])
    assert finished(events)[0] == ("remediate.check.wait-ready", "failed", "unit-changed")
    assert (
        "no fix was begun, because another requester acts on the unit: something else stopped gw.service" in end.reason
    )


def test_a_masked_unit_is_not_called_one_on_which_another_acts() -> None:
    facts: dict[str, Any] = {
        "load_state": LoadState.MASKED,
        "active_state": ActiveState.INACTIVE,
        "sub_state": "dead",
        "main_pid": 0,
    }
    machine = FakeMachine(units={"gw.service": unit(**facts)})
    end, _ = run(machine, remediate(step("wait-ready"), fix=(step("start"),)))
    assert (end.verdict, machine.written) == ("not-fixed", [])
    assert end.reason.startswith("remediate: no fix was begun: gw.service is masked")
    assert "systemctl unmask gw.service" in end.hint


def test_a_fix_whose_job_was_replaced_starts_nothing_again() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})

    def canceled(machine: FakeMachine, name: str) -> JobResult:
        down: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}
        machine.units[name] = replace(machine.units[name], **down)
        return JobResult.CANCELED

    machine.on_job["restart"] = canceled
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=(step("restart"),)))
    assert machine.written == ["restart gw.service"]
    assert "another job took the place of this restart of gw.service, which is inactive (dead) now" in end.reason


def down() -> FakeMachine:
    """Return a machine whose unit is down, and whose first start fails."""
    failed = unit(active_state=ActiveState.FAILED, sub_state="failed", main_pid=0, restart="no")
    machine = FakeMachine(units={"gw.service": failed})

    def fail_first(machine: FakeMachine, name: str) -> JobResult | None:
        machine.on_job.pop("restart")
        return JobResult.FAILED

    machine.on_job["restart"] = fail_first
    return machine


CHECK: dict[str, Any] = {"healthy-for": "0", "timeout": "3s", "port": ()}
NO_PORT: dict[str, Any] = {"port": ()}


def test_a_failure_right_before_a_remediation_does_not_end_the_run() -> None:
    machine = down()
    end, events = run(machine, step("restart"), remediate(step("wait-ready", **CHECK), fix=(step("start"),)), **NO_PORT)
    assert (end.status, end.exit) == ("remediated", 0), end
    assert finished(events)[0] == ("restart", "failed", "job-failed")
    assert next(event for event in events if event.event == "step-finished").data["continues"] is True


@pytest.mark.parametrize("kind", ["abort, written explicitly", "a stop", "not right before"])
def test_other_failures_end_the_run(kind: str) -> None:
    machine = down()
    first = step("restart", **({"on-failure": "abort"} if kind.startswith("abort") else {}))
    steps = [first, *([step("daemon-reload")] if kind == "not right before" else [])]
    if kind == "a stop":
        machine.units["gw.service"] = unit()
        machine.on_job["stop"] = lambda _machine, _name: JobResult.FAILED
        steps = [step("stop")]
    end, events = run(machine, *steps, remediate(step("wait-ready", **CHECK), fix=(step("start"),)), **NO_PORT)
    assert (end.status, end.exit, len(finished(events))) == ("failed", 1, 1), end


def test_a_remediation_that_is_skipped_leaves_the_failure() -> None:
    machine = down()
    skipped = remediate(step("wait-ready", **CHECK), fix=(step("start"),)).model_copy(update={"when": "false"})
    end, events = run(machine, step("restart"), skipped, step("daemon-reload"), **NO_PORT)
    assert (end.status, end.step, end.verdict) == ("failed", "restart", "job-failed")
    assert [name for name, _, _ in finished(events)] == ["restart", "remediate"]


@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_checks_that_hold_for_the_old_invocation_leave_the_failure(verb: str) -> None:
    """The restart was refused, or the configuration was not read: that the old process serves is no success."""
    machine = FakeMachine(units={"gw.service": unit(can_reload=True)})
    machine.on_job[verb] = lambda _machine, _name: JobResult.FAILED
    end, events = run(machine, step(verb), remediate(step("wait-ready", **CHECK), fix=(step("start"),)), **NO_PORT)
    assert ("remediate", "ok", "holds") in finished(events)
    assert (end.status, end.step, end.verdict) == ("failed", verb, "job-failed")


def test_checks_that_hold_for_another_invocation_are_a_success() -> None:
    """The job failed, and a restart by systemd brought the unit up."""
    machine = FakeMachine(units={"gw.service": unit()})

    def come_up(machine: FakeMachine, name: str) -> JobResult | None:
        start_anew(machine, name)
        return JobResult.FAILED

    machine.on_job["restart"] = come_up
    end, _ = run(machine, step("restart"), remediate(step("wait-ready", **CHECK), fix=(step("start"),)), **NO_PORT)
    assert (end.status, end.exit) == ("ok", 0), end
    assert end.reason.endswith("; but restart failed, and the run went on")


def test_a_plan_does_not_end_at_a_step_before_a_remediation() -> None:
    machine = FakeMachine(units={"gw.service": unit(load_state=LoadState.NOT_FOUND)})
    steps = (step("restart"), remediate(step("wait-ready", **CHECK), fix=(step("start"),)))
    ended = [event.data["reason"] for event in plan(machine, *steps, **NO_PORT) if event.event == "plan-finished"]
    assert "a run would end at restart" not in ended[0]
