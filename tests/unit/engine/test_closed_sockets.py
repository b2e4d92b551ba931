"""Which socket units stay closed beside their service, and the sentence about each."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.closed_sockets import find_closed_sockets, list_open_sockets
from runbook.host.facts import ActiveState, JobResult, LoadState, Unit
from runbook.spec.runbook import Runbook
from tests.unit.fake_machine import FakeMachine, listen, process, start_anew, unit
from tests.unit.runs import run, step

FAILED = {"active_state": ActiveState.FAILED, "sub_state": "failed", "result": "resources"}
CLOSED = {"active_state": ActiveState.INACTIVE, "sub_state": "dead"}


def socket(**facts: Any) -> Unit:
    listens = {"listen": (("Stream", "[::]:80"),), "triggers": ("gw.service",)}
    return Unit("gw.socket", **{**listens, **facts})


def machine(one: Unit, **service: Any) -> FakeMachine:
    """Return a machine whose service listens by itself."""
    made = FakeMachine(units={"gw.service": unit(**service), "gw.socket": one}, processes={100: process(100)})
    listen(made, 100, "127.0.0.1:80")
    return made


def book(*steps: Any) -> Runbook:
    return Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps or (step("restart"),)})


@pytest.mark.parametrize(
    ("facts", "was_open", "named"),
    [
        (FAILED, False, True),
        (CLOSED | {"unit_file_state": "enabled"}, False, True),
        (CLOSED | {"unit_file_state": "static"}, True, True),
        (CLOSED | {"unit_file_state": "static"}, False, False),
        (CLOSED | {"unit_file_state": "disabled"}, True, False),
        (FAILED | {"load_state": LoadState.MASKED}, True, False),
        ({"active_state": ActiveState.ACTIVE, "sub_state": "listening"}, True, False),
        (FAILED | {"triggers": ("other.service",)}, True, False),
    ],
    ids=["failed", "enabled", "static", "never open", "disabled", "masked", "open", "another's"],
)
def test_which_socket_is_named(facts: dict[str, Any], was_open: bool, named: bool) -> None:
    were_open = {"gw.socket"} if was_open else ()
    assert (find_closed_sockets(machine(socket(**facts)), book(), were_open).keys() == {"gw.socket"}) is named


def test_a_socket_that_the_runbook_stops_is_meant_to_be_closed() -> None:
    stopped = book(step("stop", unit="gw.socket"), step("restart"))
    assert find_closed_sockets(machine(socket(**CLOSED)), stopped, {"gw.socket"}) == {}


def test_beside_a_service_that_is_down_it_may_be_closed() -> None:
    down = machine(socket(**FAILED), active_state=ActiveState.FAILED, main_pid=0)
    assert find_closed_sockets(down, book(), {"gw.socket"}) == {}


def test_the_sentence_names_both_addresses_and_the_commands() -> None:
    found = find_closed_sockets(machine(socket(**FAILED)), book(step("stop"), step("start")), {"gw.socket"})
    assert found["gw.socket"] == (
        "gw.socket was up before, and is failed, Result resources, while gw.service runs and listens on 127.0.0.1:80 "
        "by itself; gw.socket would listen on [::]:80; systemd opens it only while the service is down: systemctl stop "
        "gw.service, then systemctl start gw.socket gw.service; in the runbook, a `start` of gw.socket before that of "
        "gw.service does this"
    )


def test_a_run_reports_a_socket_that_it_closed_once() -> None:
    """systemd stops it together with the service, so it is one of the units that need the service, too."""
    opened = socket(active_state=ActiveState.ACTIVE, sub_state="listening", unit_file_state="static")
    made = machine(opened, required_by=("gw.socket",), triggered_by=("gw.socket",))
    assert list_open_sockets(made, book()) == {"gw.socket"}

    def restart(on: FakeMachine, name: str) -> JobResult:
        start_anew(on, name)
        on.units["gw.socket"] = socket(**CLOSED, unit_file_state="static")
        return JobResult.DONE

    made.on_job["restart"] = restart
    end, events = run(made, step("restart"))
    texts = [event.data["text"] for event in events if event.event == "notice" and "gw.socket" in event.data["text"]]
    assert end.exit == 0
    assert [text.partition(", and is")[0] for text in texts if "was up before" in text] == ["gw.socket was up before"]
