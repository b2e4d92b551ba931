"""A start that waits for its time-out ends as soon as it is known that another process has the unit's port."""

from __future__ import annotations

import re

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, meanwhile, script, wait
from tests.machine.runs import Run, runbook, unit_file

PORT = 9430
LISTENS = f"/usr/bin/python3 -m http.server --bind 127.0.0.1 {PORT}"

TRIES = f"""
import os, socket, time

while True:
    try:
        listener = socket.create_server(("127.0.0.1", {PORT}))
        break
    except OSError:
        time.sleep(0.2)
door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
door.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
door.send(b"READY=1")
time.sleep(1000)
"""
"""As smbd and mariadb do: it tries again and again, and is ready when it listens."""


@pytest.fixture
def tries(machine: Machine, unit: InstallUnit) -> str:
    """Install web.service, which waits for its port for as long as systemd lets it."""
    machine.write("/opt/tries.py", TRIES)
    return unit("web.service", unit_file("/usr/bin/python3 /opt/tries.py", Type="notify", TimeoutStartSec="90s"))


@pytest.fixture
def held(machine: Machine) -> str:
    """Start an orphan that listens on the port; return the command that ends it."""
    machine.run(
        [
            "systemd-run",
            "--quiet",
            "--scope",
            "--slice=user.slice",
            "--unit=stray",
            "sh",
            "-c",
            f"{LISTENS} >/dev/null 2>&1 &",
        ]
    )
    until(lambda: machine.run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout, "the port to be held")
    return "systemctl stop stray.scope"


@pytest.fixture(autouse=True)
def _free(machine: Machine) -> None:
    machine.run(["systemctl", "stop", "stray.scope"], check=False)


def held_by(run: Run, step: str, verdict: str) -> str:
    """Return the reason of a step that ended at once because of a port."""
    ended = run.step(step)
    assert (ended["status"], ended["verdict"], ended["seconds"] < 20) == ("failed", verdict, True), run.last
    reason: str = ended["reason"]
    return reason


@pytest.mark.usefixtures("tries")
@pytest.mark.parametrize("verb", ["start", "restart"])
def test_an_orphan_has_the_port(machine: Machine, held: str, verb: str) -> None:
    run = runbook(machine, "apply", book("web", verb, port=PORT))
    reason = held_by(run, verb, "orphan-holds-port")
    assert reason.startswith("web.service is activating (start)")
    assert f"cannot finish its start: port {PORT} is held by PID " in reason
    machine.run(["sh", "-c", held])


EXITS = {
    "notify": unit_file(LISTENS, Type="notify"),
    "forking": unit_file(f"/bin/sh -c '{LISTENS}'", Type="forking"),
    "oneshot": unit_file(LISTENS, Type="oneshot", TimeoutStartSec="90s"),
}
"""Services that exit at once if the port is in use, so that their start fails."""


@pytest.mark.parametrize("kind", EXITS)
def test_a_service_that_exits_because_of_it(machine: Machine, unit: InstallUnit, held: str, kind: str) -> None:
    """The cause is the verdict, with the exit beside it. In a plan that continues, it leads to the same fix."""
    unit("web.service", EXITS[kind])
    for verb in ("start", "restart"):
        reason = held_by(runbook(machine, "apply", book("web", verb, port=PORT)), verb, "orphan-holds-port")
        assert re.match(
            rf"the {verb} of web\.service failed: its \S+ .*exited with status 1; port {PORT} is held", reason
        )
    machine.run(["sh", "-c", held])
    machine.write("/etc/systemd/system/web.service.d/other.conf", "[Service]\nExecStart=\nExecStart=/bin/false\n")
    machine.run(["systemctl", "daemon-reload"])
    run = runbook(machine, "apply", book("web", "restart", port=PORT))
    assert run.step("restart")["verdict"] == "job-failed", run.last


@pytest.mark.usefixtures("tries")
def test_the_port_of_a_wait(machine: Machine, held: str) -> None:
    """A port that only another step names, for the same unit."""
    run = runbook(machine, "apply", book("web", "restart", wait(f"port: {PORT}")))
    held_by(run, "restart", "orphan-holds-port")
    machine.run(["sh", "-c", held])


