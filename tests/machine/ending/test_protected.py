"""Processes that hold the port and must not be killed. The refusal comes before anything is stopped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import in_login, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook, unit_file
from tests.machine.software import ssh
from tests.machine.tree import USER

from .staging import ACTORS, actor, cleared, down, holding, kill, left_over, listening, scope

ID = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab"


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with sshd."""
    with Machine(suite, software=True) as booted:
        yield booted


@dataclass(frozen=True)
class Shape:
    """A scope that holds a port, its command, and a part of the reason."""

    name: str
    port: int
    argv: list[str]
    reasons: str
    options: tuple[str, ...] = ()


def _under(name: str, part: str, port: int, *words: object) -> list[str]:
    """Return the command of an actor whose program has another file name."""
    program = f"/opt/programs/{name}"
    return [program, ACTORS, part, str(port), *map(str, words)]


SHAPES = [
    Shape(
        "another-pid-namespace.scope",
        9301,
        ["unshare", "--pid", "--fork", "--mount-proc", *actor("server", 9301)],
        "it runs in a container (another PID namespace); kill it by hand if it is not needed: kill",
    ),
    Shape(
        "another-user-namespace.scope",
        9302,
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "unshare", "-U", *actor("server", 9302)],
        "it runs in a container (another user namespace)",
    ),
    Shape(
        f"docker-{ID}.scope",
        9303,
        actor("server", 9303),
        "; stop the container (docker stop 3f4f9a1b2c3d) or give one of them another port",
    ),
    Shape(
        f"libpod-{ID}.scope",
        9304,
        actor("server", 9304),
        "(podman stop 3f4f9a1b2c3d)",
        ("--slice=machine.slice",),
    ),
    Shape("machine-web.scope", 9305, actor("server", 9305), "(machinectl poweroff web)", ("--slice=machine.slice",)),
    Shape("tmux.scope", 9306, _under("tmux", "parent", 9306, "tmux: server"), "it keeps people's connections"),
    Shape("screen.scope", 9308, _under("screen", "named", 9308, "SCREEN"), "it keeps people's connections"),
    Shape("at.scope", 9309, ["bash", "-c", f"exec -a @lvm python3 {ACTORS} server 9309"], "its name begins with @"),
    Shape("dns.scope", 9310, _under("aardvark-dns", "server", 9310), "it keeps a container"),
    Shape("vm.scope", 9311, _under("qemu-system-x86_64", "server", 9311), "it runs a virtual machine"),
]
NOT_EXPECTED, LIVE, OLD, LOST, SOCKET, OF_USER, USER_SOCKET, TUNNEL = range(9320, 9328)
PLACES = {
    NOT_EXPECTED: "which is not what was expected: it runs as root, not as agentops",
    LIVE: "live.service is a live service; stop it (systemctl stop live.service)",
    OLD: "left over by old.service, which is inactive; kill it (systemctl kill old.service)",
    LOST: "it has the INVOCATION_ID of lost.service, which is live",
    SOCKET: "systemd listens for stray.socket; stop it (systemctl stop stray.socket)",
    OF_USER: f"(systemctl --user -M {USER}@ stop mine.service)",
    USER_SOCKET: f"listens for another socket unit (systemctl --user -M {USER}@ list-sockets)",
    TUNNEL: "it keeps people's connections or terminals",
}


