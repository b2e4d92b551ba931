"""The commands that the pages show without their output, run as the pages show them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import BLOCK, ROOT, blocks_of_test, commands_in
from tests.machine.incident import PORT, UNIT, Incident, holders, install_gateway, loop, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.tree import CHECKOUT, PROJECT

RUNS = "/var/lib/runbook/runs"


@pytest.fixture(autouse=True)
def _no_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the runs of a test, and stop their commands."""
    yield
    if "machine" in request.fixturenames:
        machine: Machine = request.getfixturevalue("machine")
        machine.run(["rm", "-rf", "/var/lib/runbook"])
        machine.run(["systemctl", "stop", "runbook-*"])
        machine.run(["systemctl", "reset-failed", "runbook-*"], check=False)


def type_in(machine: Machine, command: str) -> str:
    """Run a command as a page shows it, in root's home folder, and return its output."""
    script = f"cd; {command.replace('sudo ', '')}"
    return machine.run(["bash", "-ec", script], timeout=100, env={"TOKEN": "x8Kq2"}).stdout


@pytest.fixture
def gateway(machine: Machine) -> Iterator[Machine]:
    """Start a healthy gateway, and write the runbook of the README under the names in the commands."""
    install_gateway(machine, start_seconds=0)
    machine.run(["systemctl", "start", UNIT])
    until(lambda: len(holders(machine)) == 2, f"port {PORT} to be held", 15)
    book = next(
        block["text"] for block in BLOCK.finditer((ROOT / "README.md").read_text()) if block["language"] == "yaml"
    )
    for name in ("gateway.yaml", "my-service.yaml"):
        machine.write(f"/root/{name}", book)
    machine.run(["ln", "-sfn", f"{PROJECT}/runbooks", "/root/runbooks"])
    yield machine
    remove_unit(machine, UNIT)
    machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl"])


def test_the_commands_for_a_first_runbook(gateway: Machine) -> None:
    blocks = blocks_of_test("test_the_commands_for_a_first_runbook")
    assert len(blocks) > 5
    for command in (command for block in blocks for command in commands_in(block)):
        printed = type_in(gateway, command)
        if "--output json" in command:
            last = json.loads(printed.splitlines()[-1])
            assert (last["event"] in ("plan-finished", "run-finished"), last["exit"]) == (True, 0)
    assert json.loads(gateway.read("/root/runbook.schema.json"))["$schema"]


def test_the_commands_that_validate_a_line(gateway: Machine, tmp_path: Path) -> None:
    gateway.write("/root/upgrade.yaml", gateway.read("/root/gateway.yaml"))
    [block] = blocks_of_test("test_the_commands_that_validate_a_line")
    *made, check = commands_in(block)
    for command in made:
        type_in(gateway, command)
    for name in ("events.schema.json", "line.json"):
        (tmp_path / name).write_text(gateway.read(f"/root/{name}"))
    program = Path(sys.executable).parent / check.split()[0]
    done = subprocess.run([program, *check.split()[1:]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout in block


# -- resuming


BOOK = """\
secrets: [TOKEN]
env: {TOKEN: "${{ env.TOKEN }}"}
steps:
  - run: {id: migrate, run: 'while [ ! -e /tmp/go ]; do sleep 0.05; done'}
"""


def cut_short(machine: Machine, *, power: bool) -> None:
    """Kill a run while its command is running. With `power`, kill the command too and delete its result."""
    machine.run(["rm", "-rf", "/tmp/go", RUNS])
    machine.write("/root/upgrade.yaml", BOOK)
    with machine.popen(["runbook", "apply", "/root/upgrade.yaml"], env={"TOKEN": "x8Kq2"}) as run:
        until(
            lambda: machine.run(["sh", "-c", "systemctl is-active 'runbook-*.service'"], check=False).stdout, "it", 20
        )
        until(lambda: "activating" in running(machine), "the command to run", 20)
        machine.run(["pkill", "-KILL", "-f", "runbook apply"])
        run.wait(20)
    if power:
        machine.run(["systemctl", "kill", "--signal=KILL", "runbook-*.service"])
        until(lambda: not running(machine).strip(), "the command to be gone", 20)
        machine.run(["sh", "-c", f"rm -f {RUNS}/*/output/*.result"])


def running(machine: Machine) -> str:
    """Return the states of the transient units of commands."""
    return machine.run(["systemctl", "list-units", "--plain", "--no-legend", "runbook-*.service"]).stdout


def test_the_commands_that_resume_a_run(machine: Machine) -> None:
    shown = [
        command for block in blocks_of_test("test_the_commands_that_resume_a_run") for command in commands_in(block)
    ]
    assert len(shown) > 6
    looking = [command for command in shown if "resume" not in command]
    for command in (command for command in shown if command not in looking):
        decided = "--rerun" in command or "--skip" in command
        cut_short(machine, power=decided)
        machine.run(["touch", "/tmp/go"])
        if "--as-recorded" in command:
            machine.write("/root/upgrade.yaml", f"{BOOK}# changed since\n")
        for look in looking:
            assert "cut" in type_in(machine, look)
        if decided or "--as-recorded" in command:
            refused = machine.run(["runbook", "resume"], check=False, env={"TOKEN": "x8Kq2"})
            assert refused.returncode == 5, refused
        type_in(machine, command)
        last = json.loads(type_in(machine, "runbook history --output json").splitlines()[0])
        assert last["status"] in ("ok", "changed", "abandoned"), last
        assert not last["resumable"]


def test_the_commands_that_search_the_journal(machine: Machine, incident: Incident) -> None:
    loop(machine)
    machine.write("/root/upgrade.yaml", (CHECKOUT / "tests/machine/demo.yaml").read_text())
    type_in(machine, "runbook apply upgrade.yaml")
    run = json.loads(type_in(machine, "runbook history --output json").splitlines()[0])["run"]
    [block] = blocks_of_test("test_the_commands_that_search_the_journal")
    for command in commands_in(block):
        printed = type_in(machine, re.sub(r"\b\d{8}-\d{4}-\w{3}\b", run, command))
        assert "runbook" in printed, command


# -- on the host


def test_a_shell_in_a_throwaway_machine() -> None:
    """The recipe of `make shell`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.machine.shell"],
        cwd=CHECKOUT,
        input="runbook --version\nls /root\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runbook "), done.stdout


INSTALL = """\
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /usr/local/bin
sudo() { "$@"; }
apt() { apt-get --simulate "$@"; }
cd "$1"
shift
eval "$1"
eval "$2"
"""


def test_the_installation(tmp_path: Path) -> None:
    """It writes to two folders of its own. pip finds the dependencies of the tests, and no registry."""
    scripts = [block.replace("$ ", "") for block in blocks_of_test("test_the_installation")]
    assert len(scripts) == 2
    source = tmp_path / "a checkout"
    shutil.copytree(CHECKOUT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    known = [path for path in sys.path if path.endswith("site-packages") and path.startswith(str(CHECKOUT))]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(known),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "false",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-eu", "-c", INSTALL, "bash", str(source), *scripts],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Usage: runbook" in done.stdout
    assert "wait-ready" in done.stdout
