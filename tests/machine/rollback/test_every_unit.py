"""A rollback restarts every unit that the run started, restarted or reloaded, and proves it of each.

`web`, `worker` and `helper` read the version of the site when they start, and again when they are reloaded: what each
of them serves is read from its own port.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook

OLD, NEW = "1.0.0", "2.0.0"
PORTS = {"web": 8081, "worker": 8082, "helper": 8083}

SERVER = """\
import http.server, os, pathlib, signal, subprocess, sys, time
name, port = sys.argv[1], int(sys.argv[2])
told = ""
def read(*_):
    global told
    told = pathlib.Path("/opt/site/version").read_text().strip()
def hand_over(*_):
    os.environ["INHERITED"] = str(server.fileno())
    os.set_inheritable(server.fileno(), True)
    child = subprocess.Popen([sys.executable, *sys.argv], close_fds=False)
    subprocess.run(["systemd-notify", f"MAINPID={child.pid}", "READY=1"])
    time.sleep(0.3)
    os._exit(0)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(told.encode())
    def log_message(self, *words):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    def server_bind(self):
        import socket
        if held := os.environ.get("INHERITED"):
            self.socket.close()
            self.socket = socket.socket(fileno=int(held))
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
        self.server_name, self.server_port = name, port
read()
if os.path.exists(f"/run/site/{name}-leaves-a-child") and told != "1.0.0":
    subprocess.Popen(["sleep", "infinity"], start_new_session=True)
server = Server(("127.0.0.1", port), Answer)
signal.signal(signal.SIGHUP, read)
signal.signal(signal.SIGUSR2, hand_over)
server.serve_forever()
"""

UNIT = """\
[Unit]
{unit}
[Service]
ExecStart=/usr/bin/python3 /opt/site/server.py {name} {port}
ExecReload=/bin/kill -HUP $MAINPID
NotifyAccess=all
TimeoutStopSec=5
{service}
"""

HEAD = f"""\
name: upgrade the site
unit: {{unit}}
vars: {{{{new: {NEW}}}}}
rollback: {{rollback}}
steps:
  - update:
      run: echo ${{{{{{{{ to }}}}}}}} >/opt/site/version
      version: cat /opt/site/version
      to: ${{{{{{{{ vars.new }}}}}}}}
"""
FAILS = '  - wait-ready: {healthy-for: 100ms}\n  - run: {name: migrate, run: "echo migrated badly; exit 7"}\n'


class Site:
    """The three services in a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def sh(self, script: str, *, check: bool = True) -> str:
        return self.machine.run(["sh", "-c", script], check=check).stdout

    def write_unit(self, name: str, service: str = "", unit: str = "") -> None:
        text = UNIT.format(name=name, port=PORTS[name], service=service, unit=unit)
        self.machine.write(f"/etc/systemd/system/{name}.service", text)
        self.sh("systemctl daemon-reload")

    def start(self, *names: str) -> None:
        self.sh("systemctl restart " + " ".join(names))
        until(lambda: all(self.serves(name) == OLD for name in names), "the old version to serve")

    def serves(self, name: str) -> str:
        """Return the version that a service reports of itself."""
        return self.sh(f"curl -fsS http://127.0.0.1:{PORTS[name]}/", check=False)

    def show(self, unit: str, name: str) -> str:
        return self.machine.show(unit, name)[name]

    def apply(self, *steps: str, unit: str = "web", rollback: str = "auto") -> Run:
        body = "".join(f"  - {step}\n" for step in steps)
        return runbook(self.machine, "apply", HEAD.format(unit=unit, rollback=rollback) + body + FAILS)

    def text(self, run: Run) -> str:
        return " ".join(self.machine.run(["runbook", "show", run.last["run"]]).stdout.split())


@pytest.fixture
def site(machine: Machine) -> Iterator[Site]:
    made = Site(machine)
    machine.write("/opt/site/server.py", SERVER)
    made.sh(f"mkdir -p /run/site; rm -f /run/site/*; echo {OLD} >/opt/site/version")
    for name in PORTS:
        made.write_unit(name)
    made.start("web", "worker")
    yield made
    made.sh(
        "systemctl stop web worker helper site.target front.socket front.service;"
        "rm -f /etc/systemd/system/*.target /etc/systemd/system/front.* /etc/systemd/system/helper.*;"
        "systemctl daemon-reload; systemctl reset-failed",
        check=False,
    )


def command(text: str) -> str:
    return f"run: {{run: {text!r}}}"


