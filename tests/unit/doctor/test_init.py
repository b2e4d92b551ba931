"""Each command that is printed is a command for a shell, whatever the names in it are."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from runbook.actions.kill_advice import find_holder_stop, stop_command
from runbook.checks.log_files import describe_log_command
from runbook.checks.other_manager import explain_other_manager
from runbook.doctor import machine_facts
from runbook.doctor.findings import UnitDiagnosis
from runbook.doctor.machine_facts import MachineFacts, UnitId
from runbook.doctor.unit import Doctor
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.holders import Holder, Role
from runbook.host.kernel.protected import find_stop_command
from runbook.host.queries import OtherManagers
from tests.unit.doctor.diagnosed import FAILED, orphan
from tests.unit.fake_machine import EARLIER, FakeMachine, listen, process, unit

NAME = r"dev-disk\x2dby.service"
USER = "o'neil; reboot"
CGROUP = f"/system.slice/{NAME}"
ARGUMENTS = ("/usr/bin/gateway", "--port", "18789")
DOWN: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}


def hostile(**changes: Any) -> Unit:
    return unit(NAME, **{"start_arguments": ARGUMENTS, "fragment_path": f"/etc/{NAME}", **changes})


def beside_an_orphan() -> FakeMachine:
    sockets = (r"a\x2db.socket", r"c\x2dd.path")
    machine = FakeMachine({NAME: hostile(n_restarts=1, triggered_by=sockets)}, {74: orphan(), 100: main()})
    machine.units |= {name: unit(name, main_pid=0, control_group="") for name in sockets}
    listen(machine, 74, "127.0.0.1:18789")
    return machine


def beside_a_unit_of_a_user() -> FakeMachine:
    place = f"/user.slice/user-1000.slice/user@1000.service/app.slice/{NAME}"
    theirs = orphan(cgroup=place, user=USER, environment=("INVOCATION_ID",))
    machine = FakeMachine({NAME: hostile(n_restarts=2)}, {74: theirs, 100: main()})
    listen(machine, 74, "127.0.0.1:18789")
    return machine


def with_a_leftover() -> FakeMachine:
    left = replace(main(invocation_id=EARLIER, started=100.0), id=process(90).id)
    machine = FakeMachine({NAME: hostile(kill_mode="process")}, {90: left, 100: main(invocation_id="a" * 32)})
    listen(machine, 90, "127.0.0.1:18789")
    return machine


def with_old_code() -> FakeMachine:
    return FakeMachine({NAME: hostile()}, {100: main(exe="/usr/bin/gateway (deleted)")})


def main(**changes: Any) -> Any:
    return process(100, **{"cgroup": CGROUP, **changes})


@pytest.mark.parametrize(
    "machine",
    [
        beside_an_orphan(),
        beside_a_unit_of_a_user(),
        with_a_leftover(),
        with_old_code(),
        FakeMachine({NAME: hostile(**FAILED)}),
        FakeMachine({NAME: hostile(**{**FAILED, "exec_main_status": 217})}),
        FakeMachine({NAME: hostile(**DOWN, need_daemon_reload=True)}),
        FakeMachine({NAME: hostile(**DOWN, load_state=LoadState.MASKED)}),
        FakeMachine({NAME: hostile(**DOWN, load_state=LoadState.BAD_SETTING)}),
        FakeMachine({NAME: hostile(freezer_state="frozen")}, {100: main()}),
    ],
)
@pytest.mark.parametrize("uid", [0, 1001])
def test_a_unit_whose_name_has_a_backslash(machine: FakeMachine, uid: int) -> None:
    lines = list_commands(Doctor(machine, machine, uid).diagnose(NAME))
    assert lines
    for line in lines:
        words = shlex.split(line)
        # A word that was not quoted has lost its backslash.
        assert not [word for word in words if "x2d" in word and r"\x2d" not in word], line
        assert "reboot" not in words, line


def list_commands(found: UnitDiagnosis) -> list[str]:
    """Return every line that is printed to be pasted."""
    drop_ins = [line for lines in found.drop_in_commands for line in lines]
    sentences = [text.rpartition(": ")[2] for text in found.preventions if "systemctl" in text and "(" not in text]
    proved = [found.proved_restart] if found.proved_restart else []
    return [*found.commands, *found.decision.commands, *proved, *drop_ins, *sentences]


def test_a_log_file_with_a_space_and_a_folder() -> None:
    path = "/var/log/the a or b; reboot.log"
    machine = FakeMachine({NAME: hostile(**FAILED)}, open_logs=(path,))
    commands = Doctor(machine, machine, 0).diagnose(NAME).decision.commands
    assert [shlex.split(line) for line in commands] == [
        ["journalctl", "-u", NAME, "-n", "30"],
        ["tail", "-n", "30", path],
    ]
    in_folder = describe_log_command(FakeMachine(), hostile(logs_directory=("a b",)))
    assert in_folder.endswith(" or the newest file in '/var/log/a b'")


def test_what_stops_a_service_or_a_container() -> None:
    for_user = stop_command(hostile(of_user=True), NAME, of_user=False, user=USER)
    assert shlex.split(for_user) == ["sudo", "systemctl", "stop", NAME]
    of_user = stop_command(hostile(), NAME, of_user=True, user=USER)
    assert shlex.split(of_user) == ["systemctl", "--user", "-M", f"{USER}@", "stop", NAME]
    place = "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0123.scope"
    holder = Holder(orphan(cgroup=place, user=USER), Role.OTHER_UNIT, "libpod-0123.scope", "", ())
    stop = find_holder_stop(hostile(), holder)
    assert not stop or shlex.split(stop)[:3] == ["sudo", "-u", USER]
    keeper = process(5, name="conmon", exe="/usr/bin/conmon", uid=1000, user=USER, command=("conmon", "-n", "web"))
    keeper = replace(keeper, command=(*keeper.command, "-l", "/usr/bin/podman"))
    assert shlex.split(find_stop_command([keeper])) == ["sudo", "-u", USER, "podman", "stop", "web"]


def test_commands_for_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "find_local_user_name", lambda uid: USER)
    facts = MachineFacts(FakeMachine(), 0, {})
    *words, inner = shlex.split(facts.command("doctor", UnitId(NAME, 1000)))
    assert (words, shlex.split(inner)) == (["su", "-", USER, "-c"], ["runbook", "doctor", "--user", NAME])
    assert shlex.split(facts.systemctl("daemon-reload", 1000))[2:4] == ["-M", f"{USER}@"]
    machine = FakeMachine(other_managers=OtherManagers(users=(USER,)))
    hint = explain_other_manager(machine, NAME, command=f"doctor --user {shlex.quote(NAME)}")
    *_, inner = shlex.split(hint[hint.index("su - ") :])
    assert shlex.split(inner) == ["runbook", "doctor", "--user", NAME]


def test_a_drop_in_file_of_a_template() -> None:
    machine = with_a_leftover()
    ((mkdir, write, _),) = Doctor(machine, machine, 0).diagnose(NAME).drop_in_commands
    folder = f"/etc/systemd/system/{NAME}.d"
    assert shlex.split(mkdir) == ["mkdir", "-p", folder]
    assert shlex.split(write)[-1] == f"{folder}/zz-runbook-kill-mode.conf"
