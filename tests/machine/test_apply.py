"""`runbook apply` on a real systemd, and its outcome in different situations."""

from __future__ import annotations

import signal

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.incident import install_gateway, remove_unit
from tests.machine.machine import Machine, least, until
from tests.machine.runs import interrupted, parsed, runbook, unit_file, write_runbook

LISTEN = (
    "/usr/bin/python3 -c 'import socket,time; time.sleep({delay}); s=socket.socket();"
    ' s.setsockopt(1,2,1); s.bind(("127.0.0.1",{port})); s.listen();'
    ' open("/tmp/listening-{port}","w").write(str(time.time())); time.sleep(1e6)\''
)


def listener(port: int = 8080, delay: float = 0.0) -> str:
    """Return an ExecStart= that listens after a delay, and records the time."""
    return LISTEN.format(port=port, delay=delay)


CHECKED = """
    unit: web.service
    port: 8080
    steps:
      - restart
      - remediate:
          check:
            - wait-ready: {healthy-for: 1s, timeout: 20s}
            - verify-port-owner
          fix: [stop, kill-orphan, reset-failed, start]
"""


def test_a_restart_of_a_healthy_unit_succeeds(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(listener()))
    before = machine.show("web.service", "InvocationID")
    run = runbook(machine, "apply", CHECKED)
    assert (run.exit, run.last["status"]) == (0, "changed")
    assert run.step("remediate")["verdict"] == "holds"
    assert machine.show("web.service", "InvocationID") != before


def test_the_wait_ends_when_the_unit_listens(machine: Machine, service: StartService) -> None:
    """The best of some tries is within 50 ms. The computer is shared, so a busy moment may delay a try."""
    service("web.service", unit_file(listener(delay=0.5), Unit_StartLimitIntervalSec="0"))
    book = """
        unit: web.service
        port: 8080
        steps:
          - restart
          - wait-ready: {healthy-for: 0, timeout: 20s}
    """

    def late() -> float:
        run = runbook(machine, "apply", book)
        assert run.exit == 0, run.last
        there = float(machine.read("/tmp/listening-8080"))
        ready = run.step("wait-ready")["time"]
        return float(machine.run(["date", "-d", ready, "+%s.%N"]).stdout) - there

    assert least(late, within=0.05, tries=10) < 0.05


def test_another_service_that_holds_the_port_is_not_stopped(machine: Machine, service: StartService) -> None:
    service("other.service", unit_file(listener()))
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    run = runbook(machine, "apply", CHECKED)
    assert (run.exit, run.last["status"]) == (1, "failed")
    assert ("remediate.check.wait-ready", "failed", "other-unit-holds-port") in run.verdicts
    assert "other.service is a live service" in run.last["reason"]
    # Neither of the two was stopped.
    assert machine.show("other.service", "ActiveState")["ActiveState"] == "active"
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "active"
    assert not [e for e in run.events if e.get("id", "").startswith("remediate.fix")]


def test_a_slow_start_is_not_interrupted(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(listener(delay=60)))
    pid = machine.show("web.service", "MainPID")
    book = """
        unit: web.service
        port: 8080
        steps:
          - remediate:
              check: [wait-ready: {healthy-for: 0, timeout: 1s}]
              fix: [stop, start]
    """
    run = runbook(machine, "apply", book)
    assert (run.exit, run.last["status"]) == (3, "still-starting")
    assert machine.show("web.service", "MainPID") == pid