def rolled_back(site: Site, run: Run, *names: str) -> None:
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), (run.last, run.verdicts)
    assert {name: site.serves(name) for name in names} == dict.fromkeys(names, OLD)


def test_a_reloaded_unit_beside_a_restarted_one(site: Site) -> None:
    run = site.apply("reload", "restart: {unit: worker}")
    rolled_back(site, run, "web", "worker")
    assert set(run.step("rollback.proof")["evidence"]["units"]) == {"web.service", "worker.service"}


@pytest.mark.parametrize(
    "does",
    [
        "systemctl restart worker",
        "systemctl restart --no-block worker",
        "systemctl reload worker",
        "systemctl kill --kill-whom=main -s USR2 worker; sleep 1",
        "service worker restart",
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"
        " RestartUnit ss worker.service replace",
    ],
)
def test_a_unit_that_a_command_restarted(site: Site, does: str) -> None:
    """The runbook does not name it anywhere else."""
    run = site.apply(command(does), "restart")
    rolled_back(site, run, "web", "worker")
    assert run.of("rollback-started")[0]["units"] == ["worker.service"]


WORKER_EXITS = "run: {id: exits, read-only: true, run: 'pkill -f [s]erver.py.worker; sleep 1'}"
CALL_THE_BUS = """\
import sys
from gi.repository import Gio, GLib
bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)
systemd = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
bus.call_sync(*systemd, sys.argv[1], GLib.Variant("(ss)", (sys.argv[2], "replace")), None, 0, 5000, None)
"""


def test_a_unit_that_a_command_restarted_and_that_exited_afterwards(site: Site) -> None:
    """Nothing shows who requested the restart, and its times are those of the automatic restart that came later."""
    site.write_unit("worker", service="Restart=always\nRestartSec=100ms")
    site.start("worker")
    site.machine.write("/opt/site/call.py", CALL_THE_BUS)
    restart = command("python3 /opt/site/call.py RestartUnit worker.service; sleep 0.5")
    run = site.apply(restart, WORKER_EXITS)
    rolled_back(site, run, "web", "worker")
    assert run.of("rollback-started")[0]["units"] == ["worker.service"]
    assert run.step("run")["evidence"]["changed-services"] == ["worker.service"]


def test_a_unit_that_exited_beside_the_commands_is_left_alone(site: Site) -> None:
    site.write_unit("worker", service="Restart=always\nRestartSec=100ms")
    site.start("worker")
    run = site.apply("restart", WORKER_EXITS)
    rolled_back(site, run, "web")
    assert run.of("rollback-started")[0].get("units", []) == []


def test_a_unit_that_a_command_started(site: Site) -> None:
    site.write_unit("helper", service="ExecStartPre=/bin/sleep 0.5")  # So systemctl waits, and can be seen.
    run = site.apply(command("systemctl start helper"), "restart")
    rolled_back(site, run, "web", "helper")


def test_a_unit_that_was_down_and_that_something_unknown_started_is_left_alone(site: Site) -> None:
    """It may be the run's own command, or an operator who has nothing to do with the run."""
    site.machine.write("/opt/site/call.py", CALL_THE_BUS)
    run = site.apply(command("python3 /opt/site/call.py StartUnit helper.service; sleep 0.5"), "restart")
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.of("rollback-started")[0].get("units", []) == []
    why = "helper.service was started by an unknown process while a command of this run was running, and may run"
    assert why in run.last["reason"]
    assert run.last["hint"] == "systemctl restart helper.service"
    assert (site.serves("web"), site.serves("helper")) == (OLD, NEW)


def test_a_unit_that_the_update_restarted(site: Site) -> None:
    """As the script of a package does."""
    steps = HEAD.format(unit="web", rollback="auto").replace("/opt/site/version\n      version", "&")
    text = steps.replace("&", "/opt/site/version; systemctl restart worker\n      version") + FAILS
    run = runbook(site.machine, "apply", text)
    rolled_back(site, run, "web", "worker")


def test_the_parts_of_a_target(site: Site) -> None:
    site.machine.write("/etc/systemd/system/site.target", "[Unit]\nWants=worker.service helper.service\n")
    site.write_unit("worker", unit="PartOf=site.target")
    site.sh("systemctl start site.target")
    # `helper` is no part of the target: its restart only starts what is down.
    site.sh("systemctl stop helper")
    run = site.apply("restart: {unit: site.target}")
    rolled_back(site, run, "worker", "helper")