@pytest.mark.usefixtures("tries")
def test_another_service_has_the_port(machine: Machine, unit: InstallUnit) -> None:
    unit("other.service", unit_file(LISTENS))
    machine.run(["systemctl", "start", "other.service"])
    until(lambda: machine.run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout, "the port to be held")
    run = runbook(machine, "apply", book("web", "restart", port=PORT))
    assert "other.service" in held_by(run, "restart", "other-unit-holds-port")


@pytest.mark.usefixtures("tries")
def test_the_holder_exits_in_time(machine: Machine, held: str) -> None:
    """What holds the port for a moment only is no reason: it may be the old process on its way out."""

    def ends(_told: object) -> None:
        machine.run(["sh", "-c", f"sleep 1; {held}"])

    run = meanwhile(machine, book("web", "restart", port=PORT), ends, event="step-acting", id="restart")
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last["reason"]


@pytest.mark.usefixtures("tries")
def test_a_start_that_is_only_slow(machine: Machine) -> None:
    """Nothing is wrong with a service that takes its time, as long as no other process has its port."""
    slow = script("sleep 4; exec python3 /opt/tries.py")
    machine.write("/etc/systemd/system/web.service", unit_file(slow, Type="notify", NotifyAccess="all"))
    run = runbook(machine, "apply", book("web", "restart", port=PORT))
    assert (run.exit, run.step("restart")["verdict"]) == (0, "job-done"), run.last


CHECKS = "wait-ready: {healthy-for: 300ms}, verify-port-owner"
FIXES = f"remediate: {{check: [{CHECKS}], fix: [stop, kill-orphan, reset-failed, start]}}"


@pytest.mark.usefixtures("tries", "held")
@pytest.mark.parametrize("verb", ["start", "restart"])
def test_the_remediation_that_follows_fixes_it(machine: Machine, verb: str) -> None:
    """The failure of a step right before a remediation does not end the run: the remediation finds the cause."""
    run = runbook(machine, "apply", book("web", verb, FIXES, port=PORT))
    held_by(run, verb, "orphan-holds-port")
    assert run.step(verb)["continues"] is True
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last


@pytest.mark.usefixtures("tries")
def test_abort_written_explicitly_ends_the_run(machine: Machine, held: str) -> None:
    run = runbook(machine, "apply", book("web", "restart: {on-failure: abort}", FIXES, port=PORT))
    assert (run.exit, run.last["step"], run.last["verdict"]) == (1, "restart", "orphan-holds-port"), run.last
    assert [name for name, _, _ in run.verdicts] == ["restart"]
    machine.run(["sh", "-c", held])


@pytest.mark.usefixtures("tries")
def test_a_remediation_that_is_skipped_fixes_nothing(machine: Machine, held: str) -> None:
    skipped = FIXES.replace("check:", "when: 'false', check:")
    run = runbook(machine, "apply", book("web", "restart", skipped, "daemon-reload", port=PORT))
    assert (run.exit, run.last["step"], run.last["verdict"]) == (1, "restart", "orphan-holds-port"), run.last
    assert "daemon-reload" not in [name for name, _, _ in run.verdicts]
    machine.run(["sh", "-c", held])


def test_a_restart_that_was_refused_is_no_success(machine: Machine, unit: InstallUnit) -> None:
    """The checks hold, for the old process still serves; but the restart did not take place."""
    limit = {"Unit_StartLimitBurst": "2", "Unit_StartLimitIntervalSec": "600"}
    unit("web.service", unit_file(LISTENS, **limit))
    run = runbook(machine, "apply", book("web", "restart", "restart", "restart", FIXES, port=PORT))
    assert (run.exit, run.last["step"], run.last["verdict"]) == (1, "restart-3", "start-limit-hit"), run.last
    assert run.step("remediate")["verdict"] == "holds"
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "active"


def test_a_reload_that_failed(machine: Machine, unit: InstallUnit) -> None:
    """Nothing is found wrong with the service; but it has not read its configuration."""
    unit("web.service", unit_file(LISTENS, ExecReload="/bin/false"))
    run = runbook(machine, "apply", book("web", "start", "reload", FIXES, port=PORT))
    assert (run.exit, run.last["step"], run.last["verdict"]) == (1, "reload", "job-failed"), run.last
