"""Installs Debian's redis, and stages its failures."""

from __future__ import annotations

import re

from tests.machine.machine import Machine, until
from tests.machine.software import repository

UNIT = "redis-server.service"
PORT = 6379
LIBRARY = "libjemalloc2"  # of the running programs, only redis-server has it
PODMAN = ("podman.service", "podman-restart.service", "podman-auto-update.service")
BOOK = "/opt/runbook/runbooks/redis.yaml"
DROP_IN = f"/run/systemd/system/{UNIT}.d/staged.conf"

DEAF = """\
[Service]
ExecStart=
ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --supervised no --daemonize no
TimeoutStartSec=2s
RestartSec=1s
"""

SLOW_LOAD = """
key-load-delay 200000
loading-process-events-interval-bytes 1024
"""
"""Settings from redis's own tests: each key takes 200 ms to load, and redis answers after each KiB."""


def installed(machine: Machine) -> str:
    """Return the version of the package."""
    return repository.installed(machine, "redis-server")


def install(machine: Machine) -> None:
    """Start redis as a service, with a key that is on the disk as well."""
    machine.run(["systemctl", "enable", "--quiet", UNIT])
    machine.run(["systemctl", "start", UNIT])
    ask(machine, "SET", "written-by", "unit")
    ask(machine, "SAVE")


def offer(machine: Machine) -> str:
    """Offer apt a newer version of the packages, and return it."""
    return repository.offer(machine, "redis-tools", "redis-server")


def library_at_hand(machine: Machine) -> str:
    """Start redis on a machine on which all is well, offer apt a newer library of it, and return its version."""
    # They fail in a machine without a file system of its own.
    machine.run(["systemctl", "mask", "--now", "podman.socket", "podman-auto-update.timer", *PODMAN])
    machine.run(["systemctl", "reset-failed"])
    install(machine)
    return repository.offer(machine, LIBRARY)


def library_upgraded(machine: Machine) -> None:
    """Upgrade a library under the running service."""
    library_at_hand(machine)
    machine.run(["apt-get", "upgrade", "-qy"])


def upgrade_at_hand(machine: Machine) -> None:
    """Start redis, offer apt a newer version, and copy the runbook to root's home folder."""
    install(machine)
    offer(machine)
    machine.run(["cp", BOOK, "/root/redis.yaml"])


def orphan(machine: Machine, *options: str) -> None:
    """Stop the unit, start redis by hand in a login session, as its user, and write a key through it."""
    machine.run(["systemctl", "stop", UNIT])
    by_hand(machine, f"redis-server /etc/redis/redis.conf {' '.join(options)}".strip())
    ask(machine, "SET", "written-by", "orphan")


def orphan_elsewhere(machine: Machine) -> None:
    """Stop the unit, start redis by hand with its data in another folder, and write a key through it."""
    machine.run(["install", "-d", "-o", "redis", "/srv/data"])
    orphan(machine, "--dir", "/srv/data")


def by_hand(machine: Machine, command: str) -> None:
    """Start a redis as the user redis in a login session of root's, as a daemon, and wait until it answers."""
    machine.run(["su", "-", "root", "-c", f"su -s /bin/sh redis -c '{command}'"])
    until(lambda: ask(machine, "PING") == "PONG", "the redis that was started by hand to answer")


def loop(machine: Machine) -> None:
    """Restart the unit beside an orphan, and wait until it hits its start limit."""
    # Earlier starts count, too. Without them the fifth restart is one too many.
    machine.run(["systemctl", "reset-failed", UNIT])
    machine.run(["systemctl", "restart", UNIT], check=False)
    gave_up = {"ActiveState": "failed", "NRestarts": "5"}
    until(lambda: machine.show(UNIT, *gave_up) == gave_up, f"systemd to give {UNIT} up", 20)


def slow_load(machine: Machine) -> None:
    """Restart redis with data that take a minute to load. `loaded` makes the load fast."""
    ask(machine, "CONFIG", "SET", "rdbcompression", "no")
    script = "seq 300 | awk '{printf \"SET key-%d %01100d\\n\", $1, 0}' | redis-cli >/dev/null && redis-cli SAVE"
    machine.run(["sh", "-ec", script])
    machine.run(["sh", "-ec", 'printf "%s" "$1" >>/etc/redis/redis.conf', "sh", SLOW_LOAD])
    machine.run(["systemctl", "restart", "--no-block", UNIT])
    until(lambda: ask(machine, "PING").startswith("LOADING"), "redis to load")


def loaded(machine: Machine) -> None:
    """Let a slow load continue at its normal speed."""
    until(lambda: ask(machine, "CONFIG", "SET", "key-load-delay", "0") == "OK", "redis to hear")


def never_notifies(machine: Machine) -> None:
    """Make redis serve without a notification to systemd, with a short TimeoutStartSec=."""
    machine.write(DROP_IN, DEAF)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", "--no-block", UNIT])
    until(lambda: machine.show(UNIT, "SubState")["SubState"] == "start", "redis to be started")


def ask(machine: Machine, *words: str) -> str:
    """Send a command to the server that listens on the port."""
    return machine.run(["redis-cli", "-p", str(PORT), *words], check=False).stdout.strip()


def info(machine: Machine) -> dict[str, str]:
    """Return the INFO of the server: process_id, run_id, redis_version."""
    return dict(re.findall(r"^(\w+):(.*?)\r?$", ask(machine, "INFO", "server"), re.MULTILINE))
