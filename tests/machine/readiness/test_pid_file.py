"""A Type=forking service whose PIDFile= systemd does not take in: what is in the file is in the message."""

from __future__ import annotations

import re

import pytest

from tests.machine.conftest import InstallUnit
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, meanwhile, script, wait
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import UID, USER

FILE = "/run/web.pid"
LEAVES = script("sleep 7200 & exit 0")
AWAITS = rf"web\.service is activating \(start\): systemd waits for PIDFile={FILE} \(Type=forking\); it "
RELOADED = r"; systemd was reloaded during the start, and has not watched the file since \(systemctl restart web.s"
OURS = "pgrep -x sleep"

FOUND = {
    "nothing": ("true", r"does not exist, and PID \d+ \((sh|sleep)\) runs in web\.service$"),
    "empty": (f": >{FILE}", "is empty$"),
    "a word": (f"echo none >{FILE}", "does not contain a PID$"),
    "no such process": (f"echo 4194000 >{FILE}", "names PID 4194000, and no such process runs$"),
    "an old file": (
        f"echo 4194000 >{FILE}; touch -d yesterday {FILE}",
        "is older than this start, and names PID 4194000, and no such process runs$",
    ),
    "a process elsewhere": (
        f"systemctl show -p MainPID --value dbus >{FILE}.new; chown {USER} {FILE}.new; mv {FILE}.new {FILE}",
        r"names PID \d+ \(dbus-daemon\), in dbus\.service and not in web\.service; "
        f"systemd accepts that only in a file of root's, and it belongs to uid {UID}$",
    ),
    # The content is not shown to those who may not read it.
    "a link to a file of root's": (f"ln -s /etc/shadow {FILE}", "does not contain a PID$"),
    "its own process, after a reload": (
        f"systemctl daemon-reload; {OURS} >{FILE}; sleep 1.2",
        rf"names PID \d+ \(sleep\) of web\.service, which systemd has not taken as the main process{RELOADED}",
    ),
    "nothing, after a reload": ("systemctl daemon-reload", f"does not exist, and PID .* runs in web.service{RELOADED}"),
}


@pytest.fixture
def awaiting(machine: Machine, unit: InstallUnit) -> None:
    """Start the service, until systemd waits for its file."""
    machine.run(["rm", "-f", FILE])
    unit("web.service", unit_file(LEAVES, Type="forking", PIDFile=FILE, TimeoutStartSec="1h"))
    begin(machine)


def begin(machine: Machine) -> None:
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    until_awaited(machine)


def reload_then_write(machine: Machine) -> None:
    until_awaited(machine)
    machine.run(["sh", "-ec", "systemctl daemon-reload; touch /run/go"])


def until_awaited(machine: Machine) -> None:
    def awaits() -> bool:
        shown = machine.show("web.service", "SubState", "ControlPID")
        return (shown["SubState"], shown["ControlPID"]) == ("start", "0")

    until(awaits, "the service to be awaited")


@pytest.mark.usefixtures("awaiting")
@pytest.mark.parametrize("found", FOUND)
def test_what_the_file_contains(machine: Machine, found: str) -> None:
    action, reason = FOUND[found]
    machine.run(["sh", "-ec", action])
    run = runbook(machine, "check", book("web", wait()))
    machine.run(["rm", "-f", FILE])
    assert run.step("wait-ready")["verdict"] == "still-starting"
    assert re.match(AWAITS + reason, run.step("wait-ready")["reason"]), run.last


@pytest.mark.usefixtures("awaiting")
def test_the_advice_after_a_reload(machine: Machine) -> None:
    """To wait longer would be in vain."""
    machine.run(["systemctl", "daemon-reload"])
    run = runbook(machine, "apply", book("web", wait("healthy-for: 200ms", 1)))
    assert (run.exit, run.last["hint"]) == (3, "systemctl restart web.service: to wait is in vain")


