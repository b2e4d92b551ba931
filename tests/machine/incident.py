"""Stages the incident for which this program was written, with a small service in a throwaway machine.

An older copy of the gateway, started by hand in a login session of `agentops`, holds the port. systemd starts the main
process of the unit again and again. Each one finds the port in use and exits with status 78. Most of the time
`systemctl` shows the unit as "active (running)".
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.machine.machine import Machine, until
from tests.machine.tree import USER

PORT = 18789
UNIT = "gateway.service"
OLD, NEW = "2026.4.29", "2026.5.5"

GATEWAY = Path(__file__).with_name("stand_in_gateway.py")

# The start limit is that of the incident. Each main process runs for `start_seconds`, then systemd waits RestartSec=.
# With these two values the unit reads "running" two times out of three.
SERVICE = """\
[Unit]
Description=Gateway (stand-in)
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
User={user}
ExecStart=/opt/gateway/current/gateway serve --port {port} --start-seconds {start_seconds}
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Holder:
    """A process that holds a listening socket, from `ss` inside the machine."""

    address: str
    pid: int
    command: str


@dataclass
class Incident:
    """The staged incident. `orphan` is the PID, inside the machine, of the process that holds the port."""

    machine: Machine
    orphan: int
    login: subprocess.Popen[str]

    def clear(self) -> None:
        """Kill what is left of the incident, and remove the unit."""
        self.login.kill()
        self.machine.run(["sh", "-c", f"kill -KILL {self.orphan}"], check=False)
        remove_unit(self.machine, UNIT)
        until(lambda: not holders(self.machine), f"port {PORT} to be free")
        self.machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl"])
        self.login.communicate()


def install_gateway(machine: Machine, version: str = OLD, *, start_seconds: float = 2) -> None:
    """Install the gateway, its command `gatewayctl`, and its unit, which is not started."""
    machine.write(f"/opt/gateway/{version}/gateway", GATEWAY.read_text(), 0o755)
    machine.run(["ln", "-sfn", version, "/opt/gateway/current"])
    machine.write("/usr/local/bin/gatewayctl", '#!/bin/sh\nexec /opt/gateway/current/gateway "$@"\n', 0o755)
    machine.write(f"/etc/systemd/system/{UNIT}", SERVICE.format(user=USER, port=PORT, start_seconds=start_seconds))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "enable", "--quiet", UNIT])


def stage(machine: Machine, *, old: str = OLD, start_seconds: float = 2) -> Incident:
    """Stage the incident: the gateway's files and unit are of version `old`, and an orphan holds the port.

    loop() starts the unit.
    """
    install_gateway(machine, old, start_seconds=start_seconds)
    login = in_login(machine, ["/opt/gateway/current/gateway", "serve", "--start-seconds", "0"])
    until(lambda: len(holders(machine)) == 2, f"port {PORT} to be held", 15)
    return Incident(machine, holders(machine)[0].pid, login)


def loop(machine: Machine, unit: str = UNIT) -> dict[str, str]:
    """Start the unit beside the orphan, and wait until systemd has restarted it and shows it as running again.

    Return the properties of that moment. A moment later they may be different.
    """
    machine.run(["systemctl", "start", unit])
    return until(lambda: _looping(machine, unit), f"{unit} to be restarted and read as running", 60)


def _looping(machine: Machine, unit: str) -> dict[str, str]:
    seen = machine.show(unit, "ActiveState", "SubState", "NRestarts", "MainPID")
    return seen if int(seen["NRestarts"]) > 0 and seen["SubState"] == "running" else {}


def without_limit(machine: Machine) -> None:
    """Remove the start limit, as five starts would soon be used up on a slow machine."""
    machine.write(f"/etc/systemd/system/{UNIT}.d/limit.conf", "[Unit]\nStartLimitIntervalSec=0\n")
    machine.run(["systemctl", "daemon-reload"])


def in_login(machine: Machine, argv: Sequence[str], user: str = USER) -> subprocess.Popen[str]:
    """Run a command in a user's login session, as a child of the session's shell.

    Its control group is session-N.scope, which does not end with a unit. The session ends with the command.
    """
    line = f"{shlex.join(argv)} & wait"
    return machine.popen(["su", "-", user, "-c", line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def holders(machine: Machine, port: int = PORT) -> list[Holder]:
    """Return the processes that listen on a TCP port, from `ss`, not from the program under test.

    A socket without a holder, as for a moment after its process has exited, has PID 0.
    """
    found = []
    for line in machine.run(["ss", "-Hltnp", f"sport = :{port}"]).stdout.splitlines():
        address = line.split()[3]
        processes = re.findall(r'\("([^"]*)",pid=(\d+),fd=\d+\)', line) or [("", "0")]
        found += [Holder(address, int(pid), command) for command, pid in processes]
    return found


def control_group(machine: Machine, pid: int) -> str:
    """Return the unified control group of a process, inside the machine."""
    return machine.read(f"/proc/{pid}/cgroup").splitlines()[-1].removeprefix("0::")


def answer(machine: Machine, port: int = PORT) -> dict[str, object]:
    """Return the gateway's answer over HTTP: its version and PID."""
    answered: dict[str, object] = json.loads(machine.run(["curl", "-fsS", f"http://127.0.0.1:{port}/"]).stdout)
    return answered


def remove_unit(machine: Machine, unit: str) -> None:
    """Kill and stop a unit of /etc/systemd/system, delete its files, and reset its state."""
    machine.run(["systemctl", "kill", "--signal=KILL", unit], check=False)
    machine.run(["systemctl", "stop", unit], check=False)
    machine.run(["systemctl", "disable", "--quiet", unit], check=False)
    machine.run(["rm", "-rf", f"/etc/systemd/system/{unit}", f"/etc/systemd/system/{unit}.d"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "reset-failed", unit], check=False)
