"""A unit that exists only in another manager: `--user` was left out, or is one too many."""

from __future__ import annotations

import pytest

from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file
from tests.machine.tree import UID, USER

SLEEPS = "/usr/bin/sleep infinity"
RESTART = "unit: notes\nsteps: [restart]\n"
CHECK = "unit: notes\nsteps: [wait-ready]\n"
UPDATE = "unit: notes\nsteps: [{run: {run: 'true'}}, restart]\n"
MINE = "notes.service is a unit of your user manager: "
THEIRS = f"notes.service is a unit of the user manager of {USER}: "
AS_USER = f", and run it as that user: su - {USER} -c 'runbook …'"


@pytest.fixture(scope="module", autouse=True)
def _notes(machine: Machine) -> None:
    machine.run(["loginctl", "enable-linger", USER])
    until(lambda: not machine.run(["test", "-e", f"/run/user/{UID}/bus"], check=False).returncode, "the user's bus")
    path = f"/home/{USER}/.config/systemd/user/notes.service"
    machine.write(path, unit_file(SLEEPS))
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)


def hint(run: Run) -> str:
    text: str = run.last["hint"]
    return text


@pytest.mark.parametrize(
    ("command", "status", "text"), [("apply", 5, RESTART), ("apply", 5, UPDATE), ("check", 1, CHECK)]
)
def test_a_user_s_own_unit_without_the_option(machine: Machine, command: str, status: int, text: str) -> None:
    run = runbook(machine, command, text, user=USER)
    assert (run.exit, hint(run)) == (status, f"{MINE}add --user")
    assert "sudo" not in str(run.last)
    # The advice holds what it promises.
    assert runbook(machine, "apply", text, "--user", user=USER).exit == 0 or command == "check"


def test_a_plan(machine: Machine) -> None:
    [notice] = [one["text"] for one in runbook(machine, "apply", RESTART, "--dry-run", user=USER).of("notice")]
    assert notice == f"cannot begin: systemd has no unit notes.service; {MINE}add --user"
    [notice] = [one["text"] for one in runbook(machine, "apply", UPDATE, "--dry-run", user=USER).of("notice")]
    assert notice == f"systemd has no unit notes.service yet; {MINE}add --user"


def test_a_file_that_says_system(machine: Machine) -> None:
    run = runbook(machine, "apply", f"scope: system\n{RESTART}", user=USER)
    assert hint(run) == f"{MINE}write `scope: user` in the file"


@pytest.mark.parametrize(("command", "status", "text"), [("apply", 5, RESTART), ("check", 1, CHECK)])
def test_root_is_shown_whose_unit_it_is(machine: Machine, command: str, status: int, text: str) -> None:
    run = runbook(machine, command, text)
    assert (run.exit, hint(run)) == (status, f"{THEIRS}add --user{AS_USER}")


def test_root_begins_a_run_that_may_install_the_unit(machine: Machine) -> None:
    run = runbook(machine, "apply", UPDATE)
    [notice] = [one["text"] for one in run.of("notice")]
    assert notice == f"systemd has no unit notes.service yet; {THEIRS}add --user{AS_USER}"
    assert hint(run) == f"{THEIRS}add --user{AS_USER}"


@pytest.mark.parametrize("unit", ["made", "many@7"])
def test_units_without_a_file_of_their_own(machine: Machine, unit: str) -> None:
    """One was made by systemd-run, the other is an instance of a template."""
    machine.write(f"/home/{USER}/.config/systemd/user/many@.service", unit_file(SLEEPS))
    if unit == "made":
        machine.run(["systemd-run", "--user", "--unit=made", "--quiet", "sleep", "infinity"], user=USER)
    run = runbook(machine, "apply", RESTART.replace("notes", unit), user=USER)
    assert hint(run) == f"{unit}.service is a unit of your user manager: add --user"
    machine.run(["systemctl", "--user", "stop", f"{unit}.service"], user=USER)


def test_a_unit_of_the_system_with_the_option(machine: Machine) -> None:
    run = runbook(machine, "apply", RESTART.replace("notes", "systemd-logind"), "--user", user=USER)
    why = "systemd-logind.service is a unit of the system: "
    assert (run.exit, hint(run)) == (5, f"{why}leave out --user, and run it as root")
    run = runbook(machine, "apply", "scope: user\n" + RESTART.replace("notes", "systemd-logind"), user=USER)
    assert hint(run) == f"{why}write `scope: system` in the file, and run it as root"


def test_a_unit_that_is_nowhere_or_masked(machine: Machine) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.run(["ln", "-sf", "/dev/null", f"{folder}/gone.service"])
    for name in ("gone", "nowhere"):
        run = runbook(machine, "check", CHECK.replace("notes", name), user=USER)
        assert hint(run) == "systemctl list-unit-files shows what there is"
    run = runbook(machine, "apply", RESTART.replace("notes", "nowhere"), user=USER)
    assert hint(run) == "run it as root: sudo runbook …"
