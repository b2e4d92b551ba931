"""`runbook restart`: a proved restart without a file, on real units."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.machine import incident as staged
from tests.machine.conftest import InstallUnit, StartService
from tests.machine.incident import Incident
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, unit_file, write_runbook
from tests.machine.tree import USER

WEB = "/usr/bin/python3 -m http.server 8080 --bind 127.0.0.1"
# It listens on a fixed port, on ports that the kernel chooses, and has a client's UDP socket.
SEVERAL = """
import socket, time
fixed = [socket.create_server(("", 9000)), socket.create_server(("127.0.0.1", 9001))]
chosen = socket.create_server(("", 0))
server, client = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
server.bind(("", 5300))
client.bind(("", 0))
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def _no_history(machine: Machine) -> Iterator[None]:
    """An earlier run tells where a unit listened."""
    yield
    machine.run(["rm", "-rf", "/var/lib/runbook/runs", f"/home/{USER}/.local/state/runbook"])


def restart(machine: Machine, *argv: str, user: str | None = None) -> Run:
    """Run `runbook restart` in JSON. The unit must be healthy for one second."""
    command = ["runbook", "restart", "--healthy-for", "1s", *argv, "--output", "json"]
    done = machine.run(command, check=False, user=user, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def listening(machine: Machine, port: int) -> bool:
    return until(lambda: bool(staged.holders(machine, port)), f"port {port} to be held")


def test_a_restart_is_proved_and_recorded(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB))
    listening(machine, 8080)
    run = restart(machine, "web")
    assert run.exit == 0, run.last
    assert run.verdicts == [
        ("restart", "changed", "job-done"),
        ("wait-ready", "ok", "ready"),
        ("verify-port-owner", "ok", "owned"),
    ]
    [owned] = run.step("verify-port-owner")["evidence"]["ports"]
    assert owned["port"] == "127.0.0.1:8080"
    [begun] = run.of("run-started")
    assert (begun["name"], begun["file"]) == ("restart web.service", "restart --healthy-for 1s web.service")
    assert "restart web.service" in machine.run(["runbook", "history"]).stdout
    found = machine.run(["journalctl", "-o", "json", "-t", "runbook", f"RUNBOOK_RUN={run.last['run']}"]).stdout
    assert json.loads(found.splitlines()[0])["RUNBOOK_NAME"] == "restart web.service"


def test_what_it_shows_is_a_runbook(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB))
    listening(machine, 8080)
    shown = machine.run(["runbook", "restart", "--show", "--fix", "--healthy-for", "1s", "web"]).stdout
    path = write_runbook(machine, shown)
    run = machine.run(["runbook", "apply", path, "--output", "json"], timeout=60)
    assert json.loads(run.stdout.splitlines()[-1])["status"] == "changed"
    assert 'port:\n  - "127.0.0.1:8080"\n' in shown


def test_a_plan_changes_nothing(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB))
    listening(machine, 8080)
    before = machine.show("web.service", "InvocationID")
    run = restart(machine, "--dry-run", "web")
    assert (run.exit, run.last["would-change"]) == (0, True)
    assert machine.show("web.service", "InvocationID") == before
    assert machine.run(["runbook", "history"]).stdout == ""


def test_only_ports_that_are_the_same_after_a_restart_are_demanded(machine: Machine, service: StartService) -> None:
    machine.write("/opt/several.py", SEVERAL)
    service("several.service", unit_file("/usr/bin/python3 /opt/several.py"))
    listening(machine, 9001)
    run = restart(machine, "several")
    assert run.exit == 0, run.last
    ports = [one["port"] for one in run.step("verify-port-owner")["evidence"]["ports"]]
    assert ports == ["0.0.0.0:9000", "127.0.0.1:9001", "udp:0.0.0.0:5300"]
    [notice] = [one["text"] for one in run.of("notice")]
    assert "its number is one that the kernel chooses" in notice


def test_a_port_that_is_not_bound_again_is_missed(machine: Machine, service: StartService) -> None:
    """The program listens on less after the restart, because its configuration has changed."""
    machine.write("/etc/where", "0.0.0.0")
    service("web.service", unit_file("/bin/sh -c 'exec /usr/bin/python3 -m http.server 8080 --bind $(cat /etc/where)'"))
    listening(machine, 8080)
    machine.write("/etc/where", "127.0.0.1")
    shown = machine.run(["runbook", "restart", "--show", "--healthy-for", "1s", "web"]).stdout
    assert "0.0.0.0:8080" in shown
    path = write_runbook(machine, shown.replace("{healthy-for: 1s}", "{healthy-for: 1s, timeout: 3s}"))
    done = machine.run(["runbook", "apply", path, "--output", "json"], check=False, timeout=60)
    run = parsed(done.stdout, done.returncode)
    assert (run.exit, run.last["verdict"]) == (3, "still-starting")
    assert "0.0.0.0:8080" in run.last["reason"]


