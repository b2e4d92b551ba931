"""A throwaway machine has a real systemd, is isolated from the host, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import keeper
from tests.machine.conftest import StartService
from tests.machine.incident import (
    NEW,
    OLD,
    UNIT,
    Incident,
    answer,
    control_group,
    holders,
    install_gateway,
    loop,
    remove_unit,
)
from tests.machine.machine import CommandFailed, Machine, MachineError, until
from tests.machine.tree import CHECKOUT, SYSTEMD_VERSION, UID, USER


def test_pid_1_is_a_systemd_of_the_suites_version(machine: Machine, suite: str) -> None:
    assert machine.run(["cat", "/proc/1/comm"]).stdout == "systemd\n"
    assert machine.run(["systemctl", "--version"]).stdout.split()[1] == str(SYSTEMD_VERSION[suite])
    assert machine.run(["systemctl", "is-system-running"]).stdout == "running\n"
    assert machine.run(["stat", "--file-system", "--format=%T", "/sys/fs/cgroup"]).stdout == "cgroup2fs\n"


def test_its_only_network_is_a_loopback(machine: Machine) -> None:
    links = machine.run(["ip", "-brief", "link"]).stdout.splitlines()
    assert [link.split()[0] for link in links] == ["lo"]
    assert machine.run(["ip", "route"]).stdout == ""


def test_a_command_is_in_no_unit_and_has_no_variable_of_the_host(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/somewhere/of/the/host")
    assert machine.run(["cat", "/proc/self/cgroup"]).stdout.endswith("0::/console\n")
    seen = dict(line.split("=", 1) for line in machine.run(["env"], env={"LESS": "R"}).stdout.splitlines())
    assert seen.keys() == {"PATH", "LANG", "TERM", "HOME", "USER", "LOGNAME", "SHELL", "LESS"}


def test_input_output_and_status_of_a_command(machine: Machine) -> None:
    assert machine.run(["tr", "a-z", "A-Z"], input="loud").stdout == "LOUD"
    with pytest.raises(CommandFailed, match="no such thing"):
        machine.run(["sh", "-c", "echo no such thing >&2; exit 3"])
    assert machine.run(["sh", "-c", "exit 3"], check=False).returncode == 3
    machine.write("/run/deep/file", "text\n", 0o600)
    assert machine.read("/run/deep/file") == "text\n"
    assert machine.run(["stat", "-c", "%a", "/run/deep/file"]).stdout == "600\n"


def test_a_command_that_takes_too_long_is_killed_inside_as_well(machine: Machine) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        machine.run(["sleep", "4321"], timeout=0.2)
    until(lambda: machine.run(["pgrep", "-f", "sleep 4321"], check=False).returncode == 1, "sleep to be gone")


def test_the_users_manager_runs_without_a_login(machine: Machine) -> None:
    assert machine.run(["id", "-u"], user=USER).stdout == f"{UID}\n"
    state = machine.run(["systemctl", "--user", "is-system-running", "--wait"], user=USER, check=False)
    assert state.stdout == "running\n", state.stderr


def test_the_checkout_and_its_dependencies_are_read_only(machine: Machine) -> None:
    pyproject = machine.read("/opt/runbook/pyproject.toml")
    assert pyproject == (CHECKOUT / "pyproject.toml").read_text()
    assert machine.run(["touch", "/opt/runbook/pyproject.toml"], check=False).returncode != 0
    modules = "gi, jinja2, pydantic, pydbus, rich, tenacity, typer, yaml, runbook"
    script = f"import {modules}; print(runbook.__path__[0])"
    assert machine.run(["/opt/venv/bin/python3", "-c", script]).stdout == "/opt/runbook/src/runbook\n"


def test_a_service_can_be_written_and_started(machine: Machine, service: StartService) -> None:
    unit = service("sleeper.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    assert machine.show(unit, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


def test_the_gateway_serves_its_version_on_both_addresses(machine: Machine) -> None:
    install_gateway(machine, start_seconds=0.1)
    try:
        machine.run(["systemctl", "start", UNIT])
        held = until(lambda: found if len(found := holders(machine)) == 2 else [], "the gateway to listen")
        main_pid = int(machine.show(UNIT, "MainPID")["MainPID"])
        assert {(holder.address, holder.pid, holder.command) for holder in held} == {
            ("127.0.0.1:18789", main_pid, "gateway"),
            ("[::1]:18789", main_pid, "gateway"),
        }
        assert answer(machine) == {"version": OLD, "pid": main_pid}

        # New files do not change a running process; a restart does.
        assert machine.run(["gatewayctl", "--version"]).stdout == f"gateway {OLD}\n"
        machine.run(["gatewayctl", "install", NEW])
        assert machine.run(["gatewayctl", "--version"]).stdout == f"gateway {NEW}\n"
        assert answer(machine)["version"] == OLD
        machine.run(["systemctl", "restart", UNIT])
        until(lambda: len(holders(machine)) == 2, "the gateway to listen again")
        assert answer(machine)["version"] == NEW
    finally:
        remove_unit(machine, UNIT)
        machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl"])


def test_the_staged_incident_is_like_the_real_one(machine: Machine, incident: Incident) -> None:
    seen = loop(machine)
    assert (seen["ActiveState"], seen["SubState"]) == ("active", "running")
    assert {holder.pid for holder in holders(machine)} == {incident.orphan} != {int(seen["MainPID"])}
    assert answer(machine) == {"version": OLD, "pid": incident.orphan}
    assert control_group(machine, incident.orphan).startswith(f"/user.slice/user-{UID}.slice/session-")
    parent = machine.run(["ps", "-o", "ppid=", "-p", str(incident.orphan)]).stdout.strip()
    assert control_group(machine, int(parent)) == control_group(machine, incident.orphan)

    # Without a fix it ends like the real one: the unit is failed, and systemd refuses to start it.
    until(lambda: machine.show(UNIT, "ActiveState")["ActiveState"] == "failed", "the start limit", 40)
    assert machine.show(UNIT, "ExecMainStatus")["ExecMainStatus"] == "78"
    assert machine.run(["systemctl", "start", UNIT], check=False).returncode != 0
    assert {holder.pid for holder in holders(machine)} == {incident.orphan}


def test_machines_do_not_affect_each_other(fresh_machine: Machine, machine: Machine) -> None:
    for one in (fresh_machine, machine):
        one.write("/run/systemd/system/same-name.service", "[Service]\nExecStart=/bin/sleep infinity\n")
        one.run(["systemctl", "start", "same-name.service"])
    fresh_machine.run(["systemctl", "kill", "--signal=KILL", "same-name.service"])
    until(lambda: fresh_machine.show("same-name", "Result")["Result"] == "signal", "the service to be killed")
    assert machine.show("same-name", "ActiveState")["ActiveState"] == "active"
    machine.run(["systemctl", "stop", "same-name.service"])
    machine.run(["rm", "/run/systemd/system/same-name.service"])
    machine.run(["systemctl", "daemon-reload"])


def test_poweroff_shuts_down_cleanly(suite: str) -> None:
    machine = Machine(suite)
    machine.boot()
    leader = os.pidfd_open(machine.leader)
    machine.poweroff()
    assert select.select([leader], [], [], 10)[0]
    os.close(leader)
    # The last line of systemd-shutdown. The lines of PID 1 before it depend on ShowStatus=.
    assert "Halting system." in machine.console()
    nothing_is_left_of(machine.name)


def test_a_boot_that_fails_shows_the_console(suite: str) -> None:
    """A file is bound over systemd, so the machine has no init."""
    machine = Machine(suite, bind={Path("/dev/null"): "/usr/lib/systemd/systemd"})
    with pytest.raises(MachineError, match="console"):
        machine.boot()
    nothing_is_left_of(machine.name)


HOLD_A_MACHINE = """
import sys
from tests.machine.machine import Machine
with Machine(sys.argv[1]) as machine:
    machine.popen(["sleep", "infinity"])
    print(machine.name, machine.leader, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("whom", ["test", "test and keeper"])
def test_nothing_is_left_after_sigkill(suite: str, whom: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_MACHINE, suite],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert holder.stdout is not None
    name, leader = holder.stdout.readline().split()
    assert traces_on_the_host(name), "no trace of a running machine: the wrong places are searched"
    processes = [os.pidfd_open(int(leader)), *(os.pidfd_open(pid) for pid in keepers(name))]
    if whom == "test and keeper":
        for pid in keepers(name):
            os.kill(pid, signal.SIGSTOP)  # so that the keeper cannot clean up before SIGKILL
            os.kill(pid, signal.SIGKILL)
    holder.kill()
    holder.communicate()
    for process in processes:
        assert select.select([process], [], [], 10)[0], f"a process of {name} is still there"
        os.close(process)
    if whom == "test and keeper":
        # Only the kernel has cleaned up. It leaves empty control groups, which the next keeper removes.
        keeper.sweep()
    until(lambda: not traces_on_the_host(name), f"nothing to be left of {name}")
    nothing_is_left_of(name)


def keepers(name: str) -> list[int]:
    """Return the PIDs of a machine's keeper, found by the command line."""
    return [pid for pid in all_pids() if f"{keeper.__file__}\0{name}\0" in command_line(pid)]


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def nothing_is_left_of(name: str) -> None:
    """Assert that a machine has left nothing on the host.

    nspawn makes a folder in /tmp while it boots, without the machine's name. A folder may belong to the machine of
    another worker, which removes it after a moment.
    """
    assert traces_on_the_host(name) == []
    until(lambda: not list(Path("/tmp").glob("nspawn-*")), "no folder of nspawn's to be left")


def traces_on_the_host(name: str) -> list[str]:
    """Return what a machine has left: processes, mounts, control groups, folders."""
    found = [f"process {pid}: {command_line(pid)}" for pid in all_pids() if name in command_line(pid)]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    found += [str(group) for group in keeper.control_groups(name) if group.exists()]
    found += [str(path) for path in Path("/run/systemd/nspawn").rglob(f"*{name}*")]
    return found
