"""A Node application of a user's own, under his manager, and what holds its port in its stead."""

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

# Each start that finds the port taken ends at once with status 1.
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
    """Run a line of shell as the user, at home, beside every unit."""
    return machine.run(["sh", "-ec", f"cd\n{line}"], check=check, user=USER)


def pack(machine: Machine, version: str, server: str = SERVER) -> None:
    """Make the tarball of a release, as the project's CI would."""
    package = {"name": "notes", "version": version, "bin": "server.js"}
    machine.run(["sh", "-ec", PACK, "sh", json.dumps(package), server], user=USER)


def switch(machine: Machine, version: str) -> None:
    """Install a release and restart nothing."""
    as_user(machine, f"npm install --silent --global --offline --prefix ~/.local ~/releases/notes-{version}.tgz")


def install(machine: Machine) -> None:
    """Install the old release and its unit, start it, and have the new one's tarball at hand."""
    pack(machine, OLD)
    pack(machine, NEW)
    switch(machine, OLD)
    write(machine, f"{HOME}/.config/systemd/user/{UNIT}", SERVICE)
    write(machine, FILE, RUNBOOK.read_text())
    as_user(machine, f"systemctl --user daemon-reload; systemctl --user enable --quiet --now {UNIT}")
    until(lambda: serves(machine, OLD), "the old release to serve")


def write(machine: Machine, path: str, text: str) -> None:
    """Write a file of the user's."""
    machine.run(["sh", "-ec", 'mkdir -p "$(dirname "$1")"; cat >"$1"', "sh", path], input=text, user=USER)


def serves(machine: Machine, version: str) -> bool:
    """Whether the port answers with this version, whoever it is that answers."""
    return machine.run(["curl", "-fsS", f"http://127.0.0.1:{PORT}/version"], check=False).stdout == version


def show(machine: Machine, *properties: str) -> dict[str, str]:
    """What the user's manager says about the unit."""
    lines = as_user(machine, f"systemctl --user show --property={','.join(properties)} {UNIT}").stdout.splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def held(machine: Machine) -> list[Holder]:
    """Who holds the port, asked of `ss`."""
    return holders(machine, PORT)


def restore(machine: Machine) -> None:
    """The old release serves again, after whatever a test did to it."""
    switch(machine, OLD)
    as_user(machine, f"systemctl --user stop {UNIT}; systemctl --user reset-failed {UNIT}", check=False)
    until(lambda: not held(machine), "the port to be free")
    as_user(machine, f"systemctl --user start {UNIT}")
    until(lambda: serves(machine, OLD), "the old release to serve")


def orphan(machine: Machine) -> subprocess.Popen[str]:
    """Take the port with a copy that was started by hand in a login, and let the unit loop beside it."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    login = in_login(machine, [PROGRAM], USER)
    beside(machine)
    return login


def in_scope(machine: Machine) -> None:
    """The same, from `systemd-run --user --scope`: it is in a scope of the user's own manager."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    as_user(machine, f"systemd-run --user --quiet --scope --unit=by-hand sh -c '{PROGRAM} >/dev/null 2>&1 &'")
    beside(machine)


def of_root(machine: Machine) -> None:
    """The same, by root: the user can neither see nor end it."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    machine.run(["systemd-run", "--quiet", "--scope", "--unit=by-root", "sh", "-c", f"{PROGRAM} >/dev/null 2>&1 &"])
    beside(machine)


def in_the_managers_cgroup(machine: Machine) -> None:
    """The same, by a process that somebody moved beside the user's manager itself."""
    in_scope(machine)
    move = f'echo $1 >"/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service/init.scope/cgroup.procs"'
    machine.run(["sh", "-ec", move, "sh", str(held(machine)[0].pid)])


def of_the_system(machine: Machine) -> None:
    """The same, by the system's service of the same name, which somebody installed as well."""
    as_user(machine, f"systemctl --user stop {UNIT}")
    machine.write(f"/etc/systemd/system/{UNIT}", f"[Service]\nUser={USER}\nExecStart={PROGRAM}\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", UNIT])
    beside(machine)


def beside(machine: Machine) -> None:
    """Start the unit beside whoever holds the port; each of its processes ends on EADDRINUSE."""
    until(lambda: serves(machine, OLD), "the other one to serve")
    as_user(machine, f"systemctl --user reset-failed {UNIT}; systemctl --user start {UNIT}")
    until(lambda: int(show(machine, "NRestarts")["NRestarts"]) > 0, "the unit to be restarted")
