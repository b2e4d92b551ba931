"""Which process started another in the place of a killed one, and what `supervisors` does about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbook.actions.respawn import (
    RESPAWN_WAIT,
    SLOW_RESPAWN_WAIT,
    SUPERVISED_RESPAWN_WAIT,
    Respawn,
    explain_unknown_respawn,
    find_respawn,
    find_supervisors,
    find_wait,
    record_ancestors,
)
from runbook.host.facts import ActiveState
from runbook.host.holders import Holder, Listener, Role
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import ORPHAN

ORPHANED = Holder(process(74, ppid=50, **ORPHAN), Role.ORPHAN, "session-9.scope", "", ())
DOWN = unit(active_state=ActiveState.FAILED, main_pid=0, control_group="")


def _supervised() -> tuple[FakeMachine, RunState]:
    machine = FakeMachine(units={"gw.service": DOWN})
    parent = process(50, name="python3", command=("python3", "supervise.py"), cgroup=ORPHANED.process.cgroup)
    machine.processes |= {50: parent, 74: ORPHANED.process, 1: process(1, ppid=0)}
    run = RunState("run-1", Path("/srv"))
    record_ancestors(machine, run, ORPHANED)
    machine.kill(74)
    return machine, run


def _again(machine: FakeMachine, **changes: Any) -> Holder:
    return replace(ORPHANED, process=process(91, **{"ppid": 50, "started": machine.clock.time, **changes}))


def test_the_ancestor_of_a_killed_process_that_starts_another_is_named() -> None:
    machine, run = _supervised()
    found = find_respawn(machine, run, [ORPHANED.process.id], [_again(machine)])
    assert found is not None
    assert "PID 50 (python3) started it" in found.explain(machine, unit(), lambda _: "", enabled=False)
    targets = [ORPHANED.process.id]
    assert find_wait(machine, run, targets, thorough=False) == SUPERVISED_RESPAWN_WAIT
    assert find_wait(machine, run, [*targets, machine.processes[50].id], thorough=False) == RESPAWN_WAIT


def test_a_loop_of_a_shell_may_start_another_after_a_while() -> None:
    machine, run = _supervised()
    machine.processes[50] = replace(machine.processes[50], name="bash", command=("bash", "-c", "while :; do gw; done"))
    assert find_wait(machine, run, [], thorough=False) == RESPAWN_WAIT
    assert find_wait(machine, run, [], thorough=True) == SLOW_RESPAWN_WAIT
    machine.processes[50] = replace(machine.processes[50], command=("-bash",))
    assert find_wait(machine, run, [], thorough=True) == RESPAWN_WAIT


def test_a_process_from_before_the_kill_was_not_started_in_its_place() -> None:
    machine, run = _supervised()
    assert find_respawn(machine, run, [], [_again(machine, started=100.0)]) is None


def test_an_ancestor_of_both_is_not_blamed_for_what_an_older_child_started() -> None:
    machine, run = _supervised()
    machine.processes[60] = process(60, ppid=50, started=100.0, cgroup=ORPHANED.process.cgroup)
    assert find_respawn(machine, run, [], [_again(machine, ppid=60)]) is None
    machine.processes[60] = replace(machine.processes[60], started=machine.clock.time)
    assert find_respawn(machine, run, [], [_again(machine, ppid=60)]) is not None


def test_the_cgroup_is_the_place_to_look_for_an_unknown_starter() -> None:
    assert explain_unknown_respawn(4, ORPHANED.process).endswith(f"systemd-cgls {ORPHANED.process.cgroup}")


def test_to_stop_a_bus_is_not_advised() -> None:
    bus = process(50, name="dbus-daemon", cgroup="/system.slice/dbus.service")
    advice = Respawn("PID 74 (gw)", ORPHANED, bus).explain(FakeMachine(), unit(), lambda _: "", enabled=False)
    assert "stop it first" not in advice


SQUID = {**ORPHAN, "exe": "/usr/sbin/squid", "command": ("(squid-1)", "--kid")}
PYTHON = {**ORPHAN, "exe": "/usr/bin/python3.11"}


@pytest.mark.parametrize(
    ("worker", "master", "found"),
    [
        (SQUID, {"command": ("/usr/sbin/squid",)}, True),
        (SQUID, {"exe": "/usr/bin/make"}, False),
        (SQUID, {"cgroup": "/user.slice/user-0.slice/session-1.scope"}, False),
        # Its socket is not root's, so another user may have made it a child of root's process.
        (SQUID, {"uid": 7}, False),
        (PYTHON, {"command": ("python3", "other.py")}, False),
        (PYTHON, {}, True),
    ],
)
def test_a_parent_of_the_same_program_is_a_supervisor(
    worker: dict[str, Any], master: dict[str, Any], found: bool
) -> None:
    machine = FakeMachine(units={"gw.service": DOWN})
    machine.processes = {50: process(50, **{**worker, **master})}
    socket = Listener("tcp", "0.0.0.0", 80, inode=7, uid=8)
    holder = replace(ORPHANED, process=process(74, ppid=50, **worker), sockets=(socket,))
    supervisors = find_supervisors(machine, DOWN, [holder], None, lambda _: "")
    assert [one.process.pid for one in supervisors] == ([50] if found else [])
    assert find_supervisors(machine, DOWN, [holder], None, lambda _: "it runs as bob") == []
    machine.spared[50] = "this program was started from it"
    assert find_supervisors(machine, DOWN, [holder], None, lambda _: "") == []


def test_what_the_option_does_about_it() -> None:
    machine, run = _supervised()
    again = find_respawn(machine, run, [], [_again(machine)])
    assert again is not None
    assert [one.process.pid for one in find_supervisors(machine, DOWN, [], again, lambda _: "")] == [50]

    def advice(mismatch: str = "", *, enabled: bool = True) -> str:
        return again.explain(machine, DOWN, lambda _: mismatch, enabled=enabled)

    assert advice(enabled=False).endswith(": `supervisors: true` does that")
    assert advice("it runs as bob").endswith("; `supervisors: true` does not, because it runs as bob")
    assert advice("it runs as bob", enabled=False).endswith("or stop it first (kill 50)")


def test_a_shell_in_a_terminal_is_never_killed_for_what_is_typed_into_it() -> None:
    machine, run = _supervised()
    shell = replace(machine.processes[50], name="bash", command=("bash", "-i"), has_terminal=True)
    machine.processes[50] = shell
    again = find_respawn(machine, run, [], [_again(machine)])
    assert again is not None
    assert find_supervisors(machine, DOWN, [], again, lambda _: "") == []
    advice = again.explain(machine, DOWN, lambda _: "", enabled=True)
    assert advice.endswith("; `supervisors: true` does not, because it is an interactive shell")
    fed = replace(again, starter=replace(shell, has_terminal=False))
    assert [one.process.pid for one in find_supervisors(machine, DOWN, [], fed, lambda _: "")] == [50]
