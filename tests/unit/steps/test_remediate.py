"""Remediations on a machine made of data: no half a fix, and no fix where waiting is right."""

from __future__ import annotations

from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import FIX, finished, incident, remediate, run, step, upgrade


def test_the_incident_is_healed() -> None:
    machine = incident()
    end, events = run(
        machine,
        *upgrade(),
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
        ("remediate", "remediated", "fixed"),
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


def test_a_remediation_can_be_tried_again() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    _, events = run(machine, remediate(step("verify-port-owner"), fix=(step("restart"),), retries="1"))
    assert machine.written == ["restart gw.service"] * 2
    assert events[-2].data["attempts"] == 2