@pytest.fixture
def held(machine: Machine, service: StartService) -> Iterator[None]:
    """Start all of them at once, each on its own port."""
    down(service, machine)
    names = " ".join(f"/opt/programs/{name}" for name in ("tmux", "screen", "aardvark-dns", "qemu-system-x86_64"))
    machine.run(["sh", "-ec", f"mkdir -p /opt/programs; for name in {names}; do cp /usr/bin/python3 $name; done"])
    ssh.install(machine)
    user_units = f"/home/{USER}/.config/systemd/user"
    machine.run(["loginctl", "enable-linger", USER])
    until(lambda: machine.run(["test", "-S", "/run/user/1000/bus"], check=False).returncode == 0, "a user manager")
    machine.write(f"{user_units}/mine.service", unit_file(f"/usr/bin/python3 {ACTORS} server {OF_USER}"))
    machine.write(f"{user_units}/mine-too.socket", f"[Socket]\nListenStream=127.0.0.1:{USER_SOCKET}\nAccept=yes\n")
    machine.write(f"{user_units}/mine-too@.service", unit_file("/usr/bin/true"))
    machine.write("/etc/systemd/system/stray.socket", f"[Socket]\nListenStream=127.0.0.1:{SOCKET}\nAccept=yes\n")
    machine.write("/etc/systemd/system/stray@.service", unit_file("/usr/bin/true"))
    lost = f"( setsid python3 {ACTORS} server {LOST} & )"
    with cleared(machine, "unexpected.scope", "tunnel.scope", *(shape.name for shape in SHAPES)):
        try:
            scope(machine, "tunnel.scope", [*ssh.SSH, "-N", "-R", f"{TUNNEL}:127.0.0.1:1"])
            scope(machine, "unexpected.scope", actor("server", NOT_EXPECTED))
            for shape in SHAPES:
                scope(machine, shape.name, shape.argv, *shape.options)
            service("live.service", unit_file(f"/usr/bin/python3 {ACTORS} server {LIVE}"))
            service("lost.service", unit_file(f"/bin/sh -c 'su {USER} -c \"{lost}\"; exec sleep infinity'"))
            left_over(machine, "old.service", actor("server", OLD), OLD)
            machine.run(["systemctl", "daemon-reload"])
            machine.run(["systemctl", "start", "stray.socket"])
            machine.run(["systemctl", "--user", "daemon-reload"], user=USER)
            machine.run(["systemctl", "--user", "start", "mine.service", "mine-too.socket"], user=USER)
            listening(machine, [*(shape.port for shape in SHAPES), *PLACES])
            yield
        finally:
            machine.run(["systemctl", "--user", "stop", "mine.service", "mine-too.socket"], user=USER, check=False)
            machine.run(["systemctl", "stop", "stray.socket"], check=False)
            machine.run(["pkill", "-KILL", "-f", f"actors.py server {LOST}"], check=False)
            remove_unit(machine, "old.service")
            ssh.clear(machine)
            machine.run(["rm", "-rf", "/opt/programs", user_units, "/etc/systemd/system/stray.socket"])
            machine.run(["loginctl", "disable-linger", USER])


def _steps(ports: list[int]) -> str:
    expect = {NOT_EXPECTED: ", expect: {user: agentops}"}
    return "".join(
        f"  - kill-orphan: {{port: {port}, id: on-{port}, on-failure: continue{expect.get(port, '')}}}\n"
        for port in ports
    )


@pytest.mark.usefixtures("held")
def test_protected_processes_are_not_killed_and_the_reason_names_them(machine: Machine) -> None:
    reasons = {**{shape.port: shape.reasons for shape in SHAPES}, **PLACES}
    before = {port: holding(machine, port) for port in reasons}
    assert all(before.values()), before
    run = runbook(machine, "apply", f"unit: gw\nsteps:\n{_steps(list(reasons))}")
    found = {port: run.step(f"on-{port}") for port in reasons}
    assert {port: holding(machine, port) for port in reasons} == before
    assert {port: step["verdict"] for port, step in found.items()} == dict.fromkeys(reasons, "refused-to-kill")
    assert {port: found[port]["reason"] for port, words in reasons.items() if words not in found[port]["reason"]} == {}
    assert not run.of("step-acting")
    # What runs in a multiplexer is protected with it.
    inside = holding(machine, 9307)
    run = kill(machine, 9307)
    assert run.step("kill-orphan")["verdict"] == "refused-to-kill", run.last
    assert "its ancestor PID" in run.step("kill-orphan")["reason"]
    assert holding(machine, 9307) == inside


def test_a_client_of_the_port_is_not_killed(machine: Machine, service: StartService) -> None:
    down(service, machine)
    with cleared(machine, "server.scope", "client.scope"):
        scope(machine, "server.scope", actor("server", 9331))
        listening(machine, {9331})
        scope(machine, "client.scope", actor("client", 9331))
        connected = ["ss", "-Htnp", "state", "established", "dport = :9331"]
        client = until(lambda: re.findall(r"pid=(\d+)", machine.run(connected).stdout), "the client to be connected")
        run = kill(machine, 9331)
        assert (run.exit, run.step("kill-orphan")["verdict"]) == (0, "killed"), run.last
        assert machine.run(["ps", "-o", "comm=", "-p", client[0]]).stdout == "python3\n"


ANCESTOR = """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 9332))
with open("/root/ancestor.json", "w") as out:
    command = "runbook apply /root/test.yaml --output json"
    done = subprocess.run(["sh", "-c", command + (" & wait" if sys.argv[1] == "waits" else " &")], stdout=out)
    if sys.argv[1] == "leaves":
        import pathlib, time
        while "run-finished" not in pathlib.Path("/root/ancestor.json").read_text():
            time.sleep(0.02)
print("lives")
"""


