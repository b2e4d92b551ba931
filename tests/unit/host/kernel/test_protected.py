"""Protected programs are recognised by their names. test_signals.py tests that none of them is killed."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.kernel.protected import describe_container_keeper, find_stop_command, is_login_server
from tests.unit.fake_machine import process

PODMAN = ("/usr/bin/conmon", "-c", "0123456789abcdef", "-n", "web", "--exit-command", "/usr/bin/podman")
DOCKER = ("/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", "fedcba9876543210")


@pytest.mark.parametrize(
    ("name", "is_one"), [("sshd", True), ("tmux: server", True), ("dbus-daemon", False), ("bash", False)]
)
def test_login_servers(name: str, is_one: bool) -> None:
    assert is_login_server(process(5, name=name, exe="", command=())) is is_one


def test_programs_that_keep_containers() -> None:
    assert "container's engine" in describe_container_keeper(process(5, exe="/usr/bin/conmon"))
    assert describe_container_keeper(process(5)) == ""


@pytest.mark.parametrize(
    ("keeper", "command"),
    [
        ({"exe": "/usr/bin/conmon", "command": PODMAN}, "podman stop web"),
        ({"exe": "/usr/bin/conmon", "command": PODMAN, "uid": 1000, "user": "anna"}, "podman stop web as anna"),
        ({"exe": "/usr/bin/conmon", "command": (*PODMAN[:3], *PODMAN[5:])}, "podman stop 0123456789ab"),
        ({"exe": "/usr/bin/conmon", "command": (*PODMAN[:4], "web; reboot", *PODMAN[5:])}, ""),
        ({"exe": "/usr/bin/containerd-shim-runc-v2", "command": DOCKER}, "docker stop fedcba987654"),
        ({"exe": "/usr/bin/bash", "command": ("bash",)}, ""),
    ],
)
def test_the_command_that_stops_a_container(keeper: dict[str, Any], command: str) -> None:
    """Operators copy it, so it contains no name that is not a container's."""
    assert find_stop_command([process(9), process(5, **keeper)]) == command
