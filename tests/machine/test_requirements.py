"""A unit that cannot start because of one that it requires, several levels down: that one is named, with its port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file
from tests.machine.tree import UID, USER

LISTENS = "import socket, time; one = socket.create_server(('127.0.0.1', 4369)); time.sleep(3600)"
PYTHON = f'/usr/bin/python3 -c "{LISTENS}"'
SLEEPS = "/usr/bin/sleep infinity"
HELD = "port 127.0.0.1:4369 is held by PID "
START = "unit: top\nsteps: [{start: {on-failure: continue}}, wait-ready]\n"
RESCUE = """
unit: top
steps:
  - start
  - remediate:
      check: [wait-ready: {healthy-for: 200ms}]
      fix: [kill-orphan: {unit: epmd.socket, port: "127.0.0.1:4369"}, start]
"""


def needs(what: str, **settings: str) -> str:
    """Write a service that requires another unit, and starts after it."""
    return unit_file(SLEEPS, Unit_Requires=what, Unit_After=what, **settings)


@pytest.fixture
def chain(unit: InstallUnit) -> None:
    """Install a service that needs a service that needs a socket, as ejabberd needs epmd."""
    unit("epmd.service", unit_file(SLEEPS))
    unit("epmd.socket", "[Socket]\nListenStream=127.0.0.1:4369\n")
    unit("mid.service", needs("epmd.socket"))
    unit("top.service", needs("mid.service"))


@pytest.fixture
def orphan(machine: Machine) -> Iterator[None]:
    """Hold the port of the socket in a scope."""
    with machine.popen(["systemd-run", "--quiet", "--scope", "python3", "-c", LISTENS]):
        until(lambda: listening(machine), "the orphan to listen")
        yield
        machine.run(["pkill", "-KILL", "-f", "create_server"], check=False)
    machine.run(["systemctl", "reset-failed"])


def listening(machine: Machine) -> str:
    return machine.run(["ss", "-Hltn", "sport = :4369"]).stdout


def reasons(run: Run) -> list[tuple[str, str]]:
    return [(step["verdict"], step["reason"]) for step in run.of("step-finished")]


@pytest.mark.usefixtures("chain", "orphan")
def test_a_socket_two_levels_down_whose_port_an_orphan_holds(machine: Machine) -> None:
    needed = (
        "top.service needs mid.service, which needs epmd.socket, which failed: it could not listen on 127.0.0.1:4369"
    )
    run = runbook(machine, "apply", START)
    for verdict, reason in reasons(run):
        assert verdict == "job-dependency"
        assert f"{needed}; {HELD}" in reason
        assert "(python3), in run-" in reason
    assert run.step("start")["evidence"]["needs"][0]["unit"] == "epmd.socket"
    fix = 'kill-orphan: {unit: epmd.socket, port: "127.0.0.1:4369"}'
    assert run.last["hint"] == f"a `remediate` step with `{fix}` as a fix solves this"
    # The advice holds what it promises.
    rescued = runbook(machine, "apply", RESCUE)
    assert (rescued.exit, rescued.last["status"]) == (0, "remediated"), rescued.last


@pytest.mark.usefixtures("chain")
def test_a_unit_that_was_up_before(machine: Machine, unit: InstallUnit) -> None:
    """Another service has the port when the socket is to open again."""
    machine.run(["systemctl", "start", "top.service"])
    machine.run(["systemctl", "stop", "epmd.socket"])
    unit("rival.service", unit_file(PYTHON))
    machine.run(["systemctl", "start", "rival.service"])
    until(lambda: listening(machine), "the rival to listen")
    run = runbook(machine, "apply", START)
    for verdict, reason in reasons(run):
        assert verdict == "job-dependency"
        assert "which needs epmd.socket, which failed: it could not listen on 127.0.0.1:4369; port" in reason
        assert "(python3), in rival.service" in reason
    assert run.last["hint"] == "stop that service, or give one of the two another port"
    machine.run(["systemctl", "reset-failed"])


@pytest.mark.usefixtures("orphan")
@pytest.mark.parametrize("restart", ["no", "on-failure"])
def test_a_service_whose_log_names_the_port(machine: Machine, unit: InstallUnit, restart: str) -> None:
    """A service has no list of addresses. With Restart= it is between two starts when the job of the other ends."""
    fails = "echo '127.0.0.1:4369: Address already in use' >&2; exit 7"
    unit("db.service", unit_file(f'/bin/sh -c "{fails}"', Type="oneshot", Restart=restart, RestartSec="1h"))
    unit("mid.service", needs("db.service"))
    unit("top.service", needs("mid.service"))
    run = runbook(machine, "apply", "unit: top\nsteps: [start: {timeout: 5s}]\n")
    assert run.last["verdict"] == "job-dependency", run.last
    assert "top.service needs mid.service, which needs db.service, which " in run.last["reason"]
    assert "its main process exited with status 7; port 4369 is held by PID " in run.last["reason"]
    machine.run(["systemctl", "stop", "db.service"])


def test_a_unit_that_is_bound_to_one_that_fails_later(machine: Machine, unit: InstallUnit) -> None:
    """systemd stops it, and its own exit is no cause."""
    unit("db.service", unit_file("/bin/sh -c 'sleep 2; exit 7'"))
    unit("top.service", unit_file(SLEEPS, Unit_BindsTo="db.service", Unit_After="db.service"))
    run = runbook(machine, "apply", "unit: top\nsteps: [start, wait-ready: {healthy-for: 20s}]\n")
    assert run.last["verdict"] == "job-dependency", run.last
    assert run.last["reason"].endswith(
        "needs db.service, which failed: its main process exited with status 7 (BindsTo=)"
    )
    assert run.last["hint"] == "journalctl -u db.service -n 30 shows why"
    machine.run(["systemctl", "reset-failed"])


def test_what_is_only_down(machine: Machine, unit: InstallUnit) -> None:
    """Requisite= does not start a unit, so nothing has failed."""
    unit("idle.service", unit_file(SLEEPS))
    unit("mid.service", unit_file(SLEEPS, Unit_Requisite="idle.service", Unit_After="idle.service"))
    unit("top.service", needs("mid.service"))
    run = runbook(machine, "apply", "unit: top\nsteps: [start]\n")
    assert run.last["verdict"] == "job-dependency"
    reason = "start: top.service needs mid.service, which needs idle.service, which is inactive (dead)"
    assert run.last["reason"] == reason


def test_a_user_s_own_units(machine: Machine) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.write(f"{folder}/db.service", unit_file("/bin/false", Type="oneshot"))
    machine.write(f"{folder}/mid.service", needs("db.service"))
    machine.write(f"{folder}/top.service", needs("mid.service"))
    machine.run(["loginctl", "enable-linger", USER])
    until(lambda: not machine.run(["test", "-e", f"/run/user/{UID}/bus"], check=False).returncode, "the user's bus")
    run = runbook(machine, "apply", "scope: user\nunit: top\nsteps: [start]\n", user=USER)
    assert run.last["verdict"] == "job-dependency", run.last
    assert "which needs db.service, which failed: its main process exited with status 1" in run.last["reason"]
    assert run.last["hint"] == "journalctl --user -u db.service -n 30 shows why"
    machine.run(["rm", "-r", folder])
