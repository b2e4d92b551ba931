"""Ends a process, and only the one that was judged; and knows which processes must live.

A PID names whoever has it at the moment. A pidfd (pidfd_open(2), Linux 5.3) names one process for good, so the order
of the moves is what makes a signal safe:

    1. open a pidfd for the PID
    2. look through /proc at who has the PID now: start, user, program, cgroup, sockets
    3. see that the pidfd's process has not ended
    4. send the signal through the pidfd

Had the pidfd's process ended before 2, step 3 would tell; has it not, the PID was its own all the time, and what was
seen in 2 is about it. From then on no PID is used any more.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from runbook.errors import AccessDenied
from runbook.host import processes
from runbook.host.cgroups import Kind, unit_of
from runbook.host.facts import Holder, Process, Sent
from runbook.model import ProcessId

DELETED = " (deleted)"
"""What /proc/PID/exe says behind the path of a program that an upgrade has removed or replaced."""

# By the name of the program, of argv[0] or of the process: any of them is enough to be spared.
_LOGINS = "it keeps a login's connection or terminal, and the logins would end with it"
_BUS = "it is a message bus, which the machine's services talk over"
_CONTAINERS = "it keeps a container, or passes a container's port on: ask the container's engine to stop it"
_SPARED = {
    **dict.fromkeys(("sshd", "sshd-session", "sshd-auth", "dropbear", "mosh-server"), _LOGINS),
    **dict.fromkeys(("tmux", "screen", "SCREEN", "zellij", "byobu", "dtach", "abduco"), _LOGINS),
    **dict.fromkeys(("dbus-daemon", "dbus-broker", "dbus-broker-launch", "dbus-broker-lau"), _BUS),
    **dict.fromkeys(("docker-proxy", "conmon", "rootlessport", "rootlesskit", "slirp4netns", "pasta"), _CONTAINERS),
    **dict.fromkeys(("containerd-shim", "containerd-shim-runc-v2"), _CONTAINERS),
    "(sd-pam)": "it is a part of a user's systemd",
}


@dataclass(frozen=True)
class Me:
    """This program, as far as it must not cut off the branch it sits on: its line up to PID 1, its namespaces."""

    line: frozenset[ProcessId]
    pid_namespace: int
    user_namespace: int

    @classmethod
    def now(cls) -> Me:
        """Look at this very process. Its ancestors change when one of them ends."""
        me = processes.read(os.getpid())
        if me is None:  # No /proc that shows ourselves: nothing is known to be ours, so nothing is.
            return cls(frozenset(), -1, -1)
        return cls(frozenset({me.id, *processes.ancestors(me.pid)}), me.pid_namespace, me.user_namespace)


def protected(process: Process, *, me: Me) -> str:
    """Say why a process may never be ended, whoever holds what; nothing if it may."""
    if process.pid == 1:
        return "it is PID 1, which the machine cannot do without"
    if process.kernel:
        return "it is a thread of the kernel"
    if process.id in me.line:
        return "this program was started by it, or is it"
    return _by_namespace(process, me) or _by_place(process) or _by_name(process)


def end(
    holder: Holder,
    signum: signal.Signals,
    *,
    still: Callable[[Process], bool] = lambda process: True,
    moment: Callable[[str], None] = lambda name: None,
) -> Sent:
    """Signal the holder's process through a pidfd, if it is still what was judged.

    `still` has the last word on a process that is the same; `moment` is told of each point between two moves, so that
    a test can let the world change there. Raises AccessDenied.
    """
    before = holder.process
    moment("judged")
    try:
        pidfd = os.pidfd_open(before.pid)
    except ProcessLookupError:
        return Sent.GONE
    except OSError:
        # Not a process of its own any more, but a thread of another (EINVAL; ENOENT since Linux 6.15).
        return Sent.GONE if not processes.lives(before.id) else Sent.NOT_THE_SAME
    try:
        moment("opened")
        now = processes.read(before.pid)
        same = now is not None and _same(before, now) and _still_holds(holder)
        allowed = same and now is not None and not protected(now, me=Me.now()) and still(now)
        moment("checked")
        if _ended(pidfd) or now is None or now.id != before.id:
            return Sent.GONE
        if not allowed:
            return Sent.NOT_THE_SAME
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return Sent.GONE
    except PermissionError:
        raise AccessDenied(
            f"cannot send {signum.name} to {before}: it belongs to {before.user}", hint="run it as root"
        ) from None
    finally:
        os.close(pidfd)
    return Sent.SENT


def pidfd(process: ProcessId) -> int | None:
    """Open a descriptor that becomes readable when this very process ends; None if it has. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    # Only now: what is asked after the opening is asked of the process that the descriptor names.
    if processes.lives(process) and not _ended(fd):
        return fd
    os.close(fd)
    return None


def _ended(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _same(before: Process, now: Process) -> bool:
    return (
        now.id == before.id
        and now.uid == before.uid
        and now.cgroup == before.cgroup
        # The same file, even if an upgrade has removed it in the meantime.
        and now.exe.removesuffix(DELETED) == before.exe.removesuffix(DELETED)
    )


def _still_holds(holder: Holder) -> bool:
    return not holder.sockets or processes.holds(holder.process.pid, {socket.inode for socket in holder.sockets})


def _by_namespace(process: Process, me: Me) -> str:
    if process.pid_namespace != me.pid_namespace:
        return "it runs in a container (another PID namespace)" if process.pid_namespace else _UNSEEN
    if process.user_namespace != me.user_namespace:
        # A service with PrivateUsers= has a user namespace too, and is no container for that.
        if unit_of(process.cgroup).kind is Kind.SERVICE:
            return ""
        return "it runs in a container (another user namespace)" if process.user_namespace else _UNSEEN
    return ""


_UNSEEN = "its namespaces may not be looked at, so that it could be in a container"


def _by_place(process: Process) -> str:
    place = unit_of(process.cgroup)
    if place.container:
        return f"it belongs to the container {place.machine or place.unit or process.cgroup}"
    if place.kind is Kind.MANAGER:
        return "it is in the cgroup of a systemd manager"
    return ""


def _by_name(process: Process) -> str:
    exe = PurePosixPath(process.exe.removesuffix(DELETED)).name
    title = process.command[0] if process.command else ""
    # "sshd: root@pts/0" and "tmux: server" are sshd and tmux.
    names = {exe, process.name, _head(process.name), PurePosixPath(_head(title).removeprefix("-")).name}
    if exe == "systemd" or (process.name == "systemd" and "--user" in process.command):
        return "it is a systemd manager"
    for name in names & _SPARED.keys():
        return _SPARED[name]
    if process.uid == 0 and title.startswith("@"):
        return "it asks to be left alone to the very end, as root's storage daemons do by the @ before their name"
    return ""


def _head(title: str) -> str:
    return title.split()[0].rstrip(":") if title.split() else ""
