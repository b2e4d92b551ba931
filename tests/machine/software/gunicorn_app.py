"""Installs a Python application behind gunicorn in its usual variants, and stages the failures of each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.machine.incident import in_login, remove_unit
from tests.machine.machine import Machine, until

UNIT, SOCKET = "shop.service", "shop.socket"
PORT = 8000
OLD, NEW, BROKEN = "1.0.0", "2.0.0", "3.0.0"
FILE = "/root/gunicorn-app.yaml"
RUNBOOK = Path(__file__).parents[3] / "runbooks" / "gunicorn-app.yaml"
BIND = f"--bind=127.0.0.1:{PORT}"

# The version is read when the code is loaded, not at each request.
APP = """\
import os, pathlib, time

VERSION = (pathlib.Path(__file__).parent / "VERSION").read_text()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        time.sleep(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    answers = {"/version": VERSION, "/pid": str(os.getpid())}
    return [answers.get(environ["PATH_INFO"], "shop").encode()]
"""

# From gunicorn's own documentation (Deploying Gunicorn, systemd), except for the folder.
SERVICE = """\
[Unit]
Description=shop
StartLimitIntervalSec=120
StartLimitBurst=3

[Service]
Type=notify
User=www-data
WorkingDirectory=/srv/shop/current
ExecStart=/usr/bin/gunicorn {bind} --workers=2 shop:app
ExecReload=/bin/kill -s HUP $MAINPID
KillMode=mixed
TimeoutStopSec=5
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

# gunicorn reads this file from its working directory. With it, systemd takes the next master for the main process.
ANNOUNCES = """\
import os
from gunicorn import systemd


def when_ready(server):
    systemd.sd_notify(f"MAINPID={os.getpid()}", server.log)
"""

SOCKET_UNIT = f"""\
[Socket]
ListenStream=127.0.0.1:{PORT}
"""


def release(machine: Machine, version: str, app: str = APP) -> None:
    """Unpack a release beside the others."""
    machine.write(f"/srv/shop/releases/{version}/shop.py", app)
    machine.write(f"/srv/shop/releases/{version}/VERSION", version)


def install(machine: Machine, *more: str, socket: bool = False, arguments: str = "") -> None:
    """Start the old release, and unpack the new one and a broken one.

    `arguments` are options of gunicorn, `more` are settings of the service.
    """
    release(machine, OLD)
    release(machine, NEW)
    release(machine, BROKEN, "import no_such_module\n")
    switch(machine, OLD)
    machine.write(f"/etc/systemd/system/{UNIT}", SERVICE.format(bind="" if socket else BIND))
    settings = ["[Service]", f'Environment="GUNICORN_CMD_ARGS={arguments}"', *more]
    machine.write(f"/etc/systemd/system/{UNIT}.d/settings.conf", "\n".join(settings))
    if socket:
        machine.write(f"/etc/systemd/system/{SOCKET}", SOCKET_UNIT)
        machine.write(f"/etc/systemd/system/{UNIT}.d/socket.conf", f"[Unit]\nRequires={SOCKET}\n")
    machine.write(FILE, RUNBOOK.read_text())
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", *([SOCKET] if socket else []), UNIT])
    until(lambda: version(machine) == OLD and len(pids(machine)) == 3, "the old release to serve", 20)


def switch(machine: Machine, version: str) -> None:
    """Set the link, without a restart."""
    machine.run(["ln", "-sfn", f"releases/{version}", "/srv/shop/current"])


def ask(machine: Machine, path: str, *, patience: float = 5) -> str:
    """Return the answer from the port, by any process, or an empty text if there is none in time."""
    return machine.run(["curl", "-fsS", f"-m{patience}", f"http://127.0.0.1:{PORT}/{path}"], check=False).stdout


def version(machine: Machine) -> str:
    """Return the version in one answer."""
    return ask(machine, "version")


def pids(machine: Machine) -> list[int]:
    """Return the PIDs in the unit's control group."""
    return [int(pid) for pid in machine.read(f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs").split()]


def holding(machine: Machine) -> set[int]:
    """Return the PIDs that hold the port, from `ss`."""
    return {int(pid) for pid in re.findall(r"pid=(\d+)", machine.run(["ss", "-Hltnp", f"sport = :{PORT}"]).stdout)}


def reload(machine: Machine) -> None:
    """Run `systemctl reload`, and wait until all workers are new."""
    before = set(pids(machine))
    machine.run(["systemctl", "reload", UNIT])
    until(lambda: len(set(pids(machine)) - before) == 2 and len(pids(machine)) == 3, "other workers", 20)


def reloaded(machine: Machine) -> None:
    """Switch the link, and reload instead of a restart."""
    switch(machine, NEW)
    reload(machine)


def back(machine: Machine) -> None:
    """Go back to the old release."""
    switch(machine, OLD)
    machine.run(["systemctl", "restart", UNIT])


def hand_over(machine: Machine) -> tuple[int, int]:
    """Switch the link, make the master start the next one (USR2), and return the PIDs of both masters."""
    switch(machine, NEW)
    old = int(machine.show(UNIT, "MainPID")["MainPID"])
    machine.run(["kill", "-USR2", str(old)])
    until(lambda: len(holding(machine)) == 6, "two masters with two workers each", 20)
    new = next(pid for pid in pids(machine) if pid != old and children(machine, pid))
    return old, new


def children(machine: Machine, pid: int) -> list[int]:
    """Return the PIDs of the children of a process."""
    return [int(child) for child in machine.read(f"/proc/{pid}/task/{pid}/children").split()]


def orphan(machine: Machine) -> subprocess.Popen[str]:
    """Start a gunicorn by hand in a login session, which takes the port, and start the unit beside it."""
    machine.run(["systemctl", "stop", UNIT])
    by_hand = in_login(machine, ["gunicorn", "--chdir=/srv/shop/releases/1.0.0", BIND, "--workers=2", "shop:app"])
    until(lambda: len(holding(machine)) == 3, "the gunicorn in the login to serve", 20)
    machine.run(["systemctl", "start", "--no-block", UNIT])
    return by_hand


def shared(machine: Machine) -> None:
    """Start one more gunicorn of the same user on the port, in a scope, both with --reuse-port."""
    argv = ["gunicorn", "--chdir=/srv/shop/releases/1.0.0", BIND, "--reuse-port", "--workers=2", "shop:app"]
    line = " ".join(argv) + " >/dev/null 2>&1 &"
    machine.run(["systemd-run", "--quiet", "--scope", "--unit=by-hand", "--uid=www-data", "sh", "-c", line])
    until(lambda: len(holding(machine)) == 6, "both to listen", 20)


def remove(machine: Machine) -> None:
    """Remove the application, and kill all processes that listen for it."""
    for unit in (SOCKET, UNIT):
        remove_unit(machine, unit)
    machine.run(["systemctl", "stop", "by-hand.scope"], check=False)
    machine.run(["rm", "-rf", "/srv/shop", FILE])
    until(lambda: not holding(machine), "the port to be free")