def test_a_crash_loop_is_reported_long_before_the_time_out(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/bin/false", Restart="always", RestartSec="200ms", Unit_StartLimitBurst="100"))
    book = """
        unit: web.service
        steps:
          - restart
          - wait-ready: {timeout: 60s}
    """
    run = runbook(machine, "apply", book)
    assert (run.exit, run.step("wait-ready")["verdict"]) == (1, "crash-loop")
    assert run.step("wait-ready")["seconds"] < 10


def test_an_exit_without_a_restart_is_a_failure(machine: Machine, service: StartService) -> None:
    """With RestartPreventExitStatus=78 there is no crash loop: the unit stays down."""
    service(
        "web.service",
        unit_file("/bin/sh -c 'sleep 0.2; exit 78'", Restart="always", RestartPreventExitStatus="78"),
    )
    run = runbook(machine, "apply", "unit: web\nsteps: [restart, wait-ready: {timeout: 60s}]\n")
    assert (run.exit, run.step("wait-ready")["verdict"]) == (1, "unit-failed")
    assert "status 78" in run.step("wait-ready")["reason"]


def test_a_start_limit_is_reported_and_reset_failed_clears_it(machine: Machine, service: StartService) -> None:
    # The interval is long, as on a slow machine a short one would be over before the next step.
    limit = {"Unit_StartLimitBurst": "1", "Unit_StartLimitIntervalSec": "600"}
    service("web.service", unit_file("/usr/bin/sleep infinity", Restart="always", **limit))
    machine.run(["systemctl", "kill", "--signal=KILL", "web.service"])
    until(lambda: machine.show("web.service", "ActiveState")["ActiveState"] == "failed", "the limit to be hit")
    refused = runbook(machine, "apply", "unit: web\nsteps: [start]\n")
    assert (refused.exit, refused.step("start")["verdict"]) == (1, "start-limit-hit")
    fixed = runbook(machine, "apply", "unit: web\nsteps: [reset-failed, start, wait-ready: {healthy-for: 500ms}]\n")
    assert (fixed.exit, fixed.last["status"]) == (0, "changed"), fixed.last


def test_a_condition_that_does_not_hold_is_reported(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity", Unit_ConditionPathExists="/nonexistent"))
    run = runbook(machine, "apply", "unit: web\nsteps: [start]\n")
    assert (run.exit, run.step("start")["verdict"]) == (1, "condition-not-met")


def test_a_masked_unit_is_not_started(machine: Machine, service: StartService) -> None:
    machine.run(["systemctl", "mask", "--quiet", "web.service"])
    try:
        run = runbook(machine, "apply", "unit: web\nsteps: [start]\n")
    finally:
        machine.run(["systemctl", "unmask", "--quiet", "web.service"])
    assert (run.exit, run.step("start")["verdict"]) == (1, "unit-masked")
    assert "systemctl unmask web.service" in run.last["reason"]


def test_a_run_on_a_missing_unit_does_not_begin(machine: Machine) -> None:
    run = runbook(machine, "apply", "unit: nosuch\nsteps: [restart]\n")
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert "systemd has no unit nosuch.service" in run.last["reason"]


def test_a_misspelt_unit_gets_a_suggestion(machine: Machine, service: StartService) -> None:
    service("gateway.service", unit_file("/usr/bin/sleep infinity"))
    refused = runbook(machine, "apply", "unit: gatewey\nsteps: [restart]\n")
    assert (refused.exit, refused.last["hint"]) == (5, "did you mean gateway.service?")
    backup = runbook(machine, "apply", "unit: gatewey\nsteps: [run: {run: touch /run/backup}, restart]\n")
    hint = "did you mean gateway.service? If run creates it, name gatewey.service in the command"
    assert (backup.exit, backup.last["hint"]) == (5, hint)
    assert machine.run(["test", "-e", "/run/backup"], check=False).returncode
    doubtful = runbook(machine, "apply", "unit: gatewey\nsteps: [run: {run: 'true # gatewey'}, restart]\n")
    [notice] = doubtful.of("notice")
    assert notice["text"] == "systemd has no unit gatewey.service yet; did you mean gateway.service?"
    assert (doubtful.exit, doubtful.last["verdict"]) == (1, "unit-not-found")
    assert doubtful.last["reason"].endswith("systemd has no unit gatewey.service; did you mean gateway.service?")


def test_a_misspelt_unit_is_found_out_before_an_update(machine: Machine, service: StartService) -> None:
    """The units of software that is installed exist. A first installation may bring its unit."""
    service("gateway.service", unit_file("/usr/bin/sleep infinity"))
    steps = "[update: {run: echo 2.0.0 >/run/version, version: cat /run/version, to: 2.0.0}, restart]"
    machine.write("/run/version", "1.0.0\n")
    for name, advice in (("gatewey", "did you mean gateway.service? If"), ("nothing", "lists similar names; if")):
        run = runbook(machine, "apply", f"unit: {name}\nsteps: {steps}\n")
        assert (run.exit, run.last["status"]) == (5, "not-begun"), run.last
        assert f"{advice} update creates it, name {name}.service in the command" in run.last["hint"]
        assert machine.run(["cat", "/run/version"]).stdout == "1.0.0\n"
    machine.run(["rm", "/run/version"])
    brings = "{ echo 2.0.0 >/run/version; systemd-run --unit=$N.service --quiet sleep infinity; }"
    first = steps.replace("echo 2.0.0 >/run/version", f'"N=gatewey; {brings}"').replace("gatewey", "ga''tewey")
    run = runbook(machine, "apply", f"unit: gatewey\nsteps: {first}\n")
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last


def test_a_name_that_is_not_near_gets_no_suggestion(machine: Machine, unit: InstallUnit) -> None:
    """Two services are not similar because both end in `.service`. The search costs no time."""
    unit("rpcbind.service", unit_file("/usr/bin/true"))
    run = runbook(machine, "check", "unit: bind9\nport: 53\nsteps: [verify-port-owner, wait-ready]\n")
    step = run.step("verify-port-owner")
    assert (step["verdict"], step["reason"]) == ("unit-not-found", "systemd has no unit bind9.service")
    assert step["seconds"] < 0.4
    near = runbook(machine, "check", "unit: rcpbind\nport: 53\nsteps: [verify-port-owner]\n")
    assert near.step("verify-port-owner")["reason"].endswith("; did you mean rpcbind.service?")


def test_a_failure_has_the_last_journal_lines_of_the_unit(machine: Machine, service: StartService) -> None:
    """They are those of this run, not earlier ones."""
    fails = "/bin/sh -c 'echo config line %s: no such word >&2; exit 1'"
    service("web.service", unit_file(fails % 7))
    machine.write("/etc/systemd/system/web.service", unit_file(fails % 3))
    run = runbook(machine, "apply", "unit: web\nsteps: [restart, wait-ready: {timeout: 5s}]\n")
    assert (run.exit, run.last["verdict"]) == (1, "unit-failed")
    assert run.step("wait-ready")["evidence"]["journal"] == ["config line 3: no such word"]
    machine.run(["systemctl", "reset-failed", "web.service"])


def test_a_wrong_port_is_reported_with_the_ports_of_the_unit(machine: Machine, service: StartService) -> None:
    """The unit listens on another port, which the reason names."""
    service("web.service", unit_file("/usr/bin/python3 -m http.server --bind 127.0.0.1 8080"))
    until(lambda: "8080" in machine.run(["ss", "-Hltn"]).stdout, "the server to listen")
    book = "unit: web\nport: 8099\nsteps: [wait-ready: {timeout: 1s, healthy-for: 0}]\n"
    run = runbook(machine, "apply", book)
    assert (run.exit, run.last["status"]) == (3, "still-starting")
    assert "does not listen on 8099 yet (it listens on 127.0.0.1:8080: is `port` right?)" in run.last["reason"]
    assert run.last["now"].endswith("no process listens on port 8099")


def test_a_run_without_the_rights_does_not_begin(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    pid = machine.show("web.service", "MainPID")
    run = runbook(machine, "apply", "unit: web\nsteps: [restart]\n", user="agentops")
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert machine.show("web.service", "MainPID") == pid


def test_a_unit_of_a_users_manager_is_restarted(machine: Machine) -> None:
    machine.run(["loginctl", "enable-linger", "agentops"])
    machine.write("/home/agentops/.config/systemd/user/web.service", unit_file(listener(port=8081)))
    machine.run(["chown", "-R", "agentops", "/home/agentops/.config"])
    systemctl = ["systemctl", "--user"]
    until(lambda: machine.run([*systemctl, "daemon-reload"], check=False, user="agentops").returncode == 0, "a manager")
    book = """
        unit: web.service
        port: 8081
        scope: user
        steps:
          - run: {run: "test $(id -un) = agentops"}
          - restart
          - wait-ready: {healthy-for: 500ms, timeout: 20s}
          - verify-port-owner
    """
    try:
        run = runbook(machine, "apply", book, user="agentops")
        assert (run.exit, run.last["status"]) == (0, "changed"), run.last
        assert run.step("verify-port-owner")["verdict"] == "owned"
    finally:
        machine.run([*systemctl, "stop", "web.service"], user="agentops", check=False)


def test_a_command_runs_in_a_unit_of_its_own_with_its_user_and_environment(machine: Machine) -> None:
    book = """
        steps:
          - run:
              run: |
                echo "$USER $HOME $(id -un) $GREETING"
                grep -o 'runbook-.*service' /proc/self/cgroup
              user: agentops
              env: {GREETING: "hello there"}
              cwd: /tmp
    """
    run = runbook(machine, "apply", book)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    output = run.step("run")["evidence"]["output"]
    assert "agentops /home/agentops agentops hello there" in output
    assert "runbook-" in output
    log = machine.run(
        ["sh", "-c", "cat /var/lib/runbook/runs/*/output/run.log; stat -c %a /var/lib/runbook/runs"]
    ).stdout
    assert "hello there" in log
    assert log.splitlines()[-1] == "700"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_and_its_command_within_a_second(machine: Machine, signum: signal.Signals) -> None:
    write_runbook(machine, 'steps: [run: {run: "sleep 4321"}]\n')

    def interrupt() -> float:
        run, took = interrupted(machine, signum, "sleep 4321")
        assert (run.exit, run.last["status"], run.last["exit"]) == (128 + signum, "interrupted", 128 + signum)
        assert machine.run(["pgrep", "-f", "sleep 4321"], check=False).returncode == 1
        return took

    assert least(interrupt, within=1.0) < 1.0


def test_a_failed_update_has_the_output_in_its_reason(machine: Machine) -> None:
    install_gateway(machine)
    try:
        book = """
            steps:
              - update:
                  run: "echo fetching; echo no such version >&2; exit 7"
                  version: gatewayctl --version
                  to: 9999.9.9
        """
        run = runbook(machine, "apply", book)
    finally:
        remove_unit(machine, "gateway.service")
        machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl"])
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed")
    assert "exited with status 7: no such version" in run.step("update")["reason"]


CREDENTIAL_SERVER = """
import contextlib, os, socket, time
server = socket.socket(socket.AF_UNIX)
server.bind("/run/credential.sock")
server.listen()
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    connection, _ = server.accept()
    time.sleep(1)
    with contextlib.suppress(OSError), connection:
        connection.sendall(b"secret")
"""


def test_a_unit_with_its_own_network_namespace_has_its_own_ports(machine: Machine, service: StartService) -> None:
    """A service on the same port number of the host does not hold the unit's port.

    That is true even before the main process has entered its namespace. systemd loads credentials before that, so here
    the main process stays outside for a second.
    """
    service("other.service", unit_file(listener(port=8080)))
    machine.write("/opt/credential.py", CREDENTIAL_SERVER)
    service("credential.service", unit_file("/usr/bin/python3 /opt/credential.py", Type="notify"))
    service(
        "web.service",
        unit_file(listener(port=8080), PrivateNetwork="yes", LoadCredential="token:/run/credential.sock"),
    )
    book = """
        unit: web.service
        port: 8080
        steps:
          - restart
          - wait-ready: {healthy-for: 500ms, timeout: 20s}
          - verify-port-owner
          - kill-orphan
    """
    run = runbook(machine, "apply", book)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert run.step("verify-port-owner")["verdict"] == "owned"
    assert run.step("kill-orphan")["verdict"] == "nothing-to-kill"
    assert machine.show("other.service", "ActiveState")["ActiveState"] == "active"


def test_a_leftover_of_kill_mode_process_is_killed(machine: Machine, service: StartService) -> None:
    """KillMode=process leaves a child behind, in the same cgroup as the current invocation."""
    bind = 's.setsockopt(1, 15, 1); s.bind(("127.0.0.1", 8083)); s.listen()'
    notify = 'socket.socket(1, 2).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])'
    machine.write("/opt/child.py", f"import os, socket, time; s = socket.socket(); {bind}; {notify}; time.sleep(1e6)")
    start = "/bin/sh -c 'python3 /opt/child.py & exec sleep infinity'"
    # The unit is started once the child listens. So after the restart both children listen.
    service("web.service", unit_file(start, KillMode="process", Type="notify", NotifyAccess="all"))
    book = """
        unit: web.service
        port: 8083
        steps:
          - restart
          - remediate:
              check: [wait-ready: {healthy-for: 500ms, timeout: 20s}]
              fix: [kill-orphan]
    """
    run = runbook(machine, "apply", book)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert ("remediate.check.wait-ready", "failed", "port-shared") in run.verdicts
    (killed,) = run.step("remediate.fix.kill-orphan")["evidence"]["killed"]
    assert killed["role"] == "leftover"
    assert machine.show("web.service", "ActiveState")["ActiveState"] == "active"


def test_only_the_units_own_socket_unit_may_hold_its_port(machine: Machine, service: StartService) -> None:
    accept = "import socket,time; s=socket.socket(fileno=3); time.sleep(1e6)"
    machine.write("/opt/activated.py", accept)
    machine.write("/etc/systemd/system/web.socket", "[Socket]\nListenStream=127.0.0.1:8084\n")
    machine.write(
        "/etc/systemd/system/stray.socket", "[Socket]\nListenStream=127.0.0.1:8085\nService=nothing.service\n"
    )
    service("nothing.service", unit_file("/bin/true"))
    service("web.service", unit_file("/usr/bin/python3 /opt/activated.py", Unit_Requires="web.socket"))
    machine.run(["systemctl", "start", "stray.socket"])
    try:
        own = runbook(machine, "check", "unit: web\nport: 8084\nsteps: [verify-port-owner]\n")
        stray = runbook(machine, "check", "unit: web\nport: 8085\nsteps: [verify-port-owner]\n")
    finally:
        machine.run(["systemctl", "stop", "stray.socket", "web.service", "web.socket"])
        machine.run(["rm", "/etc/systemd/system/web.socket", "/etc/systemd/system/stray.socket"])
    assert (own.exit, own.step("verify-port-owner")["verdict"]) == (0, "owned"), own.last
    assert (stray.exit, stray.step("verify-port-owner")["verdict"]) == (1, "other-unit-holds-port")


def test_root_does_not_run_a_file_that_others_may_write(machine: Machine) -> None:
    machine.write("/tmp/evil.yaml", 'steps: [run: {run: "touch /run/evil"}]\n', 0o666)
    done = machine.run(["runbook", "apply", "/tmp/evil.yaml", "--output", "json"], check=False)
    run = parsed(done.stdout, done.returncode, done.stderr)
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert "is writable by every user" in run.last["reason"]
    looked = machine.run(["runbook", "apply", "--dry-run", "/tmp/evil.yaml"], check=False)
    assert (looked.returncode, "cannot run /tmp/evil.yaml as root" in looked.stderr) == (5, True), looked
    assert machine.run(["test", "-e", "/run/evil"], check=False).returncode == 1