def test_the_incident_without_a_fix(machine: Machine, incident: Incident) -> None:
    staged.without_limit(machine)
    staged.loop(machine)
    run = restart(machine, "gateway")
    assert (run.exit, run.last["verdict"]) == (1, "orphan-holds-port")
    assert run.last["hint"] == (
        f"runbook restart --fix --healthy-for 1s gateway.service stops gateway.service, kills PID {incident.orphan} on"
        " port 18789, and starts it again"
    )
    assert [one.pid for one in staged.holders(machine)] == [incident.orphan] * 2


def test_the_incident_with_a_fix(machine: Machine, incident: Incident) -> None:
    staged.without_limit(machine)
    staged.loop(machine)
    run = restart(machine, "--fix", "--fail-on-remediation", "gateway")
    assert (run.exit, run.last["status"]) == (6, "remediated"), run.last
    assert run.step("remediate.fix.kill-orphan")["verdict"] == "killed"
    waits = [one for one in run.of("step-waiting") if one["reason"].startswith(f"port {staged.PORT} is held by PID")]
    assert waits
    assert all(0 <= one["left"] <= 2 for one in waits)
    main = int(machine.show("gateway.service", "MainPID")["MainPID"])
    assert {one.pid for one in staged.holders(machine)} == {main} != {incident.orphan}


def test_a_unit_that_is_down_has_the_ports_of_an_earlier_run(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/bin/sh -c 'exec /usr/bin/python3 -m http.server $((8000 + 80))'"))
    listening(machine, 8080)
    assert restart(machine, "web").exit == 0
    machine.run(["systemctl", "stop", "web"])
    run = restart(machine, "web")
    assert run.exit == 0
    assert [one["text"] for one in run.of("notice")] == [
        "web.service does not listen on port 8080 now; it must (an earlier run)"
    ]


def test_a_unit_without_a_port_is_proved_healthy(machine: Machine, service: StartService) -> None:
    service("quiet.service", unit_file("/bin/sleep 1000"))
    run = restart(machine, "quiet")
    assert run.verdicts == [("restart", "changed", "job-done"), ("wait-ready", "ok", "ready")]
    assert [one["text"] for one in run.of("notice")] == [
        "quiet.service listens on no port, so only its health is proved"
    ]


def test_oneshots(machine: Machine, service: StartService) -> None:
    service("once.service", unit_file("/bin/true", Type="oneshot"))
    service("kept.service", unit_file("/bin/true", Type="oneshot", RemainAfterExit="yes"))
    assert restart(machine, "once", "--fix").verdicts == [("restart", "changed", "job-done")]
    assert [verdict for _, _, verdict in restart(machine, "kept").verdicts] == ["job-done", "ready"]


def test_a_socket_and_its_service(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    unit("held.service", unit_file("/bin/sleep 1000"))
    service("held.socket", "[Socket]\nListenStream=127.0.0.1:7000\n")
    for name in ("held.socket", "held.service"):
        run = restart(machine, name)
        assert run.exit == 0, run.last
        assert [one["port"] for one in run.step("verify-port-owner")["evidence"]["ports"]] == ["127.0.0.1:7000"]
    assert (refused := restart(machine, "held.socket")).exit == 1
    assert "stop held.service first" in refused.last["reason"]


def test_an_instance_of_a_template(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    unit("web@.service", unit_file("/usr/bin/python3 -m http.server %i"))
    service("web@8085.service", unit_file("/usr/bin/python3 -m http.server %i"))
    listening(machine, 8085)
    assert restart(machine, "web@8085").step("verify-port-owner")["verdict"] == "owned"


def test_a_reload_keeps_the_invocation(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB, ExecReload="/bin/true"))
    listening(machine, 8080)
    before = machine.show("web.service", "InvocationID")
    run = restart(machine, "--reload", "web")
    assert [verdict for _, _, verdict in run.verdicts] == ["reloaded", "ready", "owned"]
    assert machine.show("web.service", "InvocationID") == before


def test_a_misspelled_unit(machine: Machine, service: StartService) -> None:
    service("website.service", unit_file("/bin/sleep 1000"))
    for options in ([], ["--dry-run"]):
        run = restart(machine, "webiste", *options)
        assert (run.exit, run.last["status"], run.last["hint"]) == (5, "not-begun", "did you mean website.service?")
    shown = machine.run(["runbook", "restart", "--show", "webiste"], check=False)
    assert (shown.returncode, "did you mean website.service?" in shown.stderr) == (5, True)


def test_a_unit_that_refuses_it(machine: Machine, service: StartService) -> None:
    service("firm.service", unit_file("/bin/sleep 1000", Unit_RefuseManualStop="yes"))
    run = restart(machine, "firm")
    assert (run.exit, "RefuseManualStop=yes" in run.last["reason"]) == (1, True)
    machine.run(["rm", "/etc/systemd/system/firm.service"])
    machine.run(["systemctl", "kill", "--signal=KILL", "firm"])


def test_a_run_that_was_killed_is_resumed(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB))
    listening(machine, 8080)
    with machine.popen(["runbook", "restart", "--healthy-for", "30s", "--output", "json", "web"]) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if '"step-started"' in line and '"wait-ready"' in line)
        machine.run(["pkill", "-KILL", "-f", "runbook restart"])
        process.communicate(timeout=20)
    run = json.loads(line)["run"]
    before = machine.show("web.service", "InvocationID")
    edit = f"sed -i s/30s/1s/ /var/lib/runbook/runs/{run}/runbook.yaml"
    machine.run(["sh", "-c", edit])
    done = machine.run(["runbook", "resume", "--output", "json"], check=False, timeout=60)
    resumed = parsed(done.stdout, done.returncode, done.stderr)
    assert (resumed.exit, resumed.last["run"]) == (0, run), resumed.last
    assert machine.show("web.service", "InvocationID") == before


