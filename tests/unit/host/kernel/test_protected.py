"""Protected programs are recognised by their names. test_signals.py tests that none of them is killed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from runbook.host.kernel.protected import (
    MACHINE_FILES,
    describe_container_keeper,
    find_children_protection,
    find_machine_protection,
    find_stop_command,
    is_bus,
    is_login_server,
)
from tests.unit.fake_machine import process

PODMAN = ("/usr/bin/conmon", "-c", "0123456789abcdef", "-n", "web", "--exit-command", "/usr/bin/podman")
DOCKER = ("/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", "fedcba9876543210")


@pytest.mark.parametrize(
    ("name", "is_one"), [("sshd", True), ("tmux: server", True), ("dbus-daemon", False), ("bash", False)]
)
def test_login_servers(name: str, is_one: bool) -> None:
    assert is_login_server(process(5, name=name, exe="", command=())) is is_one


def is_open(_pid: int, files: re.Pattern[bytes]) -> bool:
    return files.fullmatch(b"/dev/kvm") is not None


@pytest.mark.parametrize(
    "name", ["qemu-system-x86_64", "qemu-kvm", "VBoxHeadless", "VirtualBoxVM", "vmware-vmx", "firecracker", "crosvm"]
)
def test_virtual_machines_by_name(name: str) -> None:
    one = process(5, name=name[:15], exe="", command=())
    assert find_machine_protection(one, lambda *_: False).startswith("it runs a virtual machine")
    assert find_machine_protection(replace(one, name="gvproxy"), lambda *_: False).startswith("it passes on the ports")


def test_virtual_machines_by_what_they_have_open() -> None:
    assert find_machine_protection(process(5), is_open).startswith("it runs a virtual machine")
    assert find_machine_protection(process(5), lambda *_: False) == ""
    # A bus or a login server is protected for what it is.
    assert find_machine_protection(process(5, name="sshd"), is_open) == ""


@pytest.mark.parametrize(
    ("link", "matches"),
    [
        ("/dev/kvm", True),
        ("/srv/jail/root/dev/kvm", True),
        ("/dev/kvm (deleted)", True),
        ("anon_inode:kvm-vm", True),
        ("anon_inode:kvm-vcpu:0", True),
        ("/dev/vboxdrv", True),
        ("/dev/vmnet8", True),
        ("/dev/vhost-net", True),
        ("/dev/xen/privcmd", True),
        ("/dev/net/tun", False),
        ("/home/anna/kvm", False),
        ("/dev/kvm.log", False),
        ("anon_inode:[eventpoll]", False),
    ],
)
def test_the_files_of_virtual_machines(link: str, matches: bool) -> None:
    assert bool(MACHINE_FILES.fullmatch(link.encode())) is matches


@pytest.mark.parametrize(
    ("name", "protects"),
    [("tmux: server", True), ("sshd", False), ("qemu-kvm", True), ("systemd", False), ("bash", False)],
)
def test_what_protects_its_descendants(name: str, protects: bool) -> None:
    exe = f"/usr/bin/{name}" if name == "systemd" else ""
    assert bool(find_children_protection(process(5, name=name, exe=exe, command=()))) is protects


def test_message_buses() -> None:
    assert is_bus(process(5, name="dbus-broker-lau"))
    assert not is_bus(process(5))


def test_programs_that_keep_containers() -> None:
    assert "container's engine" in describe_container_keeper(process(5, exe="/usr/bin/conmon"))
    assert describe_container_keeper(process(5)) == ""


@pytest.mark.parametrize(
    ("keeper", "command"),
    [
        ({"exe": "/usr/bin/conmon", "command": PODMAN}, "podman stop web"),
        ({"exe": "/usr/bin/conmon", "command": PODMAN, "uid": 1000, "user": "anna"}, "sudo -u anna podman stop web"),
        ({"exe": "/usr/bin/conmon", "command": (*PODMAN[:3], *PODMAN[5:])}, "podman stop 0123456789ab"),
        ({"exe": "/usr/bin/conmon", "command": (*PODMAN[:4], "web; reboot", *PODMAN[5:])}, ""),
        ({"exe": "/usr/bin/containerd-shim-runc-v2", "command": DOCKER}, "docker stop fedcba987654"),
        # Any user can name a program so.
        (
            {"exe": "/usr/bin/containerd-shim-runc-v2", "command": DOCKER, "uid": 1000, "user": "anna"},
            "sudo -u anna docker stop fedcba987654",
        ),
        ({"exe": "/usr/bin/bash", "command": ("bash",)}, ""),
    ],
)
def test_the_command_that_stops_a_container(keeper: dict[str, Any], command: str) -> None:
    """Operators copy it, so it contains no name that is not a container's."""
    assert find_stop_command([process(9), process(5, **keeper)]) == command
