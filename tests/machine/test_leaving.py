"""A run outlives what it was started in: a login that ends, a terminal that is lost, the service that it restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import control_group
from tests.machine.machine import Machine, until
from tests.machine.runs import unit_file, write_runbook
from tests.machine.tree import UID, USER

ROOT_RUNS = "/var/lib/runbook/runs"
USER_RUNS = f"/home/{USER}/.local/state/runbook/runs"

WAITS = """
    unit: web
    {scope}
    steps:
      - run: {{run: "touch /tmp/there; while test ! -e /tmp/go; do sleep 0.05; done"}}
      - restart
"""


@pytest.fixture(autouse=True)
def _nothing_before(machine: Machine) -> Iterator[None]:
    yield
    machine.run(["rm", "-rf", ROOT_RUNS, USER_RUNS, "/tmp/there", "/tmp/go"])


def there(machine: Machine, path: str) -> bool:
    return machine.run(["sh", "-c", f"test -e {path}"], check=False).returncode == 0


def events(machine: Machine, runs: str = ROOT_RUNS) -> list[dict[str, Any]]:
    """What the record of the one run says, by now."""
    text = machine.run(["sh", "-c", f"cat {runs}/*/events.jsonl"], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def started(machine: Machine, runs: str = ROOT_RUNS) -> dict[str, Any]:
    """How the run began."""
    [began] = [event for event in events(machine, runs) if event["event"] == "run-started"]
    return began


def ended(machine: Machine, runs: str = ROOT_RUNS) -> dict[str, Any]:
    """How the run ended, once it has."""
    last = until(lambda: [e for e in events(machine, runs) if e["event"] == "run-finished"], "the run to end", 60)
    return last[-1]


@contextmanager
def begun(machine: Machine, argv: list[str]) -> Iterator[Popen[str]]:
    """A command with a run that waits; whatever happens, the run is told to go on at the end."""
    with machine.popen(argv) as process:
        try:
            until(lambda: there(machine, "/tmp/there"), "the command to run", 30)
            yield process
        except BaseException:
            process.kill()  # Nobody waits for a test that has failed.
            raise
        finally:
            machine.run(["touch", "/tmp/go"])


def running(machine: Machine, path: str) -> int:
    """The PID of the run of a runbook."""
    asked = machine.run(["pgrep", "-f", f"python.*runbook apply {path}"], check=False).stdout.split()
    assert len(asked) == 1, asked
    return int(asked[0])


@pytest.mark.parametrize("output", ["json", "auto"])
def test_the_end_of_a_login_is_not_the_end_of_a_run(machine: Machine, service: StartService, output: str) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    before = machine.show("web.service", "InvocationID")
    path = write_runbook(machine, WAITS.format(scope=""), "/root/waits.yaml")
    # On a terminal, as a person's is: it is gone with the login. The shell between is what su ends.
    machine.write("/opt/terminal.py", f"import pty; pty.spawn(['runbook', 'apply', '{path}', '--output', '{output}'])")
    with begun(machine, ["su", "-", "root", "-c", "python3 /opt/terminal.py & wait"]) as login:
        began = started(machine)
        pid = running(machine, path)
        assert control_group(machine, pid) == f"/system.slice/runbook-{began['run']}.scope"
        machine.run(["loginctl", "terminate-session", began["left"].removeprefix("session-").removesuffix(".scope")])
        until(lambda: machine.show(began["left"], "ActiveState")["ActiveState"] == "inactive", "the login to end")
        login.wait(20)
        assert running(machine, path) == pid
        machine.run(["touch", "/tmp/go"])
    assert (ended(machine)["status"], ended(machine)["exit"]) == ("changed", 0)
    assert machine.show("web.service", "InvocationID") != before
    until(lambda: not there(machine, f"/sys/fs/cgroup/system.slice/runbook-{began['run']}.scope"), "the scope to end")


def test_a_login_of_a_users_own(machine: Machine) -> None:
    """Its manager lingers; the scope is made by that."""
    machine.run(["loginctl", "enable-linger", USER])
    machine.write(f"/home/{USER}/.config/systemd/user/web.service", unit_file("/usr/bin/sleep infinity"))
    path = write_runbook(machine, WAITS.format(scope="scope: user"), f"/home/{USER}/waits.yaml")
    machine.run(["chown", "-R", USER, f"/home/{USER}"])
    systemctl = ["systemctl", "--user"]
    until(lambda: machine.run([*systemctl, "daemon-reload"], check=False, user=USER).returncode == 0, "a manager")
    machine.run([*systemctl, "start", "web"], user=USER)
    try:
        with begun(machine, ["su", "-", USER, "-c", f"runbook apply {path} & wait"]) as login:
            began = started(machine, USER_RUNS)
            group = control_group(machine, running(machine, path))
            manager = f"/user.slice/user-{UID}.slice/user@{UID}.service"
            assert group == f"{manager}/app.slice/runbook-{began['run']}.scope"
            session = began["left"].removeprefix("session-").removesuffix(".scope")
            machine.run(["loginctl", "terminate-session", session])
            login.wait(20)
            machine.run(["touch", "/tmp/go"])
        assert (ended(machine, USER_RUNS)["status"], ended(machine, USER_RUNS)["exit"]) == ("changed", 0)
    finally:
        machine.run([*systemctl, "stop", "web"], user=USER, check=False)
        machine.run(["loginctl", "disable-linger", USER])


def test_a_lost_terminal_does_not_end_a_run(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    path = write_runbook(machine, WAITS.format(scope=""), "/root/waits.yaml")
    with begun(machine, ["runbook", "apply", path]) as process:
        machine.run(["kill", "-HUP", str(running(machine, path))])
        machine.run(["touch", "/tmp/go"])
        process.communicate(timeout=60)
    assert (process.returncode, ended(machine)["status"]) == (0, "changed")
    # It was in no login and in no unit: there was nothing to leave.
    assert "left" not in started(machine)


BY_ITSELF = """
    unit: web
    steps:
      - restart
      - wait-ready: {healthy-for: 200ms}
