"""Probes on a real systemd: websockets, journal entries by invocation, and network namespaces."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import meanwhile
from tests.machine.runs import Run, runbook, unit_file

SERVER = """
import sys
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import serve

name, port, *refuse = sys.argv[1:]

def page(connection, request):
    if "Upgrade" not in request.headers or refuse:
        return Response(200, "OK", Headers({"Content-Length": str(len(name))}), name.encode())

with serve(lambda connection: connection.recv(), "127.0.0.1", int(port), process_request=page) as server:
    server.serve_forever()
"""
"""A server that answers a page with its name and opens a websocket. With `refuse` it answers the handshake with 200."""

PYTHON = "/opt/venv/bin/python"
ASLEEP = unit_file("/usr/bin/sleep infinity")


def serving(name: str, port: int, *refuse: str) -> str:
    return " ".join([PYTHON, "/opt/serve.py", name, str(port), *refuse])


@pytest.fixture(autouse=True)
def _server(request: pytest.FixtureRequest) -> None:
    booted = "fresh_machine" if "fresh_machine" in request.fixturenames else "machine"
    request.getfixturevalue(booted).write("/opt/serve.py", SERVER)


@pytest.fixture
def start_stray(machine: Machine) -> Iterator[Callable[[int], None]]:
    """Return a function that starts a server in a scope, like an orphan, which answers each request on a port."""
    scopes: list[str] = []

    def start(port: int) -> None:
        scope = f"stray-{port}.scope"
        scopes.append(scope)
        line = f"{serving('0.0.1', port)} >/dev/null 2>&1 &"
        where = ["--scope", "--slice=user.slice", f"--unit={scope}"]
        machine.run(["systemd-run", "--quiet", *where, "sh", "-c", line])
        until(lambda: machine.run(["ss", "-Hltn", f"sport = :{port}"]).stdout, f"port {port} to be held")

    yield start
    for scope in scopes:
        machine.run(["systemctl", "stop", scope])


def wait(probes: str, fields: str = "healthy-for: 0, timeout: 3s, on-timeout: fail", **top: object) -> str:
    named = "".join(f"{key}: {value}\n" for key, value in {"unit": "web", **top}.items())
    return f"{named}steps:\n  - wait-ready: {{{fields}, probes: [{probes}]}}\n"


def quickly(probe: str, timeout: str = "1s") -> str:
    """Return a step that waits briefly for one probe, and whose failure does not end the run."""
    fields = f"healthy-for: 0, timeout: {timeout}, on-timeout: fail, on-failure: continue"
    return f"  - wait-ready: {{{fields}, probes: [{{{probe}}}]}}\n"


def judged(run: Run) -> tuple[int, str]:
    return run.exit, run.step("wait-ready")["verdict"]


def reason(run: Run) -> str:
    text: str = run.step("wait-ready")["reason"]
    return text


def asking(port: int) -> list[str]:
    url = f"127.0.0.1:{port}"
    page = f"import urllib.request as r; assert r.urlopen('http://{url}/').read() == b'1.2.3'"
    return [
        f"tcp: {{port: {port}}}",
        f'http: {{url: "http://{url}/"}}',
        f'websocket: {{url: "ws://{url}/"}}',
        f'run: {{run: [{PYTHON}, -c, "{page}"]}}',
    ]


PATIENT = "healthy-for: 0, timeout: 20s"
"""For a unit that becomes ready, even on a slow machine."""


def all_of(probes: list[str]) -> str:
    return ", ".join(f"{{{probe}}}" for probe in probes)


# -- websocket


def test_a_refused_websocket_is_a_failure_though_the_page_answers(machine: Machine, service: StartService) -> None:
    """HTTP answers with 200, but the websocket that the clients use is broken."""
    http, websocket = asking(9301)[1:3]
    service("web.service", unit_file(serving("1.2.3", 9301, "refuse")))
    assert judged(runbook(machine, "apply", wait(f"{{{http}}}", PATIENT, port=9301))) == (0, "ready")
    broken = runbook(machine, "apply", wait(f"{{{http}}}, {{{websocket}}}", port=9301))
    assert judged(broken) == (1, "probe-failed"), broken.last
    found = "ws://127.0.0.1:9301/: answered 200 to the handshake, not 101: it serves pages there, and no websocket"
    assert reason(broken) == f"not ready within 3s: {found}"


def test_an_open_websocket_is_ready_and_is_closed_properly(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(serving("1.2.3", 9301)))
    run = runbook(machine, "apply", wait(all_of(asking(9301)), "healthy-for: 1s, timeout: 20s", port=9301))
    assert judged(run) == (0, "ready"), run.last
    assert "ws://127.0.0.1:9301/: opened" in run.step("wait-ready")["evidence"]["probes"]
    # Each connection was closed properly: the service's journal has no error about one.
    machine.run(["journalctl", "--sync"])
    assert "Error" not in machine.run(["journalctl", "-u", "web.service", "-o", "cat"]).stdout


def test_a_websocket_of_an_orphan_does_not_count(
    machine: Machine, service: StartService, start_stray: Callable[[int], None]
) -> None:
    start_stray(9302)
    service("web.service", ASLEEP)
    run = runbook(machine, "apply", wait(f"{{{asking(9302)[2]}}}"))
    assert judged(run) == (1, "probe-failed"), run.last
    assert "an answer from port 127.0.0.1:9302 does not count: port 127.0.0.1:9302 is held by PID " in reason(run)


# -- journal


READY = "{journal: {pattern: '^ready'}}"


def test_an_entry_of_an_earlier_invocation_does_not_count(machine: Machine, service: StartService) -> None:
    machine.write("/opt/first", "")
    service("web.service", unit_file("/bin/sh -c 'rm /opt/first && echo ready; exec sleep infinity'"))
    assert judged(runbook(machine, "apply", wait(READY, PATIENT))) == (0, "ready")
    machine.run(["systemctl", "restart", "web.service"])
    later = runbook(machine, "apply", wait(READY))
    assert judged(later) == (1, "probe-failed"), later.last
    # The error message of rm is an entry of this invocation, so it is counted.
    assert reason(later) == "not ready within 3s: journal: `^ready` is not in this invocation's 1 entry yet"
    assert machine.run(["journalctl", "-u", "web.service", "-g", "^ready"]).stdout


def test_a_late_entry_of_this_invocation_counts(machine: Machine, service: StartService) -> None:
    """Entries of systemd about the unit, which have the word in the unit's description, do not count."""
    waits = "until test -e /run/late; do sleep 0.05; done"
    start = f"/bin/sh -c '{waits}; printf \"one\\001\\nready for all\\n\"; exec sleep infinity'"
    service("web.service", unit_file(start, Unit_Description="ready or not"))

    def late(_event: object) -> None:
        machine.run(["touch", "/run/late"])

    text = wait("{journal: {pattern: 'ready'}}", "healthy-for: 1s, timeout: 20s")
    run = meanwhile(machine, text, late, event="step-waiting", id="wait-ready")
    machine.run(["rm", "/run/late"])
    assert judged(run) == (0, "ready"), run.last
    assert run.step("wait-ready")["evidence"]["ready-after"] > 0


