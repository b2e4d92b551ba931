"""Ends a process, and only the one that was judged; and knows which processes must live.

A PID names whoever has it at the moment. A pidfd (pidfd_open(2), Linux 5.3) names one process for good, so
that the order of the moves is what makes a signal safe:

    1. open a pidfd for the PID
    2. look through /proc at who has the PID now: start, user, program, cgroup, sockets
    3. see that the pidfd's process has not ended
    4. send the signal through the pidfd

If the pidfd's process had ended before 2, step 3 tells; if it has not, it had its PID all the time, and what
was seen in 2 is about it. From then on no PID is used any more.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass

from runbook.errors import AccessDenied, HostError
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import Holder, Process, SignalResult
from runbook.host.kernel import descriptors, processes
from runbook.host.kernel import protected as keepers
from runbook.model import ProcessId

_UNSEEN = "its namespaces may not be looked at, so that it could be in a container"


@dataclass(frozen=True)
class OwnProcess:
    """This program, so that it does not saw off the branch it sits on: its ancestors, its session, its namespaces.

    Its session's leader is an ancestor too, though a parent in between may have ended (`(runbook apply FILE &)`).
    """

    id: ProcessId
    ancestors: frozenset[ProcessId]
    pid_namespace: int
    user_namespace: int

    @classmethod
    def read(cls) -> OwnProcess:
        """Look at this very process. Raises HostError where /proc does not show it, or shows others' PIDs."""
        pid = os.getpid()
        me = processes.read_process(pid)
        if me is None or os.readlink("/proc/self") != str(pid):  # noqa: PTH115
            raise HostError("cannot tell processes apart: /proc is not that of this program's PID namespace")
        leader = processes.read_id(os.getsid(0))  # 0, and nobody, where it is outside of our PID namespace.
        above = {*processes.read_ancestor_ids(pid), *([leader] if leader is not None else [])}
        return cls(me.id, frozenset(above), me.pid_namespace, me.user_namespace)


def find_protection(process: Process, *, me: OwnProcess) -> str:
    """Say why a process may never be ended, whatever it holds; nothing if it may."""
    if process.pid == 1:
        return "it is PID 1, which the machine cannot do without"
    if process.kernel:
        return "it is a thread of the kernel"
    if process.id == me.id:
        return "it is this very program"
    if process.id in me.ancestors:
        return "this program was started from it; start it from elsewhere"
    return describe_container(process, me) or _protection_by_cgroup(process) or keepers.find_program_protection(process)


def signal_process(
    holder: Holder,
    signum: signal.Signals,
    *,
    still: Callable[[Process], bool] = lambda _: True,
    moment: Callable[[str], None] = lambda _: None,
) -> SignalResult:
    """Signal the holder's process through a pidfd, if it is still what was judged.

    `still` has the last word about a process that is the same. `moment` is told the name of each point
    between two moves, so that a test can let the world change there. Raises AccessDenied and HostError.
    """
    judged = holder.process
    moment("judged")
    try:
        fd = os.pidfd_open(judged.pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return SignalResult.GONE  # EINVAL, and since Linux 6.14 ENOENT: the PID is that of somebody's thread now
        raise HostError(f"cannot signal {judged}: {error.strerror}") from error
    try:
        moment("opened")
        now = processes.read_process(judged.pid)
        allowed = (
            now is not None and _same(holder, now) and not find_protection(now, me=OwnProcess.read()) and still(now)
        )
        moment("checked")
        if now is None or now.id != judged.id or _has_exited(fd):
            return SignalResult.GONE
        if not allowed:
            return SignalResult.CHANGED
        moment("about to signal")
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return SignalResult.GONE
    except PermissionError as error:
        raise AccessDenied(
            f"cannot send {signum.name} to {judged}: it belongs to user {judged.user}", hint="run it as root"
        ) from error
    finally:
        os.close(fd)
    return SignalResult.SENT


def open_pidfd(process: ProcessId) -> int | None:
    """Open a descriptor that is readable once this very process has ended, or None if it has.

    Raises HostError when no descriptor is to be had.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise HostError(f"cannot watch PID {process.pid}: {error.strerror}") from error
    # Only now: what is asked after the opening is asked of the process that the descriptor names.
    if processes.is_alive(process) and not _has_exited(fd):
        return fd
    os.close(fd)
    return None


def _has_exited(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _same(holder: Holder, now: Process) -> bool:
    """Whether the process is still what was judged, if it is still that process at all."""
    judged = holder.process
    return (
        now.uid == judged.uid
        and now.cgroup == judged.cgroup
        # The same file, even if an upgrade has removed it in the meantime.
        and now.exe.removesuffix(keepers.DELETED) == judged.exe.removesuffix(keepers.DELETED)
        and (not holder.sockets or descriptors.holds_any_socket(now.pid, {socket.inode for socket in holder.sockets}))
    )


def describe_container(process: Process, me: OwnProcess) -> str:
    """Say that a process runs in a container, by its namespaces, or that this cannot be seen; nothing if neither."""
    if process.pid_namespace != me.pid_namespace:
        return "it runs in a container (another PID namespace)" if process.pid_namespace else _UNSEEN
    # A service with PrivateUsers= has a user namespace too, and is no container for that.
    if process.user_namespace != me.user_namespace and parse_cgroup_path(process.cgroup).kind is not CgroupKind.SERVICE:
        return "it runs in a container (another user namespace)" if process.user_namespace else _UNSEEN
    return ""


def _protection_by_cgroup(process: Process) -> str:
    place = parse_cgroup_path(process.cgroup)
    if place.container:
        return f"it belongs to the container {place.machine or place.unit or process.cgroup}"
    if place.kind is CgroupKind.MANAGER:
        return f"it is in the cgroup of a systemd manager ({place.unit})"
    return ""
