"""Plans on a machine made of data: what a run would find and do, while nothing is changed."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbook import document
from runbook.engine.execution.stream import EventStream
from runbook.engine.planner import Planner
from runbook.engine.runner import Runner
from runbook.errors import Interrupted
from runbook.events import Event
from runbook.host.facts import Unit
from runbook.host.holders import PortOwnership
from runbook.host.queries import Answer
from runbook.model import Port
from runbook.records.lock import LockHolder
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import Step
from runbook.template.namespace import TemplateNamespace
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import FIX, finished, incident, plan, remediate, replace_id, step, upgrade


def planned(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.data["id"], e.data["impact"]) for e in events if e.event == "step-planned"]


def test_a_plan_tells_who_has_the_lock_and_a_check_does_not() -> None:
    def locked(planner: Planner) -> Planner:
        planner.find_lock_holders = lambda units: [LockHolder(one, 7, "20261124-1200-abc", "bob", 1.0) for one in units]
        return planner

    events = plan(incident(), step("restart"), act=lambda planner: locked(planner).plan())
    [notice] = [event.data["text"] for event in events if event.event == "notice"]
    assert notice.startswith("gw.service is locked by run 20261124-1200-abc (PID 7, user bob), since ")
    holder = {"unit": "gw.service", "pid": 7, "run": "20261124-1200-abc", "user": "bob", "since": 1.0}
    assert (events[-1].data["locked-by"], events[-1].data["exit"]) == ([holder], 0)
    checked = plan(incident(), step("verify-port-owner"), act=lambda planner: locked(planner).check())
    assert [event for event in checked if event.event == "notice"] == []
    assert "locked-by" not in plan(incident(), step("restart"))[-1].data


def test_the_plan_in_the_incident() -> None:
    events = plan(incident(), remediate(step("wait-ready"), step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert planned(events) == [
        ("remediate", "mutating"),
        ("remediate.check.wait-ready", "read-only"),
        ("remediate.check.verify-port-owner", "read-only"),
        ("remediate.fix.stop", "mutating"),
        ("remediate.fix.kill-orphan", "mutating"),
        ("remediate.fix.reset-failed", "mutating"),
        ("remediate.fix.start", "mutating"),
    ]
    kill = next(e.data for e in events if e.data.get("id") == "remediate.fix.kill-orphan")
    assert kill["evidence"]["ports"][0]["holders"][0]["pid"] == 74
    assert events[-1].data["would-change"] is True
    assert events[-1].data["exit"] == 0


def test_a_fix_that_would_certainly_refuse_is_predicted() -> None:
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")
    events = plan(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    kill = next(e.data for e in events if e.data.get("id") == "remediate.fix.kill-orphan")
    assert kill["reason"].startswith("would fail: port 80 is held by PID 981 (nginx): nginx.service is a live service")
    wait = next(e.data for e in events if e.data.get("id") == "remediate.check.wait-ready")
    assert not wait["reason"].startswith("would fail")  # It only reads, and has done so.


def test_notices_are_reported_first_in_plan_and_run() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    seen: list[Event] = []
    book = Runbook.model_validate({"unit": "gw.service", "steps": (step("start"),), "path": "x.yaml"})
    events = EventStream("r", machine.clock, (seen.append,))
    state = RunState("r", Path("/srv"))
    Planner(book, machine, machine, events, state, ("it ends with you",)).plan()
    assert [(e.event, e.data.get("text")) for e in seen][:2] == [("observed", None), ("notice", "it ends with you")]
    seen.clear()
    Runner(book, machine, machine, events, state, notices=("it ends with you",)).run()
    assert [(e.event, e.data.get("text")) for e in seen][:2] == [("run-started", None), ("notice", "it ends with you")]


def test_what_an_earlier_step_can_change_is_undetermined_and_names_it() -> None:
    events = plan(incident(), step("restart"), remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert planned(events)[:2] == [("restart", "mutating"), ("remediate", "undetermined")]
    remedy = next(e.data for e in events if e.data.get("id") == "remediate")
    assert remedy["undetermined-by"] == ["restart"]


def test_the_plan_of_a_healthy_machine_changes_nothing() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    events = plan(machine, step("start"), remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert [impact for _, impact in planned(events)] == [
        "none",
        "none",
        "read-only",
        "none",
        "none",
        "none",
        "none",
    ]
    assert events[-1].data["would-change"] is False


def test_a_when_on_a_step_that_has_not_run_is_undetermined() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers["app --version"] = [Answer(True, "", "1.0.0")]
    update = step("update", run="install", version="app --version", to="1.1.0")
    events = plan(machine, update, step("restart", when="steps.update.changed"))
    assert planned(events) == [("update", "mutating"), ("restart", "undetermined")]


def test_check_looks_at_reading_steps_only() -> None:
    machine = incident()
    events = plan(
        machine,
        step("restart"),
        remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))),
        act=Planner.check,
    )
    assert finished(events) == [("remediate.check.verify-port-owner", "failed", "orphan-holds-port")]
    assert events[-1].data["exit"] == 1


def test_a_plan_uses_the_version_that_an_update_will_install() -> None:
    """`steps.update.to` is known before the run. The output of the update, and whether it changes anything, are not."""
    book = """
        unit: gw
        port: 80
        steps:
          - update: {run: "install ${{ to }}", version: app --version, to: 1.1.0}
          - verify-version: {run: gwctl, expect: "${{ steps.update.to }}"}
          - verify-version: {run: gwctl, expect: "1.0${{ steps.update.output }}"}
    """
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    machine.answers = {"app --version": [Answer(True, "", "1.0.0")], "gwctl": [Answer(True, "", "1.0.0")]}
    seen: list[Event] = []
    runbook = document.parse(textwrap.dedent(book))
    Planner(
        runbook, machine, machine, EventStream("r", machine.clock, (seen.append,)), RunState("r", Path("/srv"))
    ).plan()
    reasons = [e.data["reason"] for e in seen if e.data.get("type") == "verify-version"]
    assert reasons == ["1.0.0 serves, not 1.1.0", "what is wanted is known once steps.update.output is"]
    assert machine.written == []


def test_a_fix_that_is_bound_to_be_refused_is_not_promised() -> None:
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")
    remedy = remediate(step("verify-port-owner"), fix=tuple(map(step, FIX)))
    events = plan(machine, remedy)
    told = {e.data["id"]: e.data for e in events if e.event == "step-planned"}
    assert {data["impact"] for data in told.values()} == {"none", "read-only"}
    assert told["remediate"]["reason"].startswith("could not fix: port 80 is held by PID 981 (nginx)")
    assert told["remediate.fix.kill-orphan"]["verdict"] == "refused-to-kill"
    assert told["remediate.fix.stop"]["reason"] == "would not be begun"
    assert events[-1].data["would-change"] is False

    after_a_restart = {e.data["id"]: e.data for e in plan(machine, step("restart"), remedy) if "impact" in e.data}
    assert after_a_restart["remediate"]["impact"] == "undetermined"
    assert after_a_restart["remediate.fix.stop"]["reason"].startswith("would stop")


def test_a_fix_that_would_be_skipped_does_nothing_in_a_plan_either() -> None:
    """The service that it would have stopped still runs, so the next fix would certainly be refused."""
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")

    def told_of(what: Step[Any], really: str) -> dict[str, Any]:
        events = plan(machine, what, namespace=TemplateNamespace(vars={"really": really}))
        return {e.data["id"]: e.data for e in events if e.event == "step-planned"}

    rival = replace_id(step("stop", unit="nginx.service", when="vars.really"), "stop-rival")
    remedy = remediate(step("verify-port-owner"), fix=(rival, *map(step, FIX)))
    told = {
        e.data["id"]: e.data
        for e in plan(machine, remedy, namespace=TemplateNamespace(vars={"really": ""}))
        if e.event == "step-planned"
    }
    assert told["remediate"]["reason"].startswith("could not fix: port 80 is held by PID 981 (nginx)")
    told = {
        e.data["id"]: e.data
        for e in plan(machine, remedy, namespace=TemplateNamespace(vars={"really": "yes"}))
        if e.event == "step-planned"
    }
    assert told["remediate"]["impact"] == "mutating"

    other = remediate(replace_id(step("verify-port-owner", when="vars.really"), "a"), fix=tuple(map(step, FIX)))
    told = {
        e.data["id"]: e.data
        for e in plan(machine, other, namespace=TemplateNamespace(vars={"really": ""}))
        if e.event == "step-planned"
    }
    assert told["remediate"]["verdict"] == "holds"
    assert told["remediate.check.a"]["reason"] == "would be skipped: `when` is false (vars.really)"


def test_check_skips_what_a_run_would_skip_and_leaves_fixes_alone() -> None:
    machine = incident()
    fixes = (step("verify-port-owner"), step("stop"))
    events = plan(
        machine,
        step("verify-port-owner", id="never", when="run.id == 'other'"),
        step("verify-port-owner", id="perhaps", when="steps.never.changed"),
        remediate(step("verify-port-owner"), fix=fixes, when="run.id == 'other'"),
        remediate(step("verify-port-owner"), fix=fixes),
        act=Planner.check,
    )
    told = [(e.data["id"], e.data["status"]) for e in events if e.event == "step-finished"]
    nested = "remediate.check.verify-port-owner"
    assert told == [("never", "skipped"), ("perhaps", "skipped"), (nested, "skipped"), (nested, "failed")]


@pytest.mark.parametrize(
    ("answer", "notice"),
    [
        (
            Answer(True, "", "1.0.0"),
            "cannot begin: systemd has no unit gatewey.service; did you mean gateway.service?"
            " If update creates it, name gatewey.service in the command",
        ),
        (Answer(False, "not found"), "systemd has no unit gatewey.service yet; did you mean gateway.service?"),
    ],
)
def test_an_unknown_unit_is_reported_with_a_similar_name(answer: Answer[str], notice: str) -> None:
    machine = FakeMachine(units={"gateway.service": unit("gateway.service")}, processes={100: process(100)})
    machine.answers["app --version"] = [answer]
    update = step("update", run="install", version="app --version", to="1.1.0")
    events = plan(machine, update, step("restart", unit="gatewey.service"))
    assert [e.data["text"] for e in events if e.event == "notice"] == [notice]


def test_a_plan_reports_where_a_run_would_end() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers["whose data"] = [Answer(False, "exited with status 1")]
    guard = step("run", id="guard", run="whose data", **{"read-only": True})
    assert plan(machine, guard, step("restart"))[-1].data["reason"] == "nothing was changed; a run would end at guard"
    passed_over = guard.model_copy(update={"on_failure": "continue"})
    assert plan(machine, passed_over, step("restart"))[-1].data["reason"] == "nothing was changed"


@pytest.mark.parametrize("act", [Planner.plan, Planner.check])
def test_a_signal_during_a_check_ends_the_plan(act: Callable[[Planner], object]) -> None:
    """It is not a failure of the step that was being checked."""

    class Stopped(FakeMachine):
        def judge_port(
            self, unit: Unit, port: Port, *, max_age: float = 0.0, shared_with: tuple[str, ...] = ()
        ) -> PortOwnership:
            if looks and looks.pop():
                raise Interrupted(signal.SIGTERM)
            return super().judge_port(unit, port, max_age=max_age, shared_with=shared_with)

    looks = [True, False]  # The first look is at the state before all steps.
    machine = Stopped(units={"gw.service": unit()}, processes={100: process(100)})
    events = plan(machine, step("verify-port-owner"), step("verify-port-owner", id="again"), act=act)
    assert (events[-1].data["status"], events[-1].data["exit"]) == ("interrupted", 143)
    assert [e.event for e in events[:-1]] == ["observed"]


def hint(*steps: Step[Any], machine: FakeMachine | None = None) -> str:
    events = plan(machine or incident(), *steps, act=Planner.check)
    return str(events[-1].data["hint"])


def test_a_check_names_the_command_that_fixes_what_it_found() -> None:
    told = hint(*upgrade())
    assert told == (
        "runbook remediate x.yaml checks again, and fixes only if a check fails: stop, kill-orphan, reset-failed, start"
    )


def test_before_the_upgrade_a_check_names_the_command_that_upgrades_first() -> None:
    served = step("verify-version", run="serves", expect="1.1.0")
    events = plan(
        healthy(version="1.0.0", serves="1.0.0"),
        upgrades(),
        remediate(served, fix=(step("stop"), step("start"))),
        act=lambda planner: replace(planner, options=("--user", "--set", "note=a b")).check(),
    )
    options = "--user --set 'note=a b' x.yaml"
    assert events[-1].data["hint"] == (
        f"runbook apply {options} carries out the upgrade; runbook remediate {options} checks again, and fixes only"
        " what runs now: stop, start"
    )


def test_a_check_that_may_not_read_the_owner_advises_the_check_as_root() -> None:
    machine = incident()
    machine.processes.pop(74)
    machine.hidden = 1
    told = hint(*upgrade(), machine=machine)
    assert told == "sudo runbook check x.yaml reads every process"
    assert hint(step("verify-port-owner"), machine=machine) == told


def test_a_check_names_no_fix_that_would_be_refused_or_not_help() -> None:
    spared = incident()
    spared.spared = {74: "it is a terminal multiplexer"}
    assert hint(*upgrade(), machine=spared).startswith("runbook remediate would not fix this: ")
    only_restarts = remediate(step("verify-port-owner"), fix=(step("restart"),))
    assert hint(only_restarts) == "a `remediate` step with kill-orphan as a fix solves this"
    assert "runbook remediate" not in hint(step("verify-port-owner"))


def healthy(**answers: str) -> FakeMachine:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "127.0.0.1:80")
    machine.answers = {name.replace("_", " "): [Answer(True, "", text)] for name, text in answers.items()}
    return machine


def reads(**fields: str) -> Step[Any]:
    return step("run", run="look", **{"read-only": "true", **fields})


def upgrades() -> Step[Any]:
    return step("update", run="install", version="version", to="1.1.0")


@pytest.mark.parametrize(("when", "impact"), [("steps.run.output == 'yes'", "mutating"), ("steps.run.changed", "none")])
def test_a_when_on_a_step_that_has_just_run_is_evaluated(when: str, impact: str) -> None:
    events = plan(healthy(look="yes"), reads(), step("restart", when=when))
    assert planned(events) == [("run", "read-only"), ("restart", impact)]


def test_a_result_that_an_earlier_step_can_change_leaves_a_doubt() -> None:
    when = {"restart": "steps.run.output == 'yes'", "stop": "steps.run.output == 'no'"}
    steps = [step(name, when=condition) for name, condition in when.items()]
    events = plan(healthy(look="yes", version="1.0.0"), upgrades(), reads(), *steps)
    doubted = [(e.data["id"], e.data["impact"], e.data.get("undetermined-by")) for e in events if "impact" in e.data]
    assert doubted[2:] == [("restart", "undetermined", ["update"]), ("stop", "undetermined", ["update"])]
    assert "would be skipped" in events[-2].data["reason"]


def test_a_step_with_nothing_to_do_has_changed_nothing() -> None:
    events = plan(healthy(version="1.1.0"), upgrades(), step("restart", when="steps.update.changed"))
    assert planned(events) == [("update", "none"), ("restart", "none")]
    assert events[-2].data["reason"] == "would be skipped: `when` is false (steps.update.changed)"


def test_a_check_evaluates_a_when_on_an_earlier_check() -> None:
    events = plan(healthy(look="yes"), reads(), reads(id="again", when="steps.run.output == 'no'"), act=Planner.check)
    assert finished(events) == [("run", "ok", "command-done"), ("again", "skipped", None)]


def test_a_check_of_the_new_version_is_not_called_a_fault_before_the_update() -> None:
    served = step("verify-version", run="serves", expect="1.1.0")
    events = plan(healthy(version="1.0.0", serves="1.0.0"), upgrades(), remediate(served, fix=(step("restart"),)))
    summary = next(e.data for e in events if e.data.get("id") == "remediate")
    assert summary["reason"] == "would check then, and fix only if a check fails"
    assert (summary["impact"], summary["undetermined-by"]) == ("undetermined", ["update"])
    alone = plan(healthy(serves="1.0.0"), remediate(served, fix=(step("restart"),)))
    assert next(e.data for e in alone if e.data.get("id") == "remediate")["reason"].startswith("would fix: ")
