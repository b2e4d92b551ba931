"""A service whose log is in a file: the hint names the file, where journalctl would show nothing of the cause."""

from __future__ import annotations

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file
from tests.machine.tree import UID, USER

LOG = "/var/log/web.log"
FAILS = "/bin/sh -c 'echo no licence; exit 3'"
START = "unit: web\nsteps: [start, wait-ready: {timeout: 10s}]\n"
JOURNAL = "journalctl -u web.service -n 30"

# A service that logs to a file of its own, and listens nowhere.
OWN = """
import sys, time
log = open(sys.argv[1], "a")
log.write("no licence")
time.sleep(float(sys.argv[2]))
sys.exit(3)
"""

OUTPUTS = {
    "append": ({"StandardOutput": f"append:{LOG}"}, f"tail -n 30 {LOG} shows why"),
    "file and another": (
        {"StandardOutput": "file:/var/log/%n", "StandardError": f"truncate:{LOG}"},
        f"tail -n 30 /var/log/web.service {LOG} shows why",
    ),
    "only one of both": (
        {"StandardOutput": f"append:{LOG}", "StandardError": "journal"},
        f"{JOURNAL} or tail -n 30 {LOG} shows why",
    ),
    "a folder": ({"LogsDirectory": "web"}, f"{JOURNAL} or the newest file in /var/log/web shows why"),
    "a namespace": ({"LogNamespace": "web"}, "journalctl --namespace=web -u web.service -n 30 shows why"),
    "nothing": (
        {"StandardOutput": "null"},
        f"{JOURNAL} shows why; what it prints is discarded (StandardOutput=null), "
        "so its journal has only what systemd logs of it",
    ),
    "the journal": ({}, f"{JOURNAL} shows why"),
}


def hint(run: Run) -> str:
    text: str = run.last["hint"]
    return text


@pytest.fixture(autouse=True)
def _well_again(machine: Machine) -> None:
    machine.run(["sh", "-c", "rm -rf /var/log/web*"])
    machine.write("/opt/own.py", OWN)


@pytest.mark.parametrize("output", OUTPUTS)
def test_by_the_settings_of_a_unit_that_has_failed(machine: Machine, unit: InstallUnit, output: str) -> None:
    settings, expected = OUTPUTS[output]
    unit("web.service", unit_file(FAILS, **settings))
    run = runbook(machine, "apply", START)
    assert run.last["verdict"] == "unit-failed"
    assert hint(run) == expected
    if expected.startswith("tail"):
        assert "no licence" in machine.run(expected.removesuffix(" shows why").split()).stdout


def test_a_drop_in(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(FAILS, StandardOutput="append:/var/log/web.other"))
    folder = "/etc/systemd/system/web.service.d"
    machine.write(f"{folder}/log.conf", f"[Service]\nStandardOutput=append:{LOG}\n")
    machine.run(["systemctl", "daemon-reload"])
    assert hint(runbook(machine, "apply", START)) == f"tail -n 30 {LOG} shows why"
    machine.run(["rm", "-r", folder])


@pytest.mark.parametrize("how", ["argument", "redirection"])
def test_a_file_that_its_command_names(machine: Machine, unit: InstallUnit, how: str) -> None:
    python = f"/usr/bin/python3 /opt/own.py {LOG} 0"
    script = f"/bin/sh -c 'echo no licence >>{LOG}; exit 3'"
    unit("web.service", unit_file(python if how == "argument" else script))
    assert hint(runbook(machine, "apply", START)) == f"{JOURNAL} or tail -n 30 {LOG} shows why"


def test_a_file_that_a_running_process_has_open(machine: Machine, unit: InstallUnit) -> None:
    """The command does not name it, and the service is up, but does not listen."""
    machine.write("/opt/run.sh", f"exec python3 /opt/own.py {LOG} 600\n")
    unit("web.service", unit_file("/bin/sh /opt/run.sh"))
    machine.run(["systemctl", "start", "web"])
    until(lambda: not machine.run(["test", "-e", LOG], check=False).returncode, "the log")
    run = runbook(machine, "apply", "unit: web\nport: 9470\nsteps: [wait-ready: {timeout: 1s, healthy-for: 200ms}]\n")
    assert hint(run).endswith(
        f"continues to wait; journalctl -u web.service -f or tail -f {LOG} shows what it is doing"
    )
    run = runbook(machine, "check", "unit: web\nport: 9470\nsteps: [wait-ready]\n")
    assert f"{JOURNAL} or tail -n 30 {LOG} its log" in hint(run)


def test_a_service_that_exits_again_and_again(machine: Machine, unit: InstallUnit) -> None:
    """When the run ends, systemd waits before the next start, and no process has the file open."""
    machine.write("/opt/run.sh", f"exec python3 /opt/own.py {LOG} 2\n")
    unit("web.service", unit_file("/bin/sh /opt/run.sh", Restart="always", RestartSec="1h"))
    run = runbook(machine, "apply", "unit: web\nport: 9470\nsteps: [restart, wait-ready: {timeout: 10s}]\n")
    assert (run.last["verdict"], hint(run)) == ("crash-loop", f"{JOURNAL} or tail -n 30 {LOG} shows why")


def test_the_file_of_the_process_before_the_restart(machine: Machine, unit: InstallUnit) -> None:
    """The new version exits at once. The old one had the file open."""
    machine.write("/opt/run.sh", f"exec python3 /opt/own.py {LOG} 600\n")
    unit("web.service", unit_file("/bin/sh /opt/run.sh"))
    machine.run(["systemctl", "start", "web"])
    until(lambda: not machine.run(["test", "-e", LOG], check=False).returncode, "the log")
    machine.write("/opt/run.sh", f"exec python3 /opt/own.py {LOG} 0\n")
    run = runbook(machine, "apply", "unit: web\nsteps: [restart, wait-ready: {timeout: 10s}]\n")
    assert (run.last["verdict"], hint(run)) == ("unit-failed", f"{JOURNAL} or tail -n 30 {LOG} shows why")


def test_a_user_s_own_service(machine: Machine) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.write(f"{folder}/web.service", unit_file(FAILS, StandardOutput="append:%h/web.log"))
    machine.run(["loginctl", "enable-linger", USER])
    until(lambda: not machine.run(["test", "-e", f"/run/user/{UID}/bus"], check=False).returncode, "the user's bus")
    run = runbook(machine, "apply", f"scope: user\n{START}", user=USER)
    assert hint(run) == f"tail -n 30 /home/{USER}/web.log shows why"
    machine.run(["rm", "-r", folder])
