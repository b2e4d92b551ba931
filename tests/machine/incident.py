"""The incident this program was born from, staged with a small service in a throwaway machine.

An older copy of the gateway, started by hand in a login of `agentops`, holds the port. The unit
starts its own main process again and again; each finds the port taken and ends with status 78;
and at most instants `systemctl` calls the unit "active (running)".
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

# The start limit is the one of the incident. Each main process lives for about as long as it takes
# to start, then waits RestartSec: with these two the unit reads "running" two times out of three.
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
    """A process that holds a listening socket, as `ss` inside the machine sees it."""

    address: str
    pid: int
    command: str


@dataclass
class Incident:
    """What was staged: `orphan` is the PID, inside the machine, of the process that holds the port."""

    machine: Machine
    orphan: int
    login: subprocess.Popen[str]

    def clear(self) -> None:
        """Ends what is left of it and takes the unit away."""
        self.login.kill()
        self.machine.run(["sh", "-c", f"kill -KILL {self.orphan}"], check=False)
        remove_unit(self.machine, UNIT)
        until(lambda: not holders(self.machine), f"port {PORT} to be free")
        self.machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl"])
        self.login.communicate()


def install_gateway(machine: Machine, version: str = OLD, *, start_seconds: float = 2) -> None:
    """Installs the gateway and its unit, which is not started, and `gatewayctl`, its command."""
    machine.write(f"/opt/gateway/{version}/gateway", GATEWAY.read_text(), 0o755)
    machine.run(["ln", "-sfn", version, "/opt/gateway/current"])
    machine.write("/usr/local/bin/gatewayctl", '#!/bin/sh\nexec /opt/gateway/current/gateway "$@"\n', 0o755)
    machine.write(f"/etc/systemd/system/{UNIT}", SERVICE.format(user=USER, port=PORT, start_seconds=start_seconds))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "enable", "--quiet", UNIT])


def stage(machine: Machine, *, old: str = OLD, start_seconds: float = 2) -> Incident:
    """Stages the incident: the gateway's files and unit at `old`, the port in the hands of an orphan.

    The unit is not started yet: see loop().
    """
    install_gateway(machine, old, start_seconds=start_seconds)
    login = in_login(machine, ["/opt/gateway/current/gateway", "serve", "--start-seconds", "0"])
    until(lambda: len(holders(machine)) == 2, f"port {PORT} to be held", 15)
    return Incident(machine, holders(machine)[0].pid, login)


def loop(machine: Machine, unit: str = UNIT) -> dict[str, str]:
    """Starts the unit beside the orphan, and waits until systemd has restarted it at least once and
    calls it running again. Gives what systemd said of it in that very moment: the next one may be another."""
    machine.run(["systemctl", "start", unit])
    return until(lambda: _looping(machine, unit), f"{unit} to be restarted and read as running", 60)


def _looping(machine: Machine, unit: str) -> dict[str, str]:
    seen = machine.show(unit, "ActiveState", "SubState", "NRestarts", "MainPID")
    return seen if int(seen["NRestarts"]) > 0 and seen["SubState"] == "running" else {}


def without_limit(machine: Machine) -> None:
    """Lets the unit loop for as long as a slow machine takes to look at it: five starts are soon used up."""
    machine.write(f"/etc/systemd/system/{UNIT}.d/limit.conf", "[Unit]\nStartLimitIntervalSec=0\n")
    machine.run(["systemctl", "daemon-reload"])


def in_login(machine: Machine, argv: Sequence[str], user: str = USER) -> subprocess.Popen[str]:
    """Runs a command in a login session of a user's, as a child of the session's shell.

    Its control group is session-N.scope, which outlives any unit. The session ends with it.
    """
    line = f"{shlex.join(argv)} & wait"
    return machine.popen(["su", "-", user, "-c", line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def holders(machine: Machine, port: int = PORT) -> list[Holder]:
    """The processes that listen on a TCP port, asked of `ss`: never of the program under test.

    A socket that nobody holds any more, as for a moment after its process ended, has PID 0.
    """
    found = []
    for line in machine.run(["ss", "-Hltnp", f"sport = :{port}"]).stdout.splitlines():
        address = line.split()[3]
        processes = re.findall(r'\("([^"]*)",pid=(\d+),fd=\d+\)', line) or [("", "0")]
        found += [Holder(address, int(pid), command) for command, pid in processes]
    return found


def control_group(machine: Machine, pid: int) -> str:
    """The unified control group of a process, as the machine sees it."""
    return machine.read(f"/proc/{pid}/cgroup").splitlines()[-1].removeprefix("0::")


def answer(machine: Machine, port: int = PORT) -> dict[str, object]:
    """What the gateway says about itself over HTTP: version and PID."""
    said: dict[str, object] = json.loads(machine.run(["curl", "-fsS", f"http://127.0.0.1:{port}/"]).stdout)
    return said


def remove_unit(machine: Machine, unit: str) -> None:
    """Stops a unit of /etc/systemd/system at once and makes systemd forget it."""
    machine.run(["systemctl", "kill", "--signal=KILL", unit], check=False)
    machine.run(["systemctl", "stop", unit], check=False)
    machine.run(["systemctl", "disable", "--quiet", unit], check=False)
    machine.run(["rm", "-rf", f"/etc/systemd/system/{unit}", f"/etc/systemd/system/{unit}.d"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "reset-failed", unit], check=False)
