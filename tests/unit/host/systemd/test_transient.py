"""The part of transient units that needs no systemd: names, environments, results that a unit left on disk."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runbook.errors import AccessDenied, BusLost, HostError, NoSuchUnit
from runbook.host.facts import ActiveState, JobRef, LoadState, Unit
from runbook.host.kernel.accounts import account_environment, find_start_obstacle
from runbook.host.loop import Loop
from runbook.host.queries import Command, CommandResult
from runbook.host.systemd.manager import SystemdManager
from runbook.host.systemd.transient import OUTPUT_TAIL_BYTES, TransientCommands, transient_unit_name


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("20261123-0547-k3f-update", "runbook-20261123-0547-k3f-update.service"),
        ("a b/c@d", "runbook-a-b-c-d.service"),
        ("remediate.fix.run", "runbook-remediate.fix.run.service"),
        ("größe", "runbook-gr-e.service"),
    ],
)
def test_the_name_of_a_unit(name: str, unit: str) -> None:
    assert transient_unit_name(name) == unit


def test_long_names_stay_apart() -> None:
    one, other = transient_unit_name("x" * 300), transient_unit_name("x" * 301)
    assert one != other
    assert max(len(one), len(other)) < 256


def test_the_environment_is_that_of_the_user() -> None:
    account = pwd.getpwuid(os.geteuid())
    assert account_environment("") == {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell,
    }


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (Command(("true",), cwd="/"), ""),
        (Command(("true",)), ""),
        (Command(("true",), user="nosuchuser"), "cannot run a command as nosuchuser: there is no such user"),
        (Command(("true",), cwd="/nowhere"), "cannot run a command in /nowhere: there is no such folder"),
        (Command(("true",), cwd="/etc/passwd"), "cannot run a command in /etc/passwd: there is no such folder"),
    ],
)
def test_what_prevents_a_command_from_starting(command: Command, why: str) -> None:
    assert find_start_obstacle(command) == why


def test_only_root_becomes_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    with pytest.raises(AccessDenied, match="cannot run a command as root: only root may"):
        account_environment("root")


class Forgetful:
    """A systemd that has unloaded the unit."""

    bus: SimpleNamespace

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        return Unit(name, load_state=LoadState.NOT_FOUND)

    def read_loaded_state(self, name: str) -> None:
        return None

    def call_manager(self, *_: Any, **__: Any) -> None:
        raise NoSuchUnit("cannot release it: there is no such unit")


@pytest.fixture
def commands() -> TransientCommands:
    return TransientCommands(cast("SystemdManager", Forgetful()), cast("Loop", SimpleNamespace()))


class Flaky(Forgetful):
    """A systemd that leaves the bus at the first request of a start, and answers later ones."""

    bus = SimpleNamespace(peer=True)

    def __init__(self) -> None:
        self.asked = 0

    def call_manager(self, method: str, *_: Any, **__: Any) -> None:
        self.asked += method == "StartTransientUnit"
        if self.asked == 1:
            raise BusLost("cannot start it: the connection broke")

    def make_job_ref(self, answer: None, name: str, verb: str, output: str) -> JobRef:
        return JobRef(f"/org/freedesktop/systemd1/job/{self.asked}", name, verb, output)


def test_after_an_answered_start_the_next_attempt_runs(tmp_path: Path) -> None:
    """Only after a start without an answer is the result on disk read: it is of that attempt alone."""
    systemd = Flaky()
    commands = TransientCommands(cast("SystemdManager", systemd), cast("Loop", SimpleNamespace()))
    command = Command(("true",), output=str(tmp_path / "out"))
    with pytest.raises(BusLost):
        commands.start("x", command)
    assert commands.start("x", command).path.endswith("/2")
    (tmp_path / "out.result").write_text("exit-code exited 7\n")
    assert commands.start("x", command).path.endswith("/3")


def test_a_command_that_is_writing_its_result_is_joined(tmp_path: Path) -> None:
    class Ending(Flaky):
        bus = SimpleNamespace(peer=True, read=lambda *_, **__: (5, "/org/freedesktop/systemd1/job/5"))

        def read_loaded_state(self, name: str) -> ActiveState | None:  # type: ignore[override]
            return ActiveState.DEACTIVATING if self.asked else None

        def mark_own_unit(self, name: str) -> None:
            assert name == "runbook-x.service"

    systemd = Ending()
    commands = TransientCommands(cast("SystemdManager", systemd), cast("Loop", SimpleNamespace()))
    assert commands.start("x", Command(("true",), output=str(tmp_path / "out"))).path.endswith("/5")
    assert systemd.asked == 1


def ended(folder: Path, result: str, output: bytes = b"said\n") -> JobRef:
    (folder / "out").write_bytes(output)
    (folder / "out.result").write_text(result)
    return JobRef("/org/freedesktop/systemd1/job/1", "runbook-x.service", "start", str(folder / "out"))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("success exited 0\n", CommandResult("success", 0, "said\n")),
        ("exit-code exited 3\n", CommandResult("exit-code", 3, "said\n")),
        ("signal killed KILL\n", CommandResult("signal", 9, "said\n")),
        ("timeout killed TERM\n", CommandResult("timeout", 15, "said\n")),
        ("core-dump dumped SEGV\n", CommandResult("core-dump", 11, "said\n")),
    ],
)
def test_a_result_that_the_unit_left_on_disk(
    commands: TransientCommands, tmp_path: Path, result: str, expected: CommandResult
) -> None:
    assert commands.result(ended(tmp_path, result)) == expected


@pytest.mark.parametrize("result", ["", "succ", "exit-code exited", "signal killed NOSUCH\n", "exit-code exited x\n"])
def test_an_incomplete_result_does_not_count(commands: TransientCommands, tmp_path: Path, result: str) -> None:
    with pytest.raises(HostError, match=r"cannot find out how runbook-x\.service ended"):
        commands.result(ended(tmp_path, result))


def test_no_result(commands: TransientCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A command without an output has left nothing anywhere; files of similar names belong to another program.
    (tmp_path / ".script").touch()
    (tmp_path / ".result").write_text("success exited 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostError, match="cannot find out how"):
        commands.result(JobRef("/org/freedesktop/systemd1/job/1", "runbook-x.service", "start"))
    assert (tmp_path / ".script").exists()


def test_the_end_of_a_long_output(commands: TransientCommands, tmp_path: Path) -> None:
    ref = ended(tmp_path, "success exited 0\n", b"begin" + b"x" * OUTPUT_TAIL_BYTES)
    assert commands.result(ref).output == "x" * OUTPUT_TAIL_BYTES


def test_a_folder_that_cannot_be_entered_is_reported(commands: TransientCommands, tmp_path: Path) -> None:
    result = commands.result(ended(tmp_path, "exit-code exited 200\n", b""))
    assert result.output == "it could not be started: 200/CHDIR: its folder cannot be entered; `cwd` names another\n"


def test_a_command_whose_start_was_refused_leaves_no_files(tmp_path: Path) -> None:
    systemd = Forgetful()
    systemd.bus = SimpleNamespace(peer=False)
    refusing = TransientCommands(cast("SystemdManager", systemd), cast("Loop", SimpleNamespace()))
    command = Command(("/bin/sh", "-e", "-c", "echo sesame"), output=str(tmp_path / "x.log"))
    with pytest.raises(NoSuchUnit):
        refusing.start("x", command)
    assert [path.name for path in tmp_path.iterdir()] == ["x.log"]


def test_a_command_needs_a_place_for_its_result(commands: TransientCommands) -> None:
    with pytest.raises(HostError, match="no place for its result"):
        commands.start("x", Command(("true",)))
