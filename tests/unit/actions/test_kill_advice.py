"""Advice about processes: why one is not killed, which started another, and why one did not exit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from runbook.actions.kill_advice import (
    describe_stuck,
    explain_respawn,
    explain_unknown_respawn,
    find_refusal,
    has_supervisor,
    record_ancestors,
)
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.model import Port, Verdict
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import ORPHAN

ORPHANED = Holder(process(74, ppid=50, **ORPHAN), Role.ORPHAN, "session-9.scope", "", ())
ID = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab"


def _port(*holders: Holder, verdict: Verdict = Verdict.ORPHAN_HOLDS_PORT) -> PortOwnership:
    return PortOwnership(Port(80), verdict, "the reason of the port", (), holders)


def test_a_process_that_may_be_killed_is_no_reason_to_refuse() -> None:
    assert find_refusal(unit(), [_port(ORPHANED)], lambda _: "") == ""


@pytest.mark.parametrize(
    ("seen", "mismatch", "why"),
    [
        (
            _port(replace(ORPHANED, protection="it is an ancestor")),
            "",
            "ancestor; kill it by hand if it is not needed: kill 74",
        ),
        (_port(ORPHANED), "it runs as bob", "not what was expected: it runs as bob"),
        (_port(verdict=Verdict.OWNER_UNKNOWN), "", "the reason of the port"),
    ],
    ids=["protected", "unexpected", "unknown"],
)
def test_what_forbids_every_signal(seen: PortOwnership, mismatch: str, why: str) -> None:
    refusal = find_refusal(unit(), [seen], lambda _: mismatch)
    assert re.search(why, refusal), refusal


@pytest.mark.parametrize(
    ("scope", "command"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker stop 3f4f9a1b2c3d"),
        (f"/machine.slice/libpod-{ID}.scope", "podman stop 3f4f9a1b2c3d"),
        ("/machine.slice/machine-web.scope", "machinectl poweroff web"),
    ],
)
def test_a_container_is_stopped_by_its_engine(scope: str, command: str) -> None:
    inside = Holder(process(74, cgroup=scope), Role.OTHER_UNIT, "x.scope", "", (), "it belongs to a container")
    assert f"({command})" in find_refusal(unit(), [_port(inside)], lambda _: "")


def _supervised() -> tuple[FakeMachine, RunState]:
    machine = FakeMachine(processes={50: process(50, name="python3", command=("python3", "supervise.py"))})
    machine.processes |= {74: ORPHANED.process, 1: process(1, ppid=0)}
    run = RunState("run-1", Path("/srv"))
    record_ancestors(machine, run, ORPHANED)
    machine.kill(74)
    return machine, run


def test_the_ancestor_of_a_killed_process_that_starts_another_is_named() -> None:
    machine, run = _supervised()
    again = replace(ORPHANED, process=process(91, ppid=50, started=machine.clock.time))
    assert "PID 50 (python3) started it" in explain_respawn(machine, unit(), run, [ORPHANED.process.id], [again])
    assert has_supervisor(machine, run, [ORPHANED.process.id])


def test_a_process_from_before_the_kill_was_not_started_in_its_place() -> None:
    machine, run = _supervised()
    older = replace(ORPHANED, process=process(91, ppid=50, started=100.0))
    assert explain_respawn(machine, unit(), run, [], [older]) == ""


def test_the_cgroup_is_the_place_to_look_for_an_unknown_starter() -> None:
    assert explain_unknown_respawn(4, [ORPHANED]).endswith(f"systemd-cgls {ORPHANED.process.cgroup}")


def test_a_crowd_that_did_not_exit_is_counted() -> None:
    stuck = describe_stuck(FakeMachine(), [process(pid) for pid in range(100, 110)])
    assert stuck.count("is in state D") == 3
    assert stuck.endswith("and 7 more did not exit")
