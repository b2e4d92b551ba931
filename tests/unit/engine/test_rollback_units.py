"""Which units a rollback restarts, and when they are proved to run the restored files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from runbook.engine.rollback_units import (
    FoundUnits,
    NewFiles,
    describe_unproved,
    find_changed_units,
    find_named_units,
    find_new_files,
    find_other_units,
    find_started_units,
)
from runbook.events import Event, Payload, RollbackStarted, StepActing, StepFinished
from runbook.host.facts import ActiveState, Unit
from runbook.host.requesters import JobRequest, Requester
from runbook.spec.step import Runbook, Step
from runbook.steps import registry
from tests.unit.fake_machine import EPOCH, FakeMachine, process, unit
from tests.unit.runs import replace_id, step


def book(*steps: Step[Any], **fields: Any) -> Runbook:
    return Runbook.model_validate({"unit": "gw.service", "steps": steps, "types": registry(), **fields})


def events(*payloads: tuple[float, Payload]) -> list[Event]:
    return [Event.of(EPOCH + at, "run-1", payload) for at, payload in payloads]


def acting(name: str) -> StepActing:
    return StepActing(id=name, type="run", reason="run it", evidence={})


def ended(name: str) -> StepFinished:
    return StepFinished(
        id=name, type="run", status="changed", verdict=None, reason="", attempts=1, seconds=1, evidence={}
    )


ACTED = events((990.0, acting("run")), (995.0, ended("run")))
"""A step acted from 990 to 995 seconds after the boot; now it is 1000."""


def test_the_units_of_the_runbook_are_those_it_starts_reloads_or_checks() -> None:
    made = book(
        step("restart"),
        step("reload", unit="web.service"),
        step("verify-port-owner", unit="db.service"),
        step("wait-ready", unit="app.socket"),
    )
    assert find_named_units(made) == ["gw.service", "web.service", "db.service"]
    assert find_named_units(made, ()) == ["gw.service", "db.service"]
    assert find_started_units(book(step("reload"))) == ["gw.service"]
    assert find_changed_units(made, ["reload"]) == ["web.service"]


def found(*units: Unit, named: Iterable[str] = ("gw.service",)) -> FoundUnits:
    machine = FakeMachine(units={one.name: one for one in (unit(), *units)})
    return find_other_units(machine, book(step("run", run="/opt/migrate")), ACTED, named)


def at(seconds: float) -> int:
    return int(seconds * 1e6)


def began(seconds: float, before: float = 0.0, **changes: Any) -> Unit:
    """Return a service whose invocation began at a time, after an end of the previous one."""
    times = {"inactive_exit_monotonic": at(seconds), "exec_main_start_monotonic": at(seconds)}
    ends = {"active_exit_monotonic": at(before), "inactive_enter_monotonic": at(before)} if before else {}
    none_before = {} if before else {"inactive_enter_monotonic": 0}
    return unit("worker.service", **{**times, **none_before, **ends, **changes})


@pytest.mark.parametrize(
    "worker",
    [
        began(992, before=991),
        began(998, before=994),  # It was slow to stop.
        began(992),
        began(900, exec_main_start_monotonic=at(992)),
        began(900, reload_monotonic=at(992)),
        began(992, before=991, bus_name="org.example"),
        began(992, before=991, triggered_by=("worker.socket",)),
    ],
)
def test_a_service_that_changed_while_a_step_acted_is_restarted(worker: Unit) -> None:
    assert found(worker).restart == ("worker.service",)


@pytest.mark.parametrize(
    "worker",
    [
        began(900),
        began(998),
        began(992, bus_name="org.freedesktop.hostname1"),
        began(992, triggered_by=("worker.socket",)),
        began(992, is_transient=True),
        began(992, activation=(("trigger_unit", "worker.timer"), ("trigger_timer_monotonic_usec", str(at(992))))),
        replace(began(992), name="systemd-hostnamed.service"),
        replace(began(992, before=991), name="user@1000.service"),
        replace(began(992, before=991), name="dbus.service"),
        replace(began(992, before=991), name="other.service", names=("other.service", "gw.service")),
    ],
)
def test_a_service_that_did_not_or_that_was_started_on_demand_is_left_alone(worker: Unit) -> None:
    assert found(worker) == FoundUnits((), ())


def test_the_requester_decides_if_it_is_known() -> None:
    own = Requester(500, ("systemctl", "start", "worker"), "root", is_own=True)
    other = Requester(600, ("systemctl", "restart", "worker"), "root")
    crashing = began(999, job_requests=(JobRequest(7, (own,)), JobRequest(8)))
    assert found(crashing).restart == ("worker.service",)
    foreign = found(began(992, before=991, job_requests=(JobRequest(7, (other,)),)))
    assert foreign.restart == ()
    assert "worker.service was restarted by something else (PID 600 `systemctl restart worker`" in foreign.left_alone[0]


def proved(**changes: Any) -> str:
    fields = {"started": 999.0, **changes.pop("process", {})}
    machine = FakeMachine(
        units={"gw.service": unit(**changes)}, processes={100: process(100), 101: process(101, **fields)}
    )
    machine.processes[100] = process(100, started=999.0)
    return describe_unproved(machine, ["gw.service"], NewFiles(EPOCH + 990, EPOCH + 998)).get("gw.service", "")


def test_every_process_must_be_younger_than_the_restored_files() -> None:
    assert proved() == ""
    assert proved(process={"started": 997.99}) == ""  # The kernel counts in ticks.
    assert proved(process={"started": 995.0}) == "gw.service: PID 101 (gateway) started before the files were restored"
    assert proved(process={"started": 995.0, "dead": True}) == ""


def test_a_process_that_a_stop_spares_may_be_older_than_the_run() -> None:
    assert proved(process={"started": 900.0}, kill_mode="process") == ""
    assert "PID 101" in proved(process={"started": 900.0}, kill_mode="control-group")
    assert "PID 101" in proved(process={"started": 995.0}, kill_mode="process")


def test_a_unit_that_is_down_is_not_proved_unless_its_work_is_done() -> None:
    assert proved(active_state=ActiveState.FAILED, sub_state="failed") == "gw.service is failed, PID 100"
    assert proved(active_state=ActiveState.INACTIVE, type="oneshot") == ""


def test_without_a_process_the_invocation_must_be_new() -> None:
    old = FakeMachine(units={"gw.service": unit(main_pid=0)})
    new = FakeMachine(units={"gw.service": unit(main_pid=0, inactive_exit_monotonic=at(999))})
    files = NewFiles(EPOCH + 990, EPOCH + 998)
    assert "its invocation began before" in describe_unproved(old, ["gw.service"], files)["gw.service"]
    assert describe_unproved(new, ["gw.service"], files) == {}


def test_the_files_are_new_from_the_first_action_to_the_last_undone_update() -> None:
    steps = [
        (990.0, acting("update")),
        (996.0, RollbackStarted(failed="run", updates=())),
        (997.0, ended("rollback.update")),
    ]
    assert find_new_files(events(*steps), ["rollback.update"]) == NewFiles(EPOCH + 990, EPOCH + 997)
    assert find_new_files(events(*steps), []) == NewFiles(EPOCH + 990, EPOCH + 996)


def test_a_unit_that_changed_without_a_known_requester_counts_only_during_a_command_of_this_run() -> None:
    machine = FakeMachine(units={"gw.service": unit(), "worker.service": began(992, before=991)})
    command, job = book(step("run", run="/opt/migrate")), book(replace_id(step("restart"), "run"))
    assert find_other_units(machine, command, ACTED, ["gw.service"]).restart == ("worker.service",)
    assert find_other_units(machine, command, ACTED, ["gw.service"], {"worker.service"}) == FoundUnits((), ())
    assert find_other_units(machine, job, ACTED, ["gw.service"]) == FoundUnits((), ())
    # Or together with a unit on which the run acted.
    machine.units["gw.service"] = unit(wants=("worker.service",))
    assert find_other_units(machine, job, ACTED, ["gw.service"]).restart == ("worker.service",)


def test_ids_of_steps_do_not_matter() -> None:
    made = book(step("restart"), replace_id(step("restart", unit="web.service"), "restart-2"))
    assert find_named_units(made, ()) == ["gw.service", "web.service"]


def test_the_running_service_behind_a_socket_is_restarted() -> None:
    socket = unit("gw.socket", triggers=("worker.service", "each@.service"), main_pid=0)
    machine = FakeMachine(units={"gw.socket": socket, "worker.service": began(900)})
    made = Runbook.model_validate({"unit": "gw.socket", "steps": [step("wait-ready", unit="gw.socket")]})
    assert find_other_units(machine, made, ACTED, ["gw.socket"]).restart == ("worker.service",)
    machine.units["worker.service"] = replace(began(900), active_state=ActiveState.INACTIVE)
    assert find_other_units(machine, made, ACTED, ["gw.socket"]).restart == ()