def test_the_service_behind_a_socket(site: Site) -> None:
    """The runbook stops the service, and the next connection starts it with the new version."""
    site.sh("systemctl stop web")
    site.machine.write("/etc/systemd/system/front.socket", "[Socket]\nListenStream=127.0.0.1:8084\n")
    script = "read version </opt/site/version; exec -a served-$version sleep infinity"
    site.machine.write("/etc/systemd/system/front.service", f"[Service]\nExecStart=/bin/bash -c '{script}'\n")
    site.sh("systemctl daemon-reload; systemctl start front.socket front.service")
    connect = "run: {run: curl -sm 1 http://127.0.0.1:8084/ || true}"
    run = site.apply("stop: {unit: front.service}", connect, unit="front.socket")
    shown = site.sh("pgrep -af served-").split()
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), (run.last, run.verdicts)
    assert f"served-{OLD}" in shown
    assert f"served-{NEW}" not in shown


def test_a_unit_that_only_a_check_names(site: Site) -> None:
    before = site.show("worker", "InvocationID")
    run = site.apply("restart", "verify-port-owner: {unit: worker, port: 8082}")
    rolled_back(site, run, "web", "worker")
    assert site.show("worker", "InvocationID") != before


def test_a_process_of_the_new_version_that_stays(site: Site) -> None:
    """KillMode=process leaves the child that the new version started: the rollback is none."""
    site.write_unit("worker", service="KillMode=process")
    site.start("worker")
    site.sh("touch /run/site/worker-leaves-a-child")
    run = site.apply("restart", command("systemctl restart worker"))
    child = site.sh("pgrep -x sleep").strip()
    site.sh(f"kill {child}")
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.last["verdict"] == "old-code-serving"
    reason = run.step("rollback.proof")["reason"]
    assert f"worker.service: PID {child} (sleep) started before the files were restored" in reason
    assert run.last["hint"].startswith("KillMode=process of worker.service spares its processes: kill those named")
    assert "worker.service" in site.text(run)


def test_a_unit_that_does_not_come_back(site: Site) -> None:
    """Each of the two is restarted, and one exits at once with the old version."""
    site.write_unit("worker", service="ExecCondition=/bin/sh -c '! test -e /run/site/refuses'")
    run = site.apply("reload", command("systemctl restart worker; touch /run/site/refuses"))
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert "worker.service" in run.last["reason"]
    assert site.serves("web") == OLD


def test_what_another_requester_restarted_is_left_alone(site: Site) -> None:
    """An operator restarts `worker` while a command of the run works. Nor is a timer's service touched."""
    admin = site.machine.popen(
        ["sh", "-c", "until test -e /run/site/now; do sleep 0.02; done; systemctl restart worker; touch /run/site/done"]
    )
    run = site.apply(command("touch /run/site/now; until test -e /run/site/done; do sleep 0.02; done"), "restart")
    admin.communicate()
    rolled_back(site, run, "web")
    assert run.of("rollback-started")[0].get("units", []) == []
    notices = " ".join(event["text"] for event in run.of("notice"))
    assert "worker.service" in notices
    assert "was restarted by something else (PID" in notices


def test_a_unit_that_loops_since_before_the_run_is_left_alone(site: Site) -> None:
    """It restarts by itself while the command runs, as it did before; restarting it would prove nothing, or fail."""
    site.machine.write(
        "/etc/systemd/system/loops.service",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sh -c 'exit 3'\nRestart=always\nRestartSec=200ms\n",
    )
    site.sh("systemctl daemon-reload; systemctl start loops")
    until(lambda: int(site.show("loops", "NRestarts")) > 1, "loops.service to loop")
    try:
        count = "$(systemctl show -P NRestarts loops)"
        once = f"n={count}; until test {count} -gt $((n + 1)); do sleep 0.05; done"
        run = site.apply(command(once), "restart")
    finally:
        site.sh("systemctl stop loops; rm /etc/systemd/system/loops.service; systemctl daemon-reload", check=False)
    rolled_back(site, run, "web")
    assert "loops.service restarts by itself since before this step, and is left alone" in site.text(run)


def test_a_list_of_steps_names_what_it_leaves(site: Site) -> None:
    steps = """
  - run: {run: echo 1.0.0 >/opt/site/version}
  - restart
  - wait-ready: {healthy-for: 100ms}"""
    run = site.apply("reload: {unit: worker}", "restart", rollback=steps)
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), run.last
    assert site.serves("worker") == NEW
    notices = " ".join(event["text"] for event in run.of("notice"))
    assert "worker.service was started, restarted or reloaded by this run" in notices
