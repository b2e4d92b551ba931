"""Installs the distribution's OpenSSH behind its socket, and stages the failures that an upgrade has to deal with."""

from __future__ import annotations

import subprocess
from typing import Self

from tests.machine.incident import holders, in_login
from tests.machine.machine import Machine, until
from tests.machine.software import repository

SOCKET, SERVICE = "ssh.socket", "ssh.service"
RUNBOOK = "/opt/runbook/runbooks/ssh-socket.yaml"
SSH = ["ssh", "root@localhost"]
LIMIT = "/run/systemd/system/ssh.service.d/limit.conf"

_KEYS = r"""
test -e /root/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
printf 'Host *\n  BatchMode yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n' \
    >/root/.ssh/config
chmod 700 /root/.ssh
"""


def install(machine: Machine) -> None:
    """Enable and start ssh.socket, and let root log in by key."""
    machine.run(["bash", "-ec", _KEYS])
    machine.run(["systemctl", "enable", "--now", "--quiet", SOCKET])


def clear(machine: Machine) -> None:
    """Stop the units, kill all sshd processes, and reset the units' state."""
    machine.run(["systemctl", "disable", "--now", "--quiet", SOCKET, SERVICE], check=False)
    machine.run(["pkill", "-KILL", "-x", "sshd"], check=False)
    until(lambda: not holders(machine, 22), "port 22 to be free")
    machine.run(["rm", "-f", LIMIT])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "reset-failed", SOCKET, SERVICE], check=False)


def offer(machine: Machine, spoil: str = "") -> str:
    """Offer a newer package, made from the installed one, in a repository in the machine, and return its version.

    `spoil` is a command for sed on the program.
    """
    version = f"{repository.installed(machine, 'openssh-server')}.1"
    return repository.offer(machine, "openssh-server", new=version, programs="/usr/sbin/sshd", edit=spoil)


def both_enabled(machine: Machine) -> None:
    """Enable both units, and start ssh.service first. It listens by itself, so systemd refuses the socket.

    It is enabled while it is down, because that gives it an alias. If systemd 257 had sshd.service as a name without a
    file, it would lose track of a running ssh.service at the daemon-reload (MainPID stays, ActiveState reads inactive).
    """
    machine.run(["systemctl", "stop", SOCKET, SERVICE])
    machine.run(["systemctl", "enable", "--quiet", SOCKET, SERVICE])
    machine.run(["systemctl", "start", SERVICE])
    machine.run(["systemctl", "start", SOCKET], check=False)


def used_up(machine: Machine) -> None:
    """Stage ten small upgrades in a row, each with a restart of ssh.service, as needrestart does.

    Here the starts count for an hour. By default they count for ten seconds, which a busy machine takes for a check.
    """
    machine.write(LIMIT, "[Unit]\nStartLimitIntervalSec=1h\n")
    machine.run(["systemctl", "daemon-reload"])
    for _ in range(10):
        machine.run(["systemctl", "restart", SERVICE], check=False)
    until(lambda: machine.show(SOCKET, "ActiveState")["ActiveState"] == "failed", "the socket to be closed")


def by_hand(machine: Machine) -> int:
    """Stop the units, start an sshd in a login session of root's, and return its PID. The login ends, sshd does not."""
    machine.run(["systemctl", "stop", SOCKET, SERVICE])
    machine.run(["mkdir", "-p", "/run/sshd"])
    with in_login(machine, ["/usr/sbin/sshd"], user="root") as login:
        login.wait(20)
    return until(lambda: holders(machine, 22), "sshd to listen")[0].pid


def as_packaged(machine: Machine) -> None:
    """Stage an available upgrade, with the runbook in root's home folder."""
    machine.run(["cp", RUNBOOK, "/root/"])
    offer(machine)
    install(machine)
    machine.run([*SSH, "true"])  # After a first login sshd runs behind the socket.


class Session:
    """An ssh session from the machine to itself, which stays open."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        script = 'echo $$; while read -r word; do echo "$word"; done'
        self._client = machine.popen([*SSH, script], stdin=subprocess.PIPE)
        assert self._client.stdout is not None
        self.shell = int(self._client.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.kill()
        self._client.communicate()

    def answers(self, word: str) -> bool:
        """Return True if the session has the same shell as before, and echoes a word."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        if self._client.poll() is not None:
            return False
        self._client.stdin.write(f"{word}\n")
        self._client.stdin.flush()
        echoed = self._client.stdout.readline() == f"{word}\n"
        return echoed and self._machine.run(["test", "-d", f"/proc/{self.shell}"], check=False).returncode == 0
