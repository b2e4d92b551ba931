"""Installs a Node application under a user's manager, and starts other holders of its port."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.machine.incident import Holder, holders, in_login
from tests.machine.machine import Machine, until
from tests.machine.tree import UID, USER

UNIT = "notes.service"
PORT = 3000
OLD, NEW = "1.0.0", "2.0.0"
HOME = f"/home/{USER}"
FILE = f"{HOME}/node-user-app.yaml"
RUNBOOK = Path(__file__).parents[3] / "runbooks" / "node-user-app.yaml"
PROGRAM = f"{HOME}/.local/bin/notes"

SERVER = """\
#!/usr/bin/env node
const { version } = require("./package.json");
require("http")
  .createServer((request, response) => response.end(request.url === "/version" ? version : "notes"))
  .listen(3000, "127.0.0.1");
"""

# Each start that finds the port in use exits at once with status 1.
SERVICE = """\
[Unit]
Description=notes
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
ExecStart=%h/.local/bin/notes
Restart=always
RestartSec=1

[Install]
WantedBy=default.target
"""

PACK = """
rm -rf /tmp/notes && mkdir -p /tmp/notes ~/releases
printf %s "$1" >/tmp/notes/package.json
printf %s "$2" >/tmp/notes/server.js
cd ~/releases && npm pack --silent --offline /tmp/notes
"""


def as_user(machine: Machine, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a shell command as the user, in the home folder, outside all units."""
    return machine.run(["sh", "-ec", f"cd\n{line}"], check=check, user=USER)


def pack(machine: Machine, version: str, server: str = SERVER) -> None:
    """Build the tarball of a release, as the project's CI would."""
    package = {"name": "notes", "version": version, "bin": "server.js"}
    machine.run(["sh", "-ec", PACK, "sh", json.dumps(package), server], user=USER)


def switch(machine: Machine, version: str) -> None:
    """Install a release, without a restart."""
    as_user(machine, f"npm install --silent --global --offline --prefix ~/.local ~/releases/notes-{version}.tgz")


def install(machine: Machine) -> None:
    """Install and start the old release with its unit, and build the tarball of the new one."""
    pack(machine, OLD)
    pack(machine, NEW)
    switch(machine, OLD)
    write(machine, f"{HOME}/.config/systemd/user/{UNIT}", SERVICE)
    write(machine, FILE, RUNBOOK.read_text())
    as_user(machine, f"systemctl --user daemon-reload; systemctl --user enable --quiet --now {UNIT}")
    until(lambda: serves(machine, OLD), "the old release to serve")


def write(machine: Machine, path: str, text: str) -> None:
    """Write a file that belongs to the user."""
    machine.run(["sh", "-ec", 'mkdir -p "$(dirname "$1")"; cat >"$1"', "sh", path], input=text, user=USER)


def serves(machine: Machine, version: str) -> bool:
    """Return True if the port answers with a version, from any process."""
    return machine.run(["curl", "-fsS", f"http://127.0.0.1:{PORT}/version"], check=False).stdout == version


def show(machine: Machine, *properties: str) -> dict[str, str]:
    """Return properties of the unit from the user's manager."""
    lines = as_user(machine, f"systemctl --user show --property={','.join(properties)} {UNIT}").stdout.splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def held(machine: Machine) -> list[Holder]:
    """Return the holders of the port, from `ss`."""
    return holders(machine, PORT)


def restore(machine: Machine) -> None:
    """Install and start the old release again, after a test has changed it."""
    switch(machine, OLD)
    as_user(machine, f"systemctl --user stop {UNIT}; systemctl --user reset-failed {UNIT}", check=False)
    until(lambda: not held(machine), "the port to be free")
    as_user(machine, f"systemctl --user start {UNIT}")
    until(lambda: serves(machine, OLD), "the old release to serve")


def orphan(machine: Machine) -> subprocess.Popen[str]:
    """Start a copy by hand in a login session, which takes the port, and let the unit loop beside it."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    login = in_login(machine, [PROGRAM], USER)
    beside(machine)
    return login


def in_scope(machine: Machine) -> None:
    """Start a copy in a scope of the user's manager (`systemd-run --user --scope`), and let the unit loop beside it."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    as_user(machine, f"systemd-run --user --quiet --scope --unit=by-hand sh -c '{PROGRAM} >/dev/null 2>&1 &'")
    beside(machine)


def of_root(machine: Machine) -> None:
    """Start a copy as root, which the user can neither read nor kill, and let the unit loop beside it."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    machine.run(["systemd-run", "--quiet", "--scope", "--unit=by-root", "sh", "-c", f"{PROGRAM} >/dev/null 2>&1 &"])
    beside(machine)


def in_the_managers_cgroup(machine: Machine) -> None:
    """Move a copy to the cgroup of the user's manager itself, and let the unit loop beside it."""
    in_scope(machine)
    move = f'echo $1 >"/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service/init.scope/cgroup.procs"'
    machine.run(["sh", "-ec", move, "sh", str(held(machine)[0].pid)])


def of_the_system(machine: Machine) -> None:
    """Start a service of the same name in the system's manager, and let the unit loop beside it."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    machine.write(f"/etc/systemd/system/{UNIT}", f"[Service]\nUser={USER}\nExecStart={PROGRAM}\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", UNIT])
    beside(machine)


def beside(machine: Machine) -> None:
    """Start the unit beside the holder of the port. Each of its processes exits on EADDRINUSE."""
    until(lambda: serves(machine, OLD), "the other one to serve")
    as_user(machine, f"systemctl --user reset-failed {UNIT}; systemctl --user start {UNIT}")
    until(lambda: int(show(machine, "NRestarts")["NRestarts"]) > 0, "the unit to be restarted")
