"""A port that somebody forwards from their login (`ssh -R`): sshd listens for them, in their session's scope."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.ownership.street import House, Street, ask, assert_said
from tests.machine.software import ssh

PORT = 9401


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """A machine with the distribution's OpenSSH."""
    with Machine(suite, software=True) as booted:
        yield booted


@pytest.fixture
def forwarded(machine: Machine) -> Iterator[Machine]:
    """Somebody is logged in and forwards the port."""
    ssh.install(machine)
    login = machine.popen([*ssh.SSH[:1], "-N", "-R", f"{PORT}:localhost:22", *ssh.SSH[1:]])
    until(lambda: holders(machine, PORT), "sshd to listen for them", 20)
    yield machine
    machine.run(["pkill", "-x", "ssh"])
    login.communicate(timeout=20)
    ssh.clear(machine)


def test_the_login_is_let_live(forwarded: Machine) -> None:
    with Street(forwarded) as street:
        street.start("idle.service")
        told = r"PID \d+ \(sshd(-session)?\), in session-\S+\.scope of user root"
        house = House("idle", str(PORT), "orphan-holds-port", told)
        assert_said(ask(forwarded, "check", "verify-port-owner", [house])[str(house)], house)
        why = r"it keeps people's connections .*; kill it by hand if it is not needed: kill \d+$"
        refused = House("idle", str(PORT), "refused-to-kill", why)
        assert_said(ask(forwarded, "apply", "kill-orphan", [refused])[str(refused)], refused)
        assert holders(forwarded, PORT)
