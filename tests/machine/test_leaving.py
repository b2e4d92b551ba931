"""A run continues when its login session or its terminal ends, or when it restarts the service that contains it."""

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
    """Return the recorded events of the one run so far."""
    text = machine.run(["sh", "-c", f"cat {runs}/*/events.jsonl"], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def started(machine: Machine, runs: str = ROOT_RUNS) -> dict[str, Any]:
    """Return the first event of the run."""
    [began] = [event for event in events(machine, runs) if event["event"] == "run-started"]
    return began


def ended(machine: Machine, runs: str = ROOT_RUNS) -> dict[str, Any]:
    """Wait until the run has ended, and return its last event."""
    last = until(lambda: [e for e in events(machine, runs) if e["event"] == "run-finished"], "the run to end", 60)
    return last[-1]


@contextmanager
def begun(machine: Machine, argv: list[str]) -> Iterator[Popen[str]]:
    """Start a command whose run waits for /tmp/go. The file is made at the end in any case."""
    with machine.popen(argv) as process:
        try:
            until(lambda: there(machine, "/tmp/there"), "the command to run", 30)
            yield process
        except BaseException:
            process.kill()  # The test has failed, so the run need not end.
            raise
        finally:
            machine.run(["touch", "/tmp/go"])


def running(machine: Machine, path: str) -> int:
    """Return the PID of the run of a runbook."""
    asked = machine.run(["pgrep", "-f", f"python.*runbook apply {path}"], check=False).stdout.split()
    assert len(asked) == 1, asked
    return int(asked[0])


@pytest.mark.parametrize("output", ["json", "auto"])
def test_a_run_continues_when_its_login_session_ends(machine: Machine, service: StartService, output: str) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    before = machine.show("web.service", "InvocationID")
    path = write_runbook(machine, WAITS.format(scope=""), "/root/waits.yaml")
    # The run has a terminal, as of a person, which is lost with the session. su kills the shell between the two.
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


def test_a_users_run_continues_when_its_login_session_ends(machine: Machine) -> None:
    """The user's manager lingers, and makes the scope."""
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


def test_a_run_continues_when_its_terminal_is_lost(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    path = write_runbook(machine, WAITS.format(scope=""), "/root/waits.yaml")
    with begun(machine, ["runbook", "apply", path]) as process:
        machine.run(["kill", "-HUP", str(running(machine, path))])
        machine.run(["touch", "/tmp/go"])
        process.communicate(timeout=60)
    assert (process.returncode, ended(machine)["status"]) == (0, "changed")
    # The run was in no session and in no unit, so it did not move to a scope.
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
        "/opt/venv/bin/runbook apply {path}",  # as the main process itself, which systemd kills in any cgroup
        "/opt/venv/bin/runbook apply - <{path}",  # standard input, which cannot be read a second time
    ],
    ids=["child", "main", "main-stdin"],
)
@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_a_run_continues_when_it_restarts_its_own_service(
    machine: Machine, service: StartService, start: str, mode: str
) -> None:
    """The first invocation of the service starts the run. The next ones only serve."""
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
    # Its shell may not have executed sleep yet.
    until(lambda: machine.read(f"/proc/{serving['MainPID']}/comm") == "sleep\n", "the invocation that only serves")


def test_a_dry_run_and_a_check_stay_in_their_session(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    path = write_runbook(machine, BY_ITSELF, "/root/itself.yaml")
    commands = f"runbook apply --dry-run {path} && runbook check {path} && cat /proc/self/cgroup"
    shown = machine.run(["su", "-", "root", "-c", commands]).stdout
    assert "/session-" in shown.splitlines()[-1]
    scopes = ["systemctl", "list-units", "--all", "--no-legend", "runbook-*.scope"]
    assert machine.run(scopes).stdout == ""