@pytest.mark.usefixtures("awaiting")
def test_a_reload_before_systemd_looks_at_the_file(machine: Machine, unit: InstallUnit) -> None:
    """While a command of the start still runs, a reload does no harm."""
    machine.run(["systemctl", "stop", "web.service"])
    slow = script(f"sleep 1; sleep 7200 & echo $! >{FILE}; exit 0")
    unit("web.service", unit_file(slow, Type="forking", PIDFile=FILE))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    machine.run(["systemctl", "daemon-reload"])
    run = runbook(machine, "apply", book("web", wait("healthy-for: 200ms")))
    assert run.step("wait-ready")["verdict"] == "ready"


@pytest.mark.parametrize("kind", ["forking", "simple"])
def test_a_file_that_a_command_after_the_start_should_write(machine: Machine, unit: InstallUnit, kind: str) -> None:
    """Then systemd waits for the file in `start-post`, whatever Type= is."""
    does = LEAVES if kind == "forking" else "/usr/bin/sleep 7200"
    unit("web.service", unit_file(does, Type=kind, PIDFile=FILE, ExecStartPost="/bin/true"))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    until(lambda: machine.show("web.service", "SubState")["SubState"] == "start-post", "the command to run")
    until(lambda: machine.show("web.service", "ControlPID")["ControlPID"] == "0", "the command to exit")
    run = runbook(machine, "check", book("web", wait()))
    reason = rf"activating \(start-post\).*: systemd waits for PIDFile={FILE} \(Type={kind}\); it does not exist"
    assert re.search(reason, run.step("wait-ready")["reason"]), run.last


@pytest.mark.parametrize("step", ["start", "wait-ready"])
def test_the_start_has_failed(machine: Machine, unit: InstallUnit, step: str) -> None:
    """systemd removes the file then, and never notices one that was written after a reload."""
    machine.run(["rm", "-f", FILE])
    daemon = script(f"(until test -e /run/go; do sleep 0.1; done; sleep 7200 & echo $! >{FILE}; wait) & exit 0")
    unit("web.service", unit_file(daemon, Type="forking", PIDFile=FILE, TimeoutStartSec="8s"))
    if step == "wait-ready":
        begin(machine)
    event = "step-acting" if step == "start" else "step-started"
    text = book("web", "start" if step == "start" else wait())
    run = meanwhile(machine, text, lambda _event: reload_then_write(machine), event=event, id=step)
    machine.run(["rm", "/run/go"])
    assert run.last["verdict"] == {"start": "job-failed", "wait-ready": "unit-failed"}[step], run.last
    took = f"no main process was taken from PIDFile={FILE}, and systemd stopped it; when PIDFile= was last read: it "
    assert took in run.last["reason"]
    assert re.search(rf"last read: it names PID \d+ \(.*\) of web\.service.*{RELOADED}", run.last["reason"]), run.last
    assert machine.run(["test", "-e", FILE], check=False).returncode
    machine.run(["systemctl", "reset-failed"])


def test_a_user_s_own_service(machine: Machine) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.write(f"{folder}/web.service", unit_file(LEAVES, Type="forking", PIDFile="%t/web.pid"))
    machine.run(["loginctl", "enable-linger", USER])
    until(lambda: not machine.run(["test", "-e", f"/run/user/{UID}/bus"], check=False).returncode, "the user's bus")
    machine.run(["systemctl", "--user", "start", "--no-block", "web"], user=USER)
    machine.run(["sh", "-c", "sleep 0.5; systemctl --user daemon-reload; sleep 0.5"], user=USER)
    run = runbook(machine, "check", book("web", wait(), scope="user"), user=USER)
    reason = rf"PIDFile=/run/user/{UID}/web.pid \(Type=forking\); it does not exist, and PID .* runs in web.service; "
    assert re.search(reason, run.step("wait-ready")["reason"]), run.last
    assert "(systemctl --user restart web.service starts it anew)" in run.step("wait-ready")["reason"]
    machine.run(["systemctl", "--user", "stop", "web"], user=USER)
    machine.run(["rm", "-r", folder])
