"""Signals one process, and only the one that was judged; finds which processes are protected.

A PID names whichever process has it at the moment. A pidfd (pidfd_open(2), Linux 5.3) names one process for good, so
the order of the steps makes a signal safe:

    1. open a pidfd for the PID
    2. read through /proc which process has the PID now: start, user, program, cgroup, sockets
    3. check that the pidfd's process has not exited
    4. send the signal through the pidfd

If the pidfd's process had exited before 2, step 3 shows it. If it had not, it had its PID all the time, and 2 has read
that process. From then on no PID is used any more.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable

from runbook.errors import AccessDenied, HostError
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import Holder, Process, SignalResult
from runbook.host.kernel import descriptors, processes, protected
from runbook.host.kernel.look_limit import LookLimit
from runbook.model import ProcessId, frozen

_NO_SUCH_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""Errors of pidfd_open(2) for a PID without a process. EINVAL, since Linux 6.14 ENOENT: it is a thread's now."""

_UNREADABLE = "its namespaces cannot be read, so it may be in a container"


@frozen
class OwnProcess:
    """This program, whose ancestors must not be killed: it would end with them."""

    id: ProcessId
    ancestors: frozenset[ProcessId]
    """Its session's leader is one, too, though a parent in between may have exited (`(runbook apply FILE &)`)."""
    pid_namespace: int
    user_namespace: int

    @classmethod
    def read(cls) -> OwnProcess:
        """Read this process. Raises HostError if /proc is that of another PID namespace, or does not show it."""
        pid = os.getpid()
        me = processes.read_outline(pid)
        if me is None or os.readlink("/proc/self") != str(pid):  # noqa: PTH115
            raise HostError("cannot tell processes apart: /proc is not that of this program's PID namespace")
        # 0, which no process has, if the leader is outside of our PID namespace.
        leader = processes.read_id(os.getsid(0))
        ancestors = frozenset(filter(None, (leader, *processes.read_ancestor_ids(pid))))
        return cls(me.id, ancestors, me.pid_namespace, me.user_namespace)


def find_protection(process: Process, *, me: OwnProcess) -> str:
    """Return why a process must never be killed, whatever it holds; empty if it may be."""
    if process.pid == 1:
        return "it is PID 1, which the machine cannot do without"
    if process.kernel:
        return "it is a thread of the kernel"
    if process.id == me.id:
        return "it is this very program"
    if process.id in me.ancestors:
        return "this program was started from it; start it from elsewhere"
    if process.stalled:
        return "the kernel does not return its command line and environment, so it cannot be judged"
    return (
        describe_container(process, me) or _protection_by_cgroup(process) or protected.find_program_protection(process)
    )


def signal_process(
    holder: Holder, signum: signal.Signals, *, confirm: Callable[[Process], bool], limit: LookLimit | None = None
) -> SignalResult:
    """Signal the holder's process through a pidfd, if it is still the process that was judged.

    `confirm` decides last, about a process that is unchanged. Raises AccessDenied, LookLimitExceeded and HostError.
    """
    target = holder.process
    if (fd := _open(target.pid, f"signal {target}")) is None:
        return SignalResult.GONE
    try:
        now = processes.read_process(target.pid)
        if now is None or now.id != target.id:
            return SignalResult.GONE
        is_allowed = (
            _is_unchanged(holder, now, limit) and not find_protection(now, me=OwnProcess.read()) and confirm(now)
        )
        if _has_exited(fd):
            return SignalResult.GONE
        if not is_allowed:
            return SignalResult.UNREAD if now.stalled else SignalResult.CHANGED
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return SignalResult.GONE
    except PermissionError as error:
        raise AccessDenied(
            f"cannot send {signum.name} to {target}: it belongs to user {target.user}", hint="run it as root"
        ) from error
    finally:
        os.close(fd)
    return SignalResult.SENT


def open_pidfd(process: ProcessId) -> int | None:
    """Open a descriptor that becomes readable when this very process exits; None if it has exited.

    Raises HostError if no descriptor can be opened.
    """
    if (fd := _open(process.pid, f"watch PID {process.pid}")) is None:
        return None
    # Only after the opening: the start time that is read now is that of the descriptor's process.
    if processes.is_alive(process) and not _has_exited(fd):
        return fd
    os.close(fd)
    return None


def describe_container(process: Process, me: OwnProcess) -> str:
    """Return why a process counts as in a container: other namespaces, or unreadable ones. Empty if it does not."""
    if process.pid_namespace != me.pid_namespace:
        return "it runs in a container (another PID namespace)" if process.pid_namespace else _UNREADABLE
    # A service with PrivateUsers= has its own user namespace, too, and is not in a container.
    if process.user_namespace != me.user_namespace and parse_cgroup_path(process.cgroup).kind is not CgroupKind.SERVICE:
        return "it runs in a container (another user namespace)" if process.user_namespace else _UNREADABLE
    return ""


def _open(pid: int, what: str) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_SUCH_PROCESS:
            return None
        raise HostError(f"cannot {what}: {error.strerror}") from error


def _protection_by_cgroup(process: Process) -> str:
    place = parse_cgroup_path(process.cgroup)
    if place.container:
        return f"it belongs to the container {place.machine or place.unit or process.cgroup}"
    if place.kind is CgroupKind.MANAGER:
        return f"it is in the cgroup of a systemd manager ({place.unit})"
    return ""


def _has_exited(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _is_unchanged(holder: Holder, now: Process, limit: LookLimit | None) -> bool:
    """True if a process is still what was judged, apart from its start time, which the caller compares."""
    before, sockets = holder.process, {socket.inode for socket in holder.sockets}
    return (
        now.uid == before.uid
        and now.cgroup == before.cgroup
        # The same file, even if an upgrade has removed it since.
        and now.exe_path == before.exe_path
        and (not sockets or bool(descriptors.find_held_sockets(now.pid, sockets, limit)))
    )