@pytest.mark.parametrize("how", ["waits", "leaves"])
def test_an_ancestor_of_this_program_is_not_killed(machine: Machine, service: StartService, how: str) -> None:
    """The ancestor is waited for, or the process between has exited, and only the session shows the ancestor."""
    down(service, machine)
    machine.write("/root/ancestor.py", ANCESTOR)
    machine.write("/root/test.yaml", "unit: gw\nport: 9332\nsteps: [kill-orphan]\n")
    done = machine.run(["setsid", "--wait", "python3", "/root/ancestor.py", how], check=False)
    assert done.stdout == "lives\n", done
    reasons = machine.read("/root/ancestor.json")
    assert "this program was started from it; start it from elsewhere" in reasons
    assert '"verdict": "refused-to-kill"' in reasons


def test_a_process_on_the_host_does_not_block_a_unit_with_its_own_network(
    machine: Machine, service: StartService
) -> None:
    down(service, machine, "alone.service", PrivateNetwork="yes")
    with cleared(machine, "server.scope"):
        scope(machine, "server.scope", actor("server", 9333))
        listening(machine, {9333})
        before = holding(machine, 9333)
        run = kill(machine, 9333, unit="alone")
        assert (run.exit, run.step("kill-orphan")["verdict"]) == (0, "nothing-to-kill"), run.last
        assert holding(machine, 9333) == before


@pytest.mark.parametrize("leftovers", ["false", "true"])
def test_only_the_leftover_of_an_active_unit_is_killed(machine: Machine, service: StartService, leftovers: str) -> None:
    """A worker of the previous invocation holds the port, in the same cgroup as the current one."""
    down(service, machine)
    first = f"test -e /run/again || {{ touch /run/again; {shlex.join(actor('deaf', 9334))} & }}"
    start = f"/bin/sh -c '{first}; exec sleep infinity'"
    try:
        service("web.service", unit_file(start, KillMode="process"))
        listening(machine, {9334})
        machine.run(["systemctl", "restart", "web.service"])
        current = machine.show("web.service", "MainPID", "InvocationID")
        run = kill(machine, 9334, unit="web", leftovers=leftovers, grace="200ms")
        assert (run.exit, run.step("kill-orphan")["verdict"]) == (0, "killed"), run.last
        assert machine.show("web.service", "MainPID", "InvocationID") == current
        assert machine.run(["ps", "-o", "comm=", "-p", current["MainPID"]]).stdout == "sleep\n"
    finally:
        machine.run(["rm", "-f", "/run/again"])


def test_a_refusal_is_found_before_anything_is_stopped(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    with cleared(machine, f"docker-{ID}.scope"):
        scope(machine, f"docker-{ID}.scope", actor("server", 9335))
        listening(machine, {9335})
        before = machine.show("web.service", "MainPID", "InvocationID")
        run = runbook(
            machine,
            "apply",
            """
            unit: web
            port: 9335
            steps:
              - remediate: {check: [verify-port-owner], fix: [stop, kill-orphan, start]}
            """,
        )
        assert (run.exit, run.step("remediate")["verdict"]) == (1, "not-fixed"), run.last
        assert "no fix was begun: kill-orphan would fail: port 9335 is held by PID" in run.step("remediate")["reason"]
        assert machine.show("web.service", "MainPID", "InvocationID") == before


def test_the_facts_of_a_process_are_recorded_before_it_is_killed(machine: Machine, service: StartService) -> None:
    """They are the command line, the names of its variables without values, the user and the sockets."""
    down(service, machine)
    login = in_login(machine, ["env", "SECRET=hunter2", *actor("server", 9336)])
    try:
        listening(machine, {9336})
        run = kill(machine, 9336)
        (acting,) = run.of("step-acting")
        (known,) = acting["evidence"]["processes"]
        assert known["command"].endswith(f"{ACTORS} server 9336")
        assert {"SECRET", "HOME", "PATH"} <= set(known["environment"])
        assert known["sockets"] == ["127.0.0.1:9336"]
        assert known["user"] == USER
        assert "hunter2" not in str(run.events)
    finally:
        machine.run(["pkill", "-KILL", "-f", "actors.py server 9336"], check=False)
        login.communicate(timeout=10)


def test_the_last_journal_lines_of_a_killed_process_are_recorded(machine: Machine, service: StartService) -> None:
    """The process is a leftover of a service, and wrote to the journal itself."""
    start = f"/bin/sh -c '{{ echo my last word; exec {shlex.join(actor('server', 9337))}; }} & exec sleep infinity'"
    try:
        service("talks.service", unit_file(start, KillMode="process"))
        listening(machine, {9337})
        machine.run(["systemctl", "stop", "talks.service"])
        machine.run(["journalctl", "--sync"])
        (holder,) = holding(machine, 9337)
        run = kill(machine, 9337, unit="talks")
        (known,) = run.of("step-acting")[0]["evidence"]["processes"]
        assert known["pid"] == holder.pid
        assert known["journal"] == ["my last word"]
    finally:
        machine.run(["pkill", "-KILL", "-f", "actors.py server 9337"], check=False)
