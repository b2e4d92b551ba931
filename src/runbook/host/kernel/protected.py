"""Recognises, by their names, programs that others depend on: logins, message buses, containers, virtual machines.

Pure: it judges a process as it was read, and reads nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import PurePosixPath
from shlex import quote

from runbook.host.holders import Process

_LOGINS = "it keeps people's connections or terminals, and their logins may end with it"
_BUS = "it is a message bus, which the machine's services talk over"
_CONTAINERS = "it keeps a container, or passes on a container's port: the container's engine can stop it"
_MACHINE = "it runs a virtual machine, which can be shut down from within"
_MACHINE_PORTS = "it passes on the ports of a virtual machine, which can be shut down from within"
_DAEMON = "it is one of root's storage daemons (its name begins with @), which must run until the end of a shutdown"

_MANAGER = "it is a systemd manager"

_LOGIN_SERVERS = frozenset(("sshd", "sshd-session", "sshd-auth", "dropbear", "mosh-server"))
_PROTECTED = {
    **dict.fromkeys(_LOGIN_SERVERS, _LOGINS),
    **dict.fromkeys(("tmux", "screen", "SCREEN", "zellij", "byobu", "dtach", "abduco"), _LOGINS),
    **dict.fromkeys(("tmate", "dvtm", "mtm", "shpool", "wezterm-mux-server", "wezterm-mux-ser"), _LOGINS),
    # A process's name is cut at 15 characters.
    **dict.fromkeys(("dbus-daemon", "dbus-broker", "dbus-broker-launch", "dbus-broker-lau"), _BUS),
    **dict.fromkeys(("docker-proxy", "conmon", "containerd-shim", "containerd-shim-runc-v2"), _CONTAINERS),
    **dict.fromkeys(("rootlessport", "rootlesskit", "slirp4netns", "pasta", "pasta.avx2"), _CONTAINERS),
    **dict.fromkeys(("passt", "passt.avx2", "aardvark-dns"), _CONTAINERS),
    **dict.fromkeys(("kvm", "firecracker", "cloud-hypervisor", "cloud-hyperviso", "crosvm", "lkvm"), _MACHINE),
    **dict.fromkeys(("qemu-kvm", "qemu-storage-daemon", "qemu-storage-da", "qemu-nbd", "stratovirt"), _MACHINE),
    **dict.fromkeys(("virtiofsd", "swtpm", "krunvm", "linux.uml"), _MACHINE),
    **dict.fromkeys(("gvproxy", "limactl", "socket_vmnet", "vpnkit"), _MACHINE_PORTS),
    "(sd-pam)": "it is a part of a user's systemd",
}
_MACHINE_PREFIXES = ("qemu-system", "VBox", "VirtualBox", "vmware-", "vmnet-")

MACHINE_FILES = re.compile(
    rb"(?:.*/)?dev/(?:kvm|vbox\w+|vmmon|vmnet\d+|vhost-(?:net|vsock|vdpa.*)|mshv|gunyah|acrn_hsm|nitro_enclaves"
    rb"|xen/(?:privcmd|gntdev|evtchn))(?: \(deleted\))?|anon_inode:\[?(?:kvm|gunyah)-v.*"
)
"""What only a process that runs a virtual machine has open, as /proc/PID/fd shows it, also from within a chroot.

Some programs keep nothing of /dev/kvm but the machine and its processors, which are anonymous inodes.
"""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # the names that engines permit for a container


def find_program_protection(process: Process) -> str:
    """Return why a program must not be killed; empty if it may be.

    Its executable, argv[0] and the process's name are compared: one match is enough to protect it.
    """
    title = process.command[0] if process.command else ""
    if process.program == "systemd" or (process.name == "systemd" and "--user" in process.command):
        return _MANAGER
    for name in _names(process):
        if name in _PROTECTED:
            return _PROTECTED[name]
        if name.startswith(_MACHINE_PREFIXES):
            return _MACHINE
    return _DAEMON if process.uid == 0 and title.startswith("@") else ""


def find_machine_protection(process: Process, find_open: Callable[[int, re.Pattern[bytes]], bool]) -> str:
    """Return why a process counts as running a virtual machine, or as passing on its ports; empty if it does not.

    Names are incomplete by nature, so `find_open` decides too: whether a process has such a file open.
    """
    if (why := find_program_protection(process)) in (_MACHINE, _MACHINE_PORTS):
        return why
    return _MACHINE if not why and find_open(process.pid, MACHINE_FILES) else ""


def is_bus(process: Process) -> bool:
    """True if it is a message bus: to stop one stops the machine's services."""
    return find_program_protection(process) == _BUS


def find_children_protection(process: Process) -> str:
    """Return why the descendants of a process must not be killed either; empty if its protection is for it alone.

    What was started in a login over ssh, or by a systemd manager, is not protected by that.
    """
    why = find_program_protection(process)
    alone = why == _MANAGER or not _LOGIN_SERVERS.isdisjoint(_names(process))
    return "" if alone else why


def is_login_server(process: Process) -> bool:
    """True if logins or terminals are its children, whatever those start."""
    return any(_PROTECTED.get(name) == _LOGINS for name in _names(process))


def describe_container_keeper(process: Process) -> str:
    """Return the reason if it keeps a container or forwards its port; else empty.

    To stop the service around it would stop all its containers.
    """
    return _CONTAINERS if any(_PROTECTED.get(name) == _CONTAINERS for name in _names(process)) else ""


def find_stop_command(line: Iterable[Process]) -> str:
    """Return the command that stops a container, by the keeper among the ancestors of a process in it; else empty.

    The container's name is in the command line of conmon(8), or of containerd's shim.
    """
    for process in line:
        words = process.command
        arguments = dict(reversed([*pairwise(words)]))
        # A user who gives his process the title of a keeper can name any container, but then of his own.
        whose = f"sudo -u {quote(process.user)} " if process.uid else ""
        if "conmon" in _names(process) and any(PurePosixPath(word).name == "podman" for word in words):
            name = arguments.get("-n") or arguments.get("-c", "")[:12]
            return f"{whose}podman stop {name}" if _NAME.fullmatch(name) else ""
        if "containerd-shim-runc-v2" in _names(process) and arguments.get("-namespace") == "moby":
            name = arguments.get("-id", "")[:12]
            return f"{whose}docker stop {name}" if _NAME.fullmatch(name) else ""
    return ""


def _names(process: Process) -> tuple[str, ...]:
    title = process.command[0] if process.command else ""
    return process.program, process.name, _program(process.name), _program(title)


@lru_cache(maxsize=256)
def _program(title: str) -> str:
    """Return the program of a title: `sshd: root@pts/0` is sshd, `tmux: server` is tmux, `-bash` is bash."""
    first = title.split(maxsplit=1)[0] if title.strip() else ""
    return PurePosixPath(first.rstrip(":")).name.removeprefix("-")
