"""Units that read `active` and are not well: they send no watchdog ping, are frozen or stopped, or have no process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, meanwhile, script, wait
from tests.machine.runs import Run, runbook, unit_file

SLEEPS = "/usr/bin/sleep infinity"
MOMENT = "healthy-for: 300ms"

PINGS = """
import os, socket, sys, time

door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
door.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
for text in sys.argv[1:]:
    door.send(text.encode())
while True:
    time.sleep(0.5)
    if "silent" not in sys.argv:
        door.send(b"WATCHDOG=1")
"""

SERVES = "/usr/bin/python3 -m http.server --bind 127.0.0.1 9410"


def ended(run: Run) -> tuple[int, str]:
    return run.exit, run.step("wait-ready")["verdict"]


# Watchdog


def watched(start: str, span: str, restart: str = "always", **settings: str) -> str:
    """Write a unit with a watchdog that systemd starts again at once."""
    more = {"Type": "notify", "Restart": restart, "RestartSec": "100ms", "WatchdogSec": span, **settings}
    return unit_file(start, WatchdogSignal="SIGKILL", Unit_StartLimitIntervalSec="0", **more)


@pytest.fixture
def pings(machine: Machine) -> str:
    """A service that reports that it is ready and then pings the watchdog, unless it is told to be `silent`."""
    machine.write("/opt/pings.py", PINGS)
    return "/usr/bin/python3 /opt/pings.py READY=1"


@pytest.mark.parametrize(("restart", "verdict"), [("always", "crash-loop"), ("no", "unit-failed")])
def test_no_ping_within_the_watchdog_s_time(
    machine: Machine, unit: InstallUnit, pings: str, restart: str, verdict: str
) -> None:
    """The window is as long as WatchdogSec=, so the kill of systemd falls into it."""
    unit("web.service", watched(f"{pings} silent", "3s", restart))
    run = runbook(machine, "apply", book("web", "restart", wait(MOMENT)))
    assert ended(run) == (1, verdict), run.last
    assert "it sent no keep-alive ping within the 3s of WatchdogSec=" in run.last["reason"]


def test_a_service_that_pings(machine: Machine, unit: InstallUnit, pings: str) -> None:
    unit("web.service", watched(pings, "2s"))
    run = runbook(machine, "apply", book("web", "restart", wait(MOMENT)))
    assert ended(run) == (0, "ready"), run.last
    assert run.step("wait-ready")["seconds"] >= 2
    assert "WatchdogSec" not in run.step("wait-ready")["reason"]


def test_a_service_that_sets_its_own_watchdog(machine: Machine, unit: InstallUnit, pings: str) -> None:
    unit("web.service", watched(f"{pings} WATCHDOG_USEC=2000000 silent", "1h"))
    run = runbook(machine, "apply", book("web", "restart", wait(MOMENT)))
    assert ended(run) == (1, "crash-loop"), run.last


def test_a_watchdog_that_takes_longer_than_the_step(machine: Machine, unit: InstallUnit, pings: str) -> None:
    """The step does not wait an hour, and reports what it has not seen."""
    unit("web.service", watched(f"{pings} silent", "1h"))
    run = runbook(machine, "apply", book("web", "restart", wait(MOMENT)))
    assert ended(run) == (0, "ready"), run.last
    said = "it was watched for less than its WatchdogSec=1h, so whether it keeps sending keep-alive pings is not proved"
    assert said in run.step("wait-ready")["reason"]


def test_a_check_in_the_middle_of_the_loop(machine: Machine, service: StartService, pings: str) -> None:
    """It waits for nothing; but systemd has just restarted the unit, and the journal has the reason."""
    service("web.service", watched(f"{pings} silent", "2s"))
    until(lambda: machine.show("web.service", "NRestarts")["NRestarts"] != "0", "a restart")
    until(lambda: machine.show("web.service", "SubState")["SubState"] == "running", "the unit to run")
    run = runbook(machine, "check", book("web", wait(MOMENT)))
    assert ended(run) == (1, "crash-loop"), run.last
    assert "it sent no keep-alive ping within the 2s of WatchdogSec=" in run.last["reason"]


def test_a_check_long_after_a_restart(machine: Machine, service: StartService) -> None:
    """A crash of long ago is no loop; it is mentioned."""
    start = script("test -e /run/well && exec sleep infinity; touch /run/well; exit 1")
    service("web.service", unit_file(start, Restart="always", RestartSec="100ms"))
    until(lambda: machine.show("web.service", "NRestarts")["NRestarts"] == "1", "a restart")
    until(lambda: machine.show("web.service", "SubState")["SubState"] == "running", "the unit to run")
    machine.run(["sleep", "1"])
    run = runbook(machine, "check", book("web", wait(MOMENT)))
    machine.run(["rm", "/run/well"])
    assert ended(run) == (0, "ready"), run.last
    assert "; systemd restarted it once " in run.step("wait-ready")["reason"]


# Frozen and stopped


DAEMON = script("setsid sleep 7100 & exit 0")

STILL = {
    "frozen": (unit_file(SLEEPS), "systemctl freeze web.service", "systemctl thaw web.service"),
    "in a frozen slice": (
        unit_file(SLEEPS, Slice="cold.slice"),
        "systemctl freeze cold.slice",
        "systemctl thaw cold.slice",
    ),
    "stopped": (
        unit_file(SLEEPS),
        "kill -STOP $(systemctl show --value -p MainPID web)",
        "kill -CONT $(systemctl show --value -p MainPID web)",
    ),
    "stopped without a main process": (
        unit_file(DAEMON, Type="forking", GuessMainPID="no"),
        "kill -STOP $(cat /sys/fs/cgroup/system.slice/web.service/cgroup.procs)",
        "kill -CONT $(cat /sys/fs/cgroup/system.slice/web.service/cgroup.procs)",
    ),
}


@pytest.fixture(params=STILL)
def still(request: pytest.FixtureRequest, machine: Machine, service: StartService) -> Iterator[tuple[str, str]]:
    """A unit none of whose processes runs; yields what was done to it and how it goes on."""
    text, stop, go_on = STILL[request.param]
    service("web.service", text)
    machine.run(["sh", "-c", stop])
    yield request.param, go_on
    machine.run(["sh", "-c", go_on], check=False)


def test_a_unit_that_does_not_run(machine: Machine, still: tuple[str, str]) -> None:
    """It reads active, and is not ready: neither at once, nor at the end of the time, which is a failure."""
    name, go_on = still
    checked = runbook(machine, "check", book("web", wait()))
    assert ended(checked) == (1, "unit-frozen"), checked.last
    run = runbook(machine, "apply", book("web", wait(MOMENT, 2)))
    assert ended(run) == (1, "unit-frozen"), run.last
    said = "is stopped (SIGSTOP; kill -CONT" if "stopped" in name else "web.service is frozen"
    assert said in run.last["reason"]

    def goes_on(_told: object) -> None:
        machine.run(["sh", "-c", go_on])

    run = meanwhile(machine, book("web", wait(MOMENT)), goes_on, event="step-waiting", id="wait-ready")
    assert ended(run) == (0, "ready"), run.last


def test_stopped_in_the_middle_of_its_window(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(SLEEPS))

    def stop(_told: object) -> None:
        machine.run(["sh", "-c", "kill -STOP $(systemctl show --value -p MainPID web)"])

    run = meanwhile(machine, book("web", wait("healthy-for: 1s", 3)), stop, event="step-waiting", id="wait-ready")
    assert ended(run) == (1, "unit-frozen"), run.last


def test_a_stopped_service_is_fixed(machine: Machine, service: StartService) -> None:
    """It owns its port, and every connection to it is accepted by the kernel and answered by no process."""
    service("web.service", unit_file(SERVES))
    until(lambda: machine.run(["ss", "-Hltn", "sport = :9410"]).stdout, "the port to be held")
    machine.run(["sh", "-c", "kill -STOP $(systemctl show --value -p MainPID web)"])
    fixes = f"remediate: {{check: [wait-ready: {{timeout: 2s, {MOMENT}}}], fix: [stop, reset-failed, start]}}"
    run = runbook(machine, "apply", book("web", fixes, port=9410))
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.of("fix-started")[0]["because"] == "unit-frozen"


# Active without a process


SERVER = script("setsid python3 -m http.server --bind 127.0.0.1 9410 >/dev/null 2>&1 & exit 0")
AS_SYSV = {"Type": "forking", "GuessMainPID": "no", "RemainAfterExit": "yes", "KillMode": "process"}
"""What systemd-sysv-generator writes for a script in /etc/init.d."""

EXITED = {
    "a SysV script whose daemon has died": unit_file(SERVER, **AS_SYSV),
    "a main process that has exited": unit_file(SERVES, RemainAfterExit="yes", SuccessExitStatus="SIGKILL"),
}


@pytest.fixture(params=EXITED)
def exited(request: pytest.FixtureRequest, machine: Machine, service: StartService) -> str:
    """A unit that is active (exited) because its daemon was killed; returns its Type=."""
    service("web.service", EXITED[request.param])
    until(lambda: machine.run(["ss", "-Hltn", "sport = :9410"]).stdout, "the port to be held")
    machine.run(["sh", "-c", "kill -KILL $(cat /sys/fs/cgroup/system.slice/web.service/cgroup.procs)"])
    until(lambda: machine.show("web.service", "SubState")["SubState"] == "exited", "the unit to be active (exited)")
    return machine.show("web.service", "Type")["Type"]


def test_active_without_a_process(machine: Machine, exited: str) -> None:
    """It is down; without a port, RemainAfterExit= may be meant, except by a SysV script. A remediation starts it."""
    forks = exited == "forking"
    run = runbook(machine, "apply", book("web", wait(MOMENT)))
    assert ended(run) == ((1, "unit-exited") if forks else (0, "ready")), run.last
    run = runbook(machine, "apply", book("web", wait(), port=9410))
    assert ended(run) == (1, "unit-exited"), run.last
    assert run.step("wait-ready")["seconds"] < 5
    assert "web.service is active (exited), and no process of it runs" in run.last["reason"]
    run = runbook(machine, "apply", book("web", "start"))
    assert (run.exit, run.step("start")["verdict"]) == ((1, "unit-exited") if forks else (0, "already-so")), run.last
    fixes = f"remediate: {{check: [wait-ready: {{{MOMENT}}}], fix: [stop, reset-failed, start]}}"
    run = runbook(machine, "apply", book("web", fixes, port=9410))
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert machine.run(["ss", "-Hltn", "sport = :9410"]).stdout


def test_a_remediation_of_a_frozen_unit(machine: Machine, service: StartService, suite: str) -> None:
    """systemd 252 thaws a unit that it stops. 257 refuses every job, and the reason names what helps."""
    service("web.service", unit_file(SLEEPS))
    machine.run(["systemctl", "freeze", "web.service"])
    fixes = f"remediate: {{check: [wait-ready: {{timeout: 1s, {MOMENT}}}], fix: [stop, reset-failed, start]}}"
    run = runbook(machine, "apply", book("web", fixes))
    if suite == "bookworm":
        assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    else:
        assert (run.exit, run.last["verdict"]) == (1, "not-fixed"), run.last
        assert "systemctl thaw web.service" in run.last["reason"], run.last["reason"]
    machine.run(["systemctl", "thaw", "web.service"])


def test_a_leftover_is_not_the_service(machine: Machine, service: StartService) -> None:
    """KillMode=process has spared a child of the invocation before; it is all that is left in the unit."""
    start = script("test -e /run/second && exit 0; touch /run/second; setsid sleep 7200 & exit 0")
    service("web.service", unit_file(start, **AS_SYSV))
    try:
        assert ended(runbook(machine, "apply", book("web", wait(MOMENT)))) == (0, "ready")
        machine.run(["systemctl", "restart", "web.service"])
        run = runbook(machine, "apply", book("web", wait(MOMENT)))
        assert ended(run) == (1, "unit-exited"), run.last
        assert "left over from an earlier invocation" in run.last["reason"]
    finally:
        machine.run(["sh", "-c", "rm -f /run/second; pkill -KILL -f '^sleep 7200'"])


def test_a_oneshot_that_remains(machine: Machine, service: StartService) -> None:
    """A Type=oneshot with RemainAfterExit= is as it should be; but it will never listen on a port by itself."""
    service("web.service", unit_file("/bin/true", Type="oneshot", RemainAfterExit="yes"))
    assert ended(runbook(machine, "apply", book("web", wait(MOMENT)))) == (0, "ready")
    run = runbook(machine, "apply", book("web", wait(MOMENT, 2), port=9410))
    assert ended(run) == (1, "unit-exited"), run.last
