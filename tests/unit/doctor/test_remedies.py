"""The commands: which ones, in which order, for which user and manager, and what needs a decision first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.host.facts import ActiveState, LoadState
from runbook.model import Port, ProcessId
from tests.unit.doctor.diagnosed import FAILED, diagnose, healthy, incident, orphan
from tests.unit.fake_machine import FakeMachine, listen, process, unit


def commands(machine: FakeMachine, uid: int = 0) -> list[str]:
    return [command for command in diagnose(machine, uid=uid).commands if not command.startswith("timeout")]


DOWN = unit(**FAILED)


@pytest.mark.parametrize(
    ("changes", "uid", "expected"),
    [
        ({}, 0, ["systemctl stop gw.service", "kill 74", "systemctl start gw.service"]),
        ({}, 1000, ["sudo systemctl stop gw.service", "kill 74", "sudo systemctl start gw.service"]),
        ({}, 1001, ["sudo systemctl stop gw.service", "sudo kill 74", "sudo systemctl start gw.service"]),
        (FAILED, 0, ["systemctl reset-failed gw.service", "kill 74", "systemctl start gw.service"]),
    ],
)
def test_an_orphan(changes: dict[str, Any], uid: int, expected: list[str]) -> None:
    assert commands(incident(**changes), uid) == expected


def test_a_unit_of_a_user_needs_no_sudo() -> None:
    machine = FakeMachine({"gw.service": unit(**FAILED, of_user=True)})
    assert commands(machine, 1000) == [
        "systemctl --user reset-failed gw.service",
        "systemctl --user start gw.service",
    ]


def test_an_orphan_beside_a_unit_that_listens_too_is_all_that_goes() -> None:
    machine = incident()
    listen(machine, 100, "0.0.0.0:18789")
    assert commands(machine) == ["kill 74"]


def test_a_process_that_must_not_be_killed_is_stopped_by_its_own_unit() -> None:
    machine = incident()
    machine.units["nginx.service"] = unit("nginx.service", main_pid=74, control_group="/system.slice/nginx.service")
    machine.processes[74] = process(74, name="nginx", cgroup="/system.slice/nginx.service")
    found = diagnose(machine)
    assert found.decision.text.endswith("; stop it or give one of them another port")
    assert found.decision.commands == ("systemctl stop nginx.service",)
    assert found.commands == ("systemctl restart gw.service",)


def test_a_unit_that_fails_by_itself_needs_its_log_first() -> None:
    found = diagnose(FakeMachine({"gw.service": DOWN}))
    assert found.decision == ("find out why it exits", ("journalctl -u gw.service -n 30",))
    assert commands(FakeMachine({"gw.service": DOWN})) == [
        "systemctl reset-failed gw.service",
        "systemctl start gw.service",
    ]


def test_a_file_that_systemd_cannot_load() -> None:
    broken = unit(load_state=LoadState.BAD_SETTING, active_state=ActiveState.INACTIVE)
    found = diagnose(FakeMachine({"gw.service": broken}))
    assert found.commands == ()
    assert found.decision == ("find out what is wrong with its file", ("systemd-analyze verify gw.service",))


def test_a_healthy_unit_and_one_with_a_changed_file() -> None:
    assert commands(healthy()) == []
    assert commands(healthy(need_daemon_reload=True)) == [
        "systemctl daemon-reload",
        "systemctl restart gw.service",
    ]
    # systemd refuses to restart it, or what is connected to it would not survive that.
    assert commands(healthy(need_daemon_reload=True, refuse_manual_stop=True))[-1] == "systemctl reboot"
    machine = incident(need_daemon_reload=True)
    assert commands(machine)[:2] == ["systemctl daemon-reload", "systemctl stop gw.service"]


@pytest.mark.parametrize("name", ["reboot.target", "rescue.service"])
def test_a_start_that_would_end_what_the_machine_does_is_no_fix(name: str) -> None:
    down: dict[str, Any] = {
        "active_state": ActiveState.INACTIVE,
        "sub_state": "dead",
        "main_pid": 0,
        "inactive_enter_monotonic": 0,
    }
    machine = FakeMachine(units={name: replace(unit(**down), name=name)})
    assert diagnose(machine, name).commands == ()


def test_the_proved_restart() -> None:
    assert diagnose(incident(), uid=1000).proved_restart == "sudo runbook restart gw.service --port 18789 --fix"
    assert diagnose(incident(of_user=True), uid=1000).proved_restart == (
        "runbook restart --user gw.service --port 18789 --fix"
    )
    machine = healthy()
    assert diagnose(machine).proved_restart == ""
    machine.processes[100] = process(100, exe="/usr/bin/gateway (deleted)")
    found = diagnose(machine)
    assert (found.commands, found.proved_restart) == (("systemctl restart gw.service",), "runbook restart gw.service")


def test_several_processes_are_killed_at_once_and_waited_for() -> None:
    machine = incident(**FAILED)
    machine.processes[75] = orphan(ppid=74)
    machine.processes[75] = replace(machine.processes[75], id=ProcessId(75, 750))
    listen(machine, 75, "127.0.0.1:18789", first_inode=7400)
    assert diagnose(machine, uid=1001).commands[1:4] == (
        "sudo kill 74 75",
        "timeout 10 tail -s.1 --pid=74 -f /dev/null || sudo kill -KILL 74",
        "timeout 10 tail -s.1 --pid=75 -f /dev/null || sudo kill -KILL 75",
    )


NAME = r"gw\x2d1.service"
QUOTED = r"'gw\x2d1.service'"


def test_a_name_with_a_backslash_is_quoted_in_each_command() -> None:
    """systemd escapes a `-` in the path of a device or a mount so, and a shell would remove the backslash."""
    older = {75: replace(orphan(), id=ProcessId(75, 750), cgroup=f"/system.slice/{NAME}")}
    for facts in ({}, FAILED, {"load_state": LoadState.MASKED, "main_pid": 0, "active_state": ActiveState.INACTIVE}):
        machine = FakeMachine({NAME: unit(NAME, **facts)}, {74: orphan(), **older})
        listen(machine, 74, "127.0.0.1:18789")
        found = diagnose(machine, NAME, Port(18789))
        drop_ins = [command for commands in found.drop_in_commands for command in commands]
        preventions = [one for one in found.preventions if "systemctl" in one]
        every = [*found.commands, found.proved_restart, *found.decision.commands, *drop_ins, *preventions]
        named = [command for command in every if "gw" in command]
        assert named
        assert [command for command in named if QUOTED not in command] == []