def test_an_entry_of_a_leftover_does_not_count(machine: Machine, service: StartService) -> None:
    """journald records it under the current invocation, because the cgroup is the same."""
    loop = "(while sleep 0.1; do echo ready; /bin/echo ready; done) &"
    machine.write("/opt/first", "")
    service(
        "web.service",
        unit_file(f"/bin/sh -c 'rm /opt/first && {loop} exec sleep infinity'", KillMode="process"),
    )
    assert judged(runbook(machine, "apply", wait(READY, PATIENT))) == (0, "ready")
    machine.run(["systemctl", "restart", "web.service"])
    now = machine.show("web.service", "InvocationID")["InvocationID"]
    ours = ["journalctl", "-q", "-g", "^ready", f"_SYSTEMD_INVOCATION_ID={now}"]
    until(lambda: machine.run(ours, check=False).stdout, "journald to record the leftover under the new invocation")
    run = runbook(machine, "apply", wait(READY))
    assert judged(run) == (1, "probe-failed"), run.last


def test_a_journal_namespace_of_the_unit_is_read(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/bin/sh -c 'echo ready; exec sleep infinity'", LogNamespace="web"))
    try:
        assert judged(runbook(machine, "apply", wait(READY, PATIENT))) == (0, "ready")
    finally:
        parts = [f"systemd-journald{part}" for part in ("@web.socket", "-varlink@web.socket", "@web.service")]
        machine.run(["systemctl", "stop", *parts], check=False)
        # This unit flushes the journal of the namespace, and fails because that journald is stopped.
        machine.run(["systemctl", "reset-failed", "systemd-journald-sync@web.service"], check=False)


def test_a_user_who_may_not_read_the_journal_gets_a_reason(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/bin/sh -c 'echo ready; exec sleep infinity'"))
    run = runbook(machine, "check", wait(READY), user="agentops")
    assert judged(run) == (1, "probe-failed"), run.last
    assert reason(run) == (
        "journal: there is no entry of this invocation: "
        "this user may not read all of it; root may, and the group systemd-journal"
    )


def test_a_journald_that_does_not_run_is_reported(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.write("/etc/systemd/system/web.service", ASLEEP)
    names = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"]
    machine.run(["systemctl", "start", "web.service"])
    machine.run(["systemctl", "stop", *names])
    run = runbook(machine, "check", wait(READY))
    assert judged(run) == (1, "probe-failed"), run.last
    assert reason(run) == "journal: there is no entry of this invocation: systemd-journald does not run"


@pytest.fixture
def linger(machine: Machine) -> Iterator[Callable[[str], str]]:
    """Start the user's manager of agentops, and return a function that runs systemctl there."""
    machine.run(["loginctl", "enable-linger", "agentops"])

    def systemctl(line: str) -> str:
        return machine.run(["systemctl", "--user", *line.split()], user="agentops").stdout.strip()

    def up() -> bool:
        asked = machine.run(["systemctl", "--user", "is-system-running"], check=False, user="agentops")
        return asked.stdout.strip() in ("running", "degraded")

    until(up, "the manager of agentops")
    yield systemctl
    machine.run(["loginctl", "disable-linger", "agentops"])
    until(lambda: not machine.run(["ls", "/run/user"]).stdout.strip(), "the manager to exit")


def test_a_unit_of_a_users_manager_has_its_own_entries(machine: Machine, linger: Callable[[str], str]) -> None:
    folder = "/home/agentops/.config/systemd/user"
    # The shell itself writes the entry. For a process that has exited, journald could not find the user's unit.
    start = "/bin/sh -c 'test -e /home/agentops/first && echo ready; echo well; exec sleep infinity'"
    machine.write(f"{folder}/web.service", unit_file(start))
    machine.write("/home/agentops/first", "")
    machine.run(["chown", "-R", "agentops", "/home/agentops"])
    linger("daemon-reload")
    linger("start web.service")
    try:
        run = runbook(machine, "apply", wait(READY, PATIENT), "--user", user="agentops")
        assert judged(run) == (0, "ready"), run.last
        machine.run(["rm", "/home/agentops/first"])
        linger("restart web.service")
        later = runbook(machine, "apply", wait(READY), "--user", user="agentops")
        assert judged(later) == (1, "probe-failed"), later.last
        assert "`^ready` is not in this invocation's 1 entry yet" in reason(later)
    finally:
        linger("stop web.service")
        machine.run(["rm", "-r", "/home/agentops/.config", "/home/agentops/test.yaml"])


def test_any_user_may_claim_an_invocation(
    machine: Machine, service: StartService, linger: Callable[[str], str]
) -> None:
    """journald reads a user unit's invocation from a link that the user may write: that alone is no proof."""
    service("web.service", unit_file("/bin/sh -c 'echo well; exec sleep infinity'"))
    now = machine.show("web.service", "InvocationID")["InvocationID"]
    folder, claim = "/home/agentops/.config/systemd/user", "/run/user/1000/systemd/units/invocation:web.service"
    says = f"ln -sfn {now} {claim}; while sleep 0.3; do echo ready; done"
    machine.write(f"{folder}/web.service", unit_file(f"/bin/sh -c '{says}'"))
    machine.run(["chown", "-R", "agentops", "/home/agentops"])
    linger("daemon-reload")
    linger("start web.service")
    try:
        claimed = ["journalctl", "-q", "-g", "^ready", f"_SYSTEMD_INVOCATION_ID={now}"]
        until(lambda: machine.run(claimed, check=False).stdout, "journald to believe the user")
        run = runbook(machine, "apply", wait(READY))
        assert judged(run) == (1, "probe-failed"), run.last
        assert reason(run) == "not ready within 3s: journal: `^ready` is not in this invocation's 1 entry yet"
    finally:
        linger("stop web.service")
        machine.run(["rm", "-r", "/home/agentops/.config"])


# -- network namespaces


@pytest.fixture
def blue(machine: Machine) -> Iterator[str]:
    """Make a network namespace with a loopback interface, and return the command that enters it."""
    machine.run(["ip", "netns", "add", "blue"])
    machine.run(["ip", "-n", "blue", "link", "set", "lo", "up"])
    yield "/usr/sbin/ip netns exec blue"
    with contextlib.suppress(Exception):
        machine.run(["ip", "netns", "del", "blue"])


APART = ["PrivateNetwork=yes", "NetworkNamespacePath=/run/netns/blue", "ip netns exec"]


def apart(how: str, start: str) -> str:
    """Return a unit file whose service has its own network namespace."""
    name, _, value = how.partition("=")
    return unit_file(start, **{name: value}) if value else unit_file(f"/usr/sbin/ip netns exec blue {start}")


@pytest.mark.usefixtures("blue")
@pytest.mark.parametrize("how", APART)
def test_probes_run_inside_the_network_namespace(
    machine: Machine, service: StartService, start_stray: Callable[[int], None], how: str
) -> None:
    """Another process has the same port outside. It is not queried, whatever it would answer."""
    start_stray(9303)
    service("web.service", apart(how, serving("1.2.3", 9303)))
    run = runbook(machine, "apply", wait(all_of(asking(9303)), "healthy-for: 1s, timeout: 20s", port=9303))
    assert judged(run) == (0, "ready"), run.last
    version = "verify-version: {http: {url: 'http://127.0.0.1:9303/'}, expect: 1.2.3}"
    checked = runbook(machine, "check", f"unit: web\nport: 9303\nsteps: [{version}]\n")
    assert checked.step("verify-version")["reason"] == "1.2.3 serves"

    service("web.service", apart(how, "/usr/bin/sleep infinity"))
    machine.run(["systemctl", "restart", "web.service"])
    # The last probe starts a Python, which takes a while until it fails.
    asked = [quickly(probe, span) for probe, span in zip(asking(9303), ("1s", "1s", "1s", "4s"), strict=True)]
    run = runbook(machine, "apply", "unit: web\nsteps:\n" + "".join(asked))
    waits = run.of("step-finished")
    assert [ended["verdict"] for ended in waits] == ["probe-failed"] * 4, run.last
    assert all(ended["reason"].endswith("connection refused") for ended in waits[:3]), waits
    assert "exited with status 1: " in waits[3]["reason"]


def test_a_probe_right_after_a_start_does_not_reach_the_host(
    machine: Machine, service: StartService, start_stray: Callable[[int], None]
) -> None:
    """For a moment the new process is still outside its namespace, where another process would answer."""
    start_stray(9303)
    settings = {"PrivateNetwork": "yes", "Unit_StartLimitIntervalSec": "0"}
    service("web.service", unit_file("/usr/bin/sleep infinity", **settings))
    steps = f"  - restart\n{quickly(asking(9303)[0], '300ms')}" * 10
    run = runbook(machine, "apply", f"unit: web\nsteps:\n{steps}")
    found = [ended["verdict"] for ended in run.of("step-finished") if ended["type"] == "wait-ready"]
    # On a busy machine the time-out may end before the process has entered its namespace.
    assert len(found) == 10
    assert set(found) <= {"probe-failed", "still-starting"}, run.last


def test_the_port_of_a_socket_unit_is_probed_on_the_host(machine: Machine, service: StartService) -> None:
    """The socket unit listens on the host, and its service has its own network namespace."""
    socket = "[Socket]\nListenStream=127.0.0.1:9304\n[Install]\nWantedBy=sockets.target\n"
    machine.write("/etc/systemd/system/web.socket", socket)
    service("web.service", unit_file("/usr/bin/sleep infinity", PrivateNetwork="yes", Unit_Requires="web.socket"))
    try:
        run = runbook(machine, "apply", wait("{tcp: {port: 9304}}", "healthy-for: 0, timeout: 10s", port=9304))
        assert judged(run) == (0, "ready"), run.last
    finally:
        machine.run(["systemctl", "stop", "web.service", "web.socket"])
        machine.run(["rm", "/etc/systemd/system/web.socket"])


@pytest.mark.usefixtures("blue")
@pytest.mark.parametrize("how", APART)
def test_a_user_who_may_not_enter_the_namespace_gets_a_reason(
    machine: Machine, service: StartService, how: str
) -> None:
    service("web.service", apart(how, serving("1.2.3", 9303)))
    run = runbook(machine, "check", wait(f"{{{asking(9303)[0]}}}"), user="agentops")
    assert judged(run) == (1, "probe-failed"), run.last
    assert re.search("run it as root, which can read every process$|only root may$", reason(run)), reason(run)
