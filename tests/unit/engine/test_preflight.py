"""Before a run begins: where it was started, whether its units exist, and what depends on them."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.preflight import check_units_exist, find_dependents, is_main_of_stopped_unit
from runbook.errors import AccessDenied, NotBegun
from runbook.host.facts import ActiveState, Unit
from runbook.host.queries import Answer
from runbook.model import Finding, Verdict, fails
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import run, step


def test_a_program_that_cannot_leave_the_unit_that_it_would_stop_does_not_begin() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)}, inside="gw.service", stuck=True)
    end, _ = run(machine, step("restart"))
    assert (end.exit, machine.written) == (5, ["scope run-1"])
    assert "inside gw.service" in end.reason
    assert "systemd-run --scope" in end.hint


@pytest.mark.parametrize(
    "where", [{"inside": "gw.service"}, {"inside": "needs.service"}, {"session": "session-3.scope"}]
)
def test_what_would_take_the_run_along_is_left_before_anything_is_done(where: dict[str, str]) -> None:
    units = {"gw.service": unit(required_by=("needs.service",)), "needs.service": unit("needs.service")}
    machine = FakeMachine(units=units, processes={100: process(100)}, **where)  # type: ignore[arg-type]
    end, events = run(machine, step("restart"))
    assert (end.exit, machine.written) == (0, ["scope run-1", "restart gw.service"])
    assert events[0].data["left"] == next(iter(where.values()))


def test_a_login_that_cannot_be_left_is_reported_and_the_run_continues() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, session="session-3.scope", stuck=True)
    machine.refuse = {"scope": AccessDenied("cannot move to runbook-run-1.scope: Access denied")}
    end, events = run(machine, step("restart"))
    assert (end.exit, machine.written) == (0, ["scope run-1", "restart gw.service"])
    [notice] = [event.data["text"] for event in events if event.event == "notice"]
    assert notice == (
        "this run stays in the login session session-3.scope, and may end with it: "
        "cannot move to runbook-run-1.scope: Access denied"
    )


def test_a_run_that_is_inside_a_unit_which_it_only_looks_at_stays() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)}, inside="gw.service")
    _, events = run(machine, step("verify-port-owner"))
    assert machine.written == []
    assert "left" not in events[0].data


def never(step: Step[Any]) -> None:
    """Find nothing: no update is installed."""


def book(*steps: Step[Any]) -> Runbook:
    return Runbook.model_validate({"unit": "gw.service", "steps": steps, "path": "x.yaml"})


def test_a_unit_that_no_step_can_create_is_refused_with_a_similar_name() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    with pytest.raises(NotBegun, match=r"^cannot begin: .*gx\.service") as refused:
        check_units_exist(machine, book(step("restart", unit="gx.service")), never)
    assert refused.value.hint == "did you mean gw.service?"


def test_a_unit_that_a_command_may_create_is_a_doubt() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    install = step("run", run="install gx")
    [doubt] = check_units_exist(machine, book(install, step("restart", unit="gx.service")), never)
    assert "gx.service yet" in doubt
    assert check_units_exist(machine, book(install, step("restart", unit="other.service")), never) == []


UPDATE = step("update", run="install app", version="app --version", to="2.0.0")
FIRST = fails(Verdict.VERSION_MISMATCH, "nothing -> 2.0.0", **{"from": None})
AGAIN = fails(Verdict.VERSION_MISMATCH, "1.0.0 -> 2.0.0", **{"from": "1.0.0"})


@pytest.mark.parametrize(
    ("creator", "name", "found", "begins"),
    [
        # A unit of a similar name exists, so a command that does not name the missing one hardly creates it.
        (step("run", run="backup"), "gx.service", None, False),
        (step("run", run=("backup", "all")), "gx.service", None, False),
        (step("run", run="cat gx.service", **{"read-only": True}), "gx.service", None, False),
        (step("daemon-reload"), "gx.service", None, False),
        (step("run", run="./install-gx.sh"), "gx.service", None, True),
        (step("run", run=("systemctl", "link", "/srv/gx.service")), "gx.service", None, True),
        (step("run", run="make gx"), "gx@1.service", None, True),
        (step("run", run="backup"), "other.service", None, True),
        # The units of software that is installed exist already; those of a first installation do not.
        (UPDATE, "gx.service", AGAIN, False),
        (UPDATE, "other.service", AGAIN, False),
        (UPDATE, "app.service", AGAIN, True),
        (UPDATE, "gx.service", FIRST, True),
        (UPDATE, "other.service", FIRST, True),
        (UPDATE, "other.service", None, True),
    ],
)
def test_whether_a_step_may_create_a_missing_unit(
    creator: Step[Any], name: str, found: Finding | None, begins: bool
) -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    steps = book(creator, step("restart", unit=name))
    if not creator.only_reads():
        check_units_exist(machine, steps, None)  # A run that is resumed is not judged again.
    if begins:
        check_units_exist(machine, steps, lambda step: found)
        return
    with pytest.raises(NotBegun, match=name) as refused:
        check_units_exist(machine, steps, lambda step: found)
    assert ("did you mean gw.service?" in refused.value.hint) == (name == "gx.service")
    names_it = f"f {creator.step_id} creates it, name {name} in the command"
    assert refused.value.hint.endswith(names_it) or creator.only_reads()


def test_units_that_need_a_changed_unit_are_found_over_several_others() -> None:
    names = {"gw.service": ("app.service",), "app.service": ("web.service", "down.service")}
    machine = FakeMachine(units={name: unit(name, required_by=after) for name, after in names.items()})
    machine.units |= {"web.service": unit("web.service")}
    machine.units["down.service"] = unit("down.service", active_state=ActiveState.INACTIVE)
    assert find_dependents(machine, book(step("restart"))) == {"app.service": "gw.service", "web.service": "gw.service"}
    assert find_dependents(machine, book(step("verify-port-owner"))) == {}


def test_the_main_process_counts_only_for_a_unit_that_the_run_stops() -> None:
    class Main(FakeMachine):
        def is_main(self, unit: Unit) -> bool:
            return unit.name == "gw.service"

    machine = Main(units={"gw.service": unit()})
    assert is_main_of_stopped_unit(machine, book(step("restart")))
    assert not is_main_of_stopped_unit(machine, book(step("verify-port-owner")))


def downgrade(**fields: Any) -> Step[Any]:
    return step("update", run="install", version="app --version", to="1.0.0", **fields)


@pytest.mark.parametrize("before", [(), ("run",), ("daemon-reload", "restart")])
def test_a_downgrade_is_refused_before_anything_is_changed(before: tuple[str, ...]) -> None:
    machine = FakeMachine(units={"gw.service": unit()}, answers={"app --version": [Answer(True, "", "2.0.0")]})
    steps = [step(name, run="touch x") if name == "run" else step(name) for name in before]
    end, _ = run(machine, *steps, downgrade())
    assert (str(end.status), end.exit, machine.written) == ("not-begun", 5, [])
    assert "update: 2.0.0 -> 1.0.0 is a downgrade" in end.reason
    assert "`downgrade: true`" in end.hint


@pytest.mark.parametrize(
    ("fields", "status"), [({"downgrade": "true"}, "failed"), ({"when": "false"}, "changed"), ({"to": "3.0"}, "failed")]
)
def test_no_other_update_is_refused(fields: dict[str, str], status: str) -> None:
    """The command of this machine does not change the version."""
    machine = FakeMachine(units={"gw.service": unit()}, answers={"app --version": [Answer(True, "", "2.0.0")]})
    end, _ = run(machine, step("restart"), downgrade().model_copy(update={"to": "1.0.0"}), rollback="off")
    assert end.exit == 5
    made = step("update", run="install", version="app --version", **{"to": "1.0.0", **fields})
    machine.written.clear()
    end, _ = run(machine, step("run", run="touch x"), made)
    assert (str(end.status), machine.written[0]) == (status, "command touch x")
