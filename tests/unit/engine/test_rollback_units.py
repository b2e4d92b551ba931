"""Which units a rollback restarts, and when they are proved to run the restored files."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.rollback_units import (
    FoundUnits,
    NewFiles,
    describe_unproved,
    find_active_triggers,
    find_changed_units,
    find_named_units,
    find_new_files,
    find_other_units,
    find_started_units,
)
from runbook.events import Event, Payload, RollbackStarted, StepActing, StepFinished
from runbook.host.facts import ActiveState, Unit
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
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


def at(seconds: float) -> int:
    return int(seconds * 1e6)


def worker(**changes: Any) -> Unit:
    return unit("worker.service", **changes)


def found(*units: Unit, **judgement: Any) -> FoundUnits:
    machine = FakeMachine(units={one.name: one for one in (unit(), *units)})
    evidence = {key.replace("_", "-"): value for key, value in judgement.items()}
    return find_other_units(machine, book(step("run", run="/opt/migrate")), ["gw.service"], [{}, evidence])


def test_what_a_step_changed_is_restarted() -> None:
    assert found(worker(), changed_services=["worker.service"]) == FoundUnits(("worker.service",), ())
    assert found(worker(), changed_services=None) == FoundUnits((), ())


@pytest.mark.parametrize(
    "one",
    [
        worker(active_state=ActiveState.INACTIVE),
        worker(names=("worker.service", "gw.service")),
        unit("user@1000.service"),
    ],
)
def test_what_the_runbook_names_or_is_down_by_now_is_not_restarted_for_it(one: Unit) -> None:
    assert found(one, changed_services=[one.name]) == FoundUnits((), ())


def test_what_another_client_restarted_is_reported_unless_the_run_did_so_too() -> None:
    left = {"worker.service": "worker.service was restarted by PID 600"}
    assert found(worker(), left_services=left) == FoundUnits((), tuple(left.values()))
    assert found(worker(), left_services=left, changed_services=["worker.service"]).left_alone == ()
    assert found(left_services={"gw.service": "gw.service was restarted by PID 600"}) == FoundUnits((), ())


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


def test_ids_of_steps_do_not_matter() -> None:
    made = book(step("restart"), replace_id(step("restart", unit="web.service"), "restart-2"))
    assert find_named_units(made, ()) == ["gw.service", "web.service"]


def test_the_running_service_behind_a_socket_is_restarted() -> None:
    socket = unit("gw.socket", triggers=("worker.service", "each@.service"), main_pid=0)
    machine = FakeMachine(units={"gw.socket": socket, "worker.service": worker()})
    made = Runbook.model_validate({"unit": "gw.socket", "steps": [step("wait-ready", unit="gw.socket")]})
    assert find_other_units(machine, made, ["gw.socket"], []).restart == ("worker.service",)
    machine.units["worker.service"] = worker(active_state=ActiveState.INACTIVE)
    assert find_other_units(machine, made, ["gw.socket"], []).restart == ()


def test_active_triggers_are_found_with_sockets_first() -> None:
    names = ("gw.path", "gw.socket", "gw.timer")
    machine = FakeMachine(units={"gw.service": unit(triggered_by=names)} | {name: unit(name) for name in names})
    machine.units["gw.timer"] = unit("gw.timer", active_state=ActiveState.INACTIVE)
    assert find_active_triggers(machine, book(step("restart"), rollback="auto")) == {
        "gw.service": ["gw.socket", "gw.path"]
    }
    assert find_active_triggers(machine, book(step("restart"), rollback="off")) == {}
