"""Services that a command left stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runbook.engine.stopped_services import describe_stopped_services
from runbook.host.facts import ActiveState
from runbook.host.requesters import JobRequest, Requester
from runbook.spec.step import Step
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import step

UP = ("gw.service", "other.service", "runbook-run-1-run.service")
OWN = Requester(412, ("systemctl", "stop", "gw"), "root", is_own=True)


def stopped(*requesters: Requester, made: Step[Any] | None = None) -> list[str]:
    down = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0)
    requests = (JobRequest(7, requesters),) if requesters else ()
    units = {
        "gw.service": replace(down, job_requests=requests),
        "other.service": unit("other.service"),
        "runbook-run-1-run.service": replace(down, name="runbook-run-1-run.service"),
    }
    return describe_stopped_services(FakeMachine(units=units), made or step("run", run="x"), ["gw.service"], UP)


def test_the_requester_is_named() -> None:
    named = "gw.service was stopped by a command of this run (PID 412 `systemctl stop gw` as root) at run, and is"
    assert stopped(OWN) == [f"{named} inactive (dead)"]
    assert "; something else (PID 412 `systemctl stop gw` as root) stopped it" in stopped(OWN._replace(is_own=False))[0]
    assert stopped() == ["gw.service was up before run, and is inactive (dead) now; who stopped it is not known"]


def test_what_the_step_itself_keeps_stopped_is_no_news() -> None:
    update = step("update", run="x", version="y", to="1.0", **{"stop-first": "true"})
    assert stopped(made=update) == []


def test_a_service_of_which_nothing_is_known_is_reported_for_the_units_of_the_runbook_only() -> None:
    machine = FakeMachine(units={"other.service": unit("other.service", active_state=ActiveState.INACTIVE)})
    assert describe_stopped_services(machine, step("run", run="x"), ["gw.service"], ("other.service",)) == []
    assert describe_stopped_services(machine, step("run", run="x"), ["gw.service"], ()) == []