"""


@pytest.mark.parametrize(
    "start",
    [
        "/bin/sh -c 'runbook apply {path} & exec sleep infinity'",  # as a child of the main process
        "/opt/venv/bin/runbook apply {path}",  # as the main process itself, which systemd ends wherever it is
        "/opt/venv/bin/runbook apply - <{path}",  # what it has read by then, nobody can read again
    ],
    ids=["child", "main", "main-stdin"],
)
@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_a_run_inside_the_service_that_it_restarts(
    machine: Machine, service: StartService, start: str, mode: str
) -> None:
    """The first of its invocations runs it; the next ones only serve."""
    path = write_runbook(machine, BY_ITSELF, "/root/itself.yaml")
    script = f"#!/bin/sh\nif test -e /tmp/there; then exec sleep infinity; fi\ntouch /tmp/there\nexec {start}\n"
    machine.write("/opt/itself", script.format(path=path), 0o755)
    service("web.service", unit_file("/opt/itself", KillMode=mode))
    last = ended(machine)
    assert (last["status"], last["exit"]) == ("changed", 0), last
    began = started(machine)
    assert began["left"] == "web.service"
    serving = machine.show("web.service", "MainPID", "SubState", "NRestarts")
    assert (serving["SubState"], serving["NRestarts"]) == ("running", "0")
    # Its shell may just be on the way to that.
    until(lambda: machine.read(f"/proc/{serving['MainPID']}/comm") == "sleep\n", "the invocation that only serves")


def test_a_dry_run_and_a_check_leave_nothing(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    path = write_runbook(machine, BY_ITSELF, "/root/itself.yaml")
    said = f"runbook apply --dry-run {path} && runbook check {path} && cat /proc/self/cgroup"
    shown = machine.run(["su", "-", "root", "-c", said]).stdout
    assert "/session-" in shown.splitlines()[-1]
    scopes = ["systemctl", "list-units", "--all", "--no-legend", "runbook-*.scope"]
    assert machine.run(scopes).stdout == ""