SECOND = unit_file(WEB.replace("8080", "8103"))
FAILURES = {
    "the program is missing": (
        unit_file("/usr/local/bin/no-such-program"),
        "install /usr/local/bin/no-such-program, or correct ExecStart= with systemctl edit --full lost.service",
    ),
    "another setting is wrong": (
        unit_file("/bin/sleep 1000", WorkingDirectory="/nowhere"),
        "correct that setting with systemctl edit --full lost.service, then run this again",
    ),
    "it never notifies": (
        unit_file("/bin/sleep 1000", Type="notify", TimeoutStartSec="2"),
        "if the program does not report that it is ready (sd_notify), add Type=exec with systemctl edit lost.service",
    ),
    "another service has its port": (SECOND, "runbook doctor lost.service names the cause"),
    "only its log shows why": (unit_file("/bin/sh -c 'exit 3'"), "journalctl -u lost.service -n 30 shows why"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_to_do_after_a_fix_that_did_not_help(
    machine: Machine, service: StartService, unit: InstallUnit, what: str
) -> None:
    text, hint = FAILURES[what]
    if text == SECOND:
        service("first.service", SECOND)
        listening(machine, 8103)
    unit("lost.service", text)
    run = restart(machine, "--fix", "lost")
    assert (run.exit, run.last["verdict"], run.last["hint"]) == (1, "not-fixed", hint)
    if text == SECOND:
        [notice] = [one["text"] for one in run.of("notice")]
        assert notice.startswith("port 8103 is not proved: it is held by PID ")
        assert notice.endswith("to have it proved, add --port 8103")
        assert "8103 is held by PID" in machine.run(["runbook", "doctor", "lost"], check=False).stdout


def test_one_restart_at_a_time(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB))
    listening(machine, 8080)
    with machine.popen(["runbook", "restart", "--healthy-for", "60s", "--output", "json", "web"]) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"run-started"' in line)
        locked = restart(machine, "web")
        machine.run(["pkill", f"-{signal.SIGTERM.value}", "-f", "runbook restart"])
        process.communicate(timeout=20)
    assert (locked.exit, locked.last["status"]) == (75, "locked")
    assert process.returncode == 143


def test_a_user_s_own_unit(machine: Machine) -> None:
    def systemctl(*argv: str) -> None:
        machine.run(["systemctl", "--user", *argv], user=USER)

    machine.write(f"/home/{USER}/.config/systemd/user/own.service", unit_file("/usr/bin/python3 -m http.server 8086"))
    systemctl("daemon-reload")
    systemctl("start", "own.service")
    listening(machine, 8086)
    try:
        run = restart(machine, "--user", "own", user=USER)
        assert run.exit == 0, run.last
        assert run.step("verify-port-owner")["verdict"] == "owned"
        without = restart(machine, "own", user=USER)
        assert (without.exit, "add --user" in without.last["hint"]) == (5, True)
    finally:
        systemctl("stop", "own.service")


def test_without_rights(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(WEB))
    listening(machine, 8080)
    run = restart(machine, "web", user=USER)
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    shown = machine.run(["runbook", "restart", "--show", "web"], user=USER).stdout
    assert '  - "127.0.0.1:8080"\n' in shown
