"""Prepares a machine for attempts, and carries scenes out in several lanes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.machine.attempts.scene import Scene
from tests.machine.cuts.cuts import Facts, Lane, several
from tests.machine.machine import Machine, until
from tests.machine.tree import PROJECT, UID, USER

LANES = 4
PORTS = 10_000  # the first port of the first lane; all are below net.ipv4.ip_local_port_range
PORTS_OF_A_LANE = 5_000

UNITS = "/usr/local/lib/systemd/system"
USERS_UNITS = f"/home/{USER}/.config/systemd/user"
FORKS = "Type=forking\nTimeoutStartSec=8\nExecStart={serve}"
STOPS = "ExecStop=/bin/sh -c 'p=$(cat /run/attempts/%i/pid); kill $p; while kill -0 $p; do sleep 0.05; done'"

SERVICES = {
    "simple": "Restart=always\nRestartSec=200ms\nExecStart={serve}",
    "exec": "Type=exec\nExecStart={serve}",
    "process": "KillMode=process\nRestart=on-failure\nRestartSec=1s\nExecStart={serve}",
    "limited": "Restart=always\nRestartSec=100ms\nExecStart={serve}",
    "as-user": f"User={USER}\nRestart=always\nRestartSec=200ms\nExecStart={{serve}}",
    "private": "PrivateNetwork=yes\nRestart=on-failure\nExecStart={serve}",
    "notify": "Type=notify\nTimeoutStartSec=8\nRestart=on-failure\nExecStart={serve}",
    "watchdog": "Type=notify\nWatchdogSec=2\nTimeoutStartSec=8\nRestart=always\nExecStart={serve}",
    "forking": f"PIDFile=/run/attempts/%i/pid\n{FORKS}",
    "sysv": f"GuessMainPID=no\nRemainAfterExit=yes\nKillMode=process\n{FORKS}\n{STOPS}",
    "oneshot": "Type=oneshot\nRemainAfterExit=yes\nExecStart={serve}",
    "socket": "ExecStart={serve}",
}
"""The settings of the services under test: att-NAME@PORT.service. All are written at once, so that none is reloaded."""

LIMIT = {"limited": "[Unit]\nStartLimitIntervalSec=8\nStartLimitBurst=2\n"}

RUNS_A_FILE = "[Service]\nExecStart=/bin/sh /run/attempts/%i/innocent\n"
SOCKET = "[Socket]\nListenStream=127.0.0.1:%i\n"

PROGRAMS = ("tmux", "screen", "qemu-kvm", "firecracker")


def prepare(machine: Machine) -> None:
    """Install the units and programs of the attempts."""
    for folder in (UNITS, USERS_UNITS):
        for name, settings in SERVICES.items():
            serve = f"/usr/bin/python3 -IS {PROJECT}/tests/machine/attempts/service.py %i {name}"
            text = f"{LIMIT.get(name, '')}[Service]\n{settings.format(serve=serve)}\n"
            machine.write(f"{folder}/att-{name}@.service", text)
        machine.write(f"{folder}/att-socket@.socket", SOCKET)
        machine.write(f"{folder}/innocent@.service", RUNS_A_FILE)
    machine.write(f"{UNITS}/innocent@.socket", SOCKET)
    machine.write(f"{UNITS}/spared@.service", f"{RUNS_A_FILE}KillMode=process\n")
    machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    machine.run(["mkdir", "-p", "/opt/programs", "/run/attempts"])
    for program in PROGRAMS:
        machine.run(["cp", "/usr/bin/python3", f"/opt/programs/{program}"])
    machine.run(["systemctl", "daemon-reload"])
    # Logins as root would otherwise start and stop root's manager.
    machine.run(["loginctl", "enable-linger", "root"])
    there = ["test", "-e", f"/run/user/{UID}/bus"]
    until(lambda: not machine.run(there, check=False).returncode, "the user's manager")
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)


@contextmanager
def lanes(machine: Machine, count: int = LANES) -> Iterator[list[Lane]]:
    """Start the lanes of a machine. Each has ports of its own."""
    with ExitStack() as stack:
        made = []
        for number in range(count):
            argv = ["/usr/bin/python3", "-m", "tests.machine.attempts.stager", str(PORTS + number * PORTS_OF_A_LANE)]
            lane = Lane(machine, f"lane-{number}", argv, env={"PYTHONPATH": str(PROJECT)})
            stack.callback(lane.close)
            made.append(lane)
        yield made


def attempt(open_lanes: Sequence[Lane], drawn: Sequence[Scene]) -> Iterator[Facts]:
    """Carry scenes out, and yield the facts of each."""
    yield from several(open_lanes, [scene.facts for scene in drawn])
