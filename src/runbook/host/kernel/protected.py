"""Knows by their names the programs that others depend on: logins, message buses, containers, virtual machines.

Pure: it judges a process as it was seen, and looks at nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePosixPath

from runbook.host.holders import Process

DELETED = " (deleted)"
"""What /proc/PID/exe says behind the path of a program that an upgrade has removed or replaced."""

_LOGINS = "it keeps people's connections or terminals, and their logins may end with it"
_BUS = "it is a message bus, which the machine's services talk over"
_CONTAINERS = "it keeps a container, or passes on a container's port: the container's engine can stop it"
_PROTECTED = {
    **dict.fromkeys(("sshd", "sshd-session", "sshd-auth", "dropbear", "mosh-server"), _LOGINS),
    **dict.fromkeys(("tmux", "screen", "SCREEN", "zellij", "byobu", "dtach", "abduco"), _LOGINS),
    # A process's name is cut at 15 characters.
    **dict.fromkeys(("dbus-daemon", "dbus-broker", "dbus-broker-launch", "dbus-broker-lau"), _BUS),
    **dict.fromkeys(("docker-proxy", "conmon", "containerd-shim", "containerd-shim-runc-v2"), _CONTAINERS),
    **dict.fromkeys(("rootlessport", "rootlesskit", "slirp4netns", "pasta", "pasta.avx2"), _CONTAINERS),
    **dict.fromkeys(("passt", "passt.avx2", "aardvark-dns"), _CONTAINERS),
    "(sd-pam)": "it is a part of a user's systemd",
}


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
"""What an engine lets a container be called."""


def find_program_protection(process: Process) -> str:
    """Say why it must live, or nothing.

    Its program's file, argv[0] and the process's name are judged: one of them is enough to be spared.
    """
    exe = PurePosixPath(process.exe.removesuffix(DELETED)).name
    title = process.command[0] if process.command else ""
    if exe == "systemd" or (process.name == "systemd" and "--user" in process.command):
        return "it is a systemd manager"
    for name in _names(process):
        if name in _PROTECTED:
            return _PROTECTED[name]
        if name.startswith("qemu-system"):
            return "it runs a virtual machine, which can be shut down from within"
    if process.uid == 0 and title.startswith("@"):
        return "its @ asks to be left alone to the very end, as root's storage daemons do"
    return ""


def is_login_server(process: Process) -> bool:
    """Say whether people's logins or terminals are its children, whatever those go on to start."""
    return any(_PROTECTED.get(name) == _LOGINS for name in _names(process))


def describe_container_keeper(process: Process) -> str:
    """Say that it is a container's keeper or proxy; what would stop the service around it stops all its containers."""
    return _CONTAINERS if any(_PROTECTED.get(name) == _CONTAINERS for name in _names(process)) else ""


def find_stop_command(line: Iterable[Process]) -> str:
    """Give the command that stops a container, by its keeper among what a process in it descends from; or nothing.

    Its name stands in the command line of conmon(8), or of containerd's shim.
    """
    for process in line:
        words = process.command
        given = dict(reversed([*pairwise(words)]))
        as_whom = f" as {process.user}" if process.uid else ""
        if "conmon" in _names(process) and any(PurePosixPath(word).name == "podman" for word in words):
            name = given.get("-n") or given.get("-c", "")[:12]
            return f"podman stop {name}{as_whom}" if _NAME.fullmatch(name) else ""
        if "containerd-shim-runc-v2" in _names(process) and given.get("-namespace") == "moby":
            name = given.get("-id", "")[:12]
            return f"docker stop {name}" if _NAME.fullmatch(name) else ""
    return ""


def _names(process: Process) -> tuple[str, ...]:
    exe = PurePosixPath(process.exe.removesuffix(DELETED)).name
    title = process.command[0] if process.command else ""
    return exe, process.name, _program(process.name), _program(title)


def _program(title: str) -> str:
    """Give the program of a title: `sshd: root@pts/0` is sshd, `tmux: server` is tmux, `-bash` is bash."""
    first = title.split(maxsplit=1)[0] if title.strip() else ""
    return PurePosixPath(first.rstrip(":")).name.removeprefix("-")
