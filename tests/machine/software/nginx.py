"""Installs the distribution's nginx, and stages the failures that an upgrade has to deal with."""

from __future__ import annotations

import re

from tests.machine.incident import holders, in_login
from tests.machine.machine import Machine, until
from tests.machine.software import repository

UNIT = "nginx.service"
RUNBOOK = "/opt/runbook/runbooks/nginx.yaml"
RELOAD = "/opt/runbook/runbooks/nginx-reload.yaml"
PROGRAM = "/usr/sbin/nginx"
SITE = "/etc/nginx/conf.d/site.conf"

OFFERED = "9"
"""The patch level of the offered package: 1.22.9 for 1.22.1, 1.26.9 for 1.26.3."""


def install(machine: Machine) -> None:
    """Enable and start nginx, as its package does."""
    machine.run(["systemctl", "enable", "--now", "--quiet", UNIT])
    until(lambda: machine.run(["curl", "-fsS", "http://127.0.0.1/"], check=False).returncode == 0, "nginx to answer")


def clear(machine: Machine) -> None:
    """Kill all nginx processes, and reset the unit's state."""
    machine.run(["pkill", "-KILL", "-x", "nginx"], check=False)
    machine.run(["systemctl", "disable", "--now", "--quiet", UNIT], check=False)
    until(lambda: not holders(machine, 80), "port 80 to be free")
    machine.run(["rm", "-f", SITE, "/run/nginx.pid"])
    machine.run(["systemctl", "reset-failed", UNIT], check=False)


def offer(machine: Machine, spoil: str = "") -> str:
    """Offer a newer package in a repository in the machine, and return its version.

    It is the installed package with the same files and scripts. In the program the version differs in one character.
    `spoil` is one more command for sed on the program.
    """
    installed = re.findall(r"[\d.]+", machine.run([PROGRAM, "-v"]).stderr)[0]
    version = f"{installed.rpartition('.')[0]}.{OFFERED}"
    edit = f"{repository.substitute(installed, version)}; {spoil}"
    return repository.offer(machine, "nginx", new=f"{version}-1", programs=PROGRAM, edit=edit)


def new_program(machine: Machine) -> None:
    """Replace the program with one of the same version, as dpkg does: by a new file of the same name."""
    machine.run(["sh", "-ec", f"cp {PROGRAM} {PROGRAM}.new; mv {PROGRAM}.new {PROGRAM}"])


def by_hand(machine: Machine) -> int:
    """Run `nginx` in a login session of root's, and return the PID of its master. The login ends, nginx does not."""
    with in_login(machine, ["nginx"], user="root") as login:
        login.wait(20)
    until(lambda: len(workers(machine)) == 2, "both workers of it")
    return masters(machine)[0]


def orphan(machine: Machine) -> int:
    """Stop the unit, start a master by hand that holds the port, and let systemd fail to start the unit."""
    machine.run(["systemctl", "enable", "--quiet", UNIT])
    machine.run(["systemctl", "stop", UNIT])
    master = by_hand(machine)
    machine.run(["systemctl", "restart", UNIT], check=False)
    return master


def at_hand(machine: Machine) -> None:
    """Copy the runbooks to root's home folder, as an administrator would."""
    machine.run(["sh", "-c", f"cp {RUNBOOK} {RELOAD} /root/"])


def behind_an_orphan(machine: Machine) -> None:
    """Stage an available upgrade, while a master that was started by hand answers."""
    at_hand(machine)
    offer(machine)
    orphan(machine)


def rejected(machine: Machine) -> str:
    """Stage an upgrade to a version that has dropped a directive which is in use, and return that version."""
    at_hand(machine)
    version = offer(machine, spoil="s/sendfile_max_chunk/sendfile_max_chxxx/")
    machine.write(SITE, "sendfile_max_chunk 1m;\n")
    install(machine)
    return version


def masters(machine: Machine) -> list[int]:
    """Return the PIDs of all masters, from pgrep."""
    return _pids(machine, "nginx: master")


def workers(machine: Machine) -> list[int]:
    """Return the PIDs of all workers, including those that are shutting down."""
    return _pids(machine, "nginx: worker")


def _pids(machine: Machine, title: str) -> list[int]:
    return [int(pid) for pid in machine.run(["pgrep", "-f", f"^{title}"], check=False).stdout.split()]


def served(machine: Machine) -> set[int]:
    """Return the PIDs of all processes that hold a listening socket on port 80, from ss."""
    return {int(pid) for line in _listening(machine) for pid in re.findall(r"pid=(\d+)", line)}


def _listening(machine: Machine) -> list[str]:
    return machine.run(["ss", "-Hltnp", "sport = :80"]).stdout.splitlines()


def of_the_unit(machine: Machine) -> set[int]:
    """Return the PIDs in the unit's control group."""
    group = machine.show(UNIT, "ControlGroup")["ControlGroup"]
    return {int(pid) for pid in machine.read(f"/sys/fs/cgroup{group}/cgroup.procs").split()} if group else set()
