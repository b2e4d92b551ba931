"""A port that a user forwards from a login (`ssh -R`): sshd listens on it, in the session's scope."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.ownership.staging import PortCase, Stage, ask, assert_verdict
from tests.machine.software import ssh

PORT = 9401


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with the distribution's OpenSSH."""
    with Machine(suite, software=True) as booted:
        yield booted


@pytest.fixture
def forwarded(machine: Machine) -> Iterator[Machine]:
    """Log a user in, who forwards the port."""
    ssh.install(machine)
    login = machine.popen([*ssh.SSH[:1], "-N", "-R", f"{PORT}:localhost:22", *ssh.SSH[1:]])
    until(lambda: holders(machine, PORT), "sshd to listen", 20)
    yield machine
    machine.run(["pkill", "-x", "ssh"])
    login.communicate(timeout=20)
    ssh.clear(machine)


def test_the_sshd_of_a_login_is_not_killed(forwarded: Machine) -> None:
    with Stage(forwarded) as stage:
        stage.start("idle.service")
        reason = r"PID \d+ \(sshd(-session)?\), in session-\S+\.scope of user root"
        case = PortCase("idle", str(PORT), "orphan-holds-port", reason)
        assert_verdict(ask(forwarded, "check", "verify-port-owner", [case])[str(case)], case)
        why = r"it keeps people's connections .*; kill it by hand if it is not needed: kill \d+$"
        refused = PortCase("idle", str(PORT), "refused-to-kill", why)
        assert_verdict(ask(forwarded, "apply", "kill-orphan", [refused])[str(refused)], refused)
        assert holders(forwarded, PORT)
