"""Real processes are signalled through pidfds while they change between two steps; protected processes."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runbook.errors import AccessDenied, HostError
from runbook.host.holders import Holder, Process, Role, SignalResult
from runbook.host.kernel import processes, signals
from runbook.host.kernel.signals import OwnProcess, find_protection, open_pidfd
from runbook.model import ProcessId

from . import recycling
from .family import Family, was_hit
from .moments import MOMENTS, signal_with_change


def signal_process(
    holder: Holder, signum: signal.Signals = signal.SIGTERM, confirm: Callable[[Process], bool] = lambda _: True
) -> SignalResult:
    return signals.signal_process(holder, signum, confirm=confirm)


def test_the_judged_process_is_signalled_and_similar_ones_are_not(family: Family) -> None:
    twin, victim = family.bear(), family.bear()
    moments: list[str] = []
    assert signal_with_change(family.judged(victim), moments.append) is SignalResult.SENT
    assert was_hit(victim)
    assert not was_hit(twin)
    assert tuple(moments) == MOMENTS


@pytest.mark.root
@pytest.mark.parametrize("moment", [*MOMENTS, "watched"])
def test_a_process_with_a_reused_pid_is_not_signalled(moment: str) -> None:
    """The next owner of the PID has the same program, user, cgroup and socket: only its start is another.

    In a PID namespace of its own, where no other process takes a PID that is to be reused.
    """
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m"]
    done = subprocess.run([*alone, recycling.__name__, moment], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"reused": 1000, "gone": 1000, "alive": 1000, "hit": 0}, done.stderr


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_exits_in_between_is_gone(family: Family, moment: str) -> None:
    pid = family.bear()
    holder = family.judged(pid)
    gone = signal_with_change(holder, lambda now: family.end(pid) if now == moment else None)
    assert gone is SignalResult.GONE


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"cgroup": "/user.slice/session-1.scope"}, id="cgroup"),
        pytest.param({"uid": 12345}, id="user"),
        pytest.param({"exe": "/usr/bin/another"}, id="program"),
    ],
)
def test_a_process_that_has_changed_is_not_signalled(family: Family, other: dict[str, Any]) -> None:
    pid = family.bear()
    holder = family.judged(pid)
    judged = dataclasses.replace(holder, process=dataclasses.replace(holder.process, **other))
    assert signal_process(judged, signal.SIGTERM) is SignalResult.CHANGED
    assert not was_hit(pid)


def test_a_process_that_closed_the_socket_is_not_signalled(family: Family) -> None:
    pid = family.bear()
    holder = family.judged(pid)
    (held,) = holder.sockets
    former = held._replace(inode=1)
    assert signal_process(dataclasses.replace(holder, sockets=(former,)), signal.SIGTERM) is SignalResult.CHANGED
    assert not was_hit(pid)
    # One of several is enough, and a leftover may hold none at all.
    assert signal_process(dataclasses.replace(holder, sockets=(former, held)), signal.SIGTERM) is SignalResult.SENT
    assert signal_process(dataclasses.replace(holder, sockets=()), signal.SIGTERM) is SignalResult.SENT


def test_a_program_that_an_upgrade_removed_is_still_the_same(family: Family) -> None:
    pid = family.bear()
    holder = family.judged(pid)
    process = dataclasses.replace(holder.process, exe=holder.process.exe + " (deleted)")
    assert signal_process(dataclasses.replace(holder, process=process), signal.SIGTERM) is SignalResult.SENT


def test_the_caller_decides_last(family: Family) -> None:
    pid = family.bear()
    holder = family.judged(pid)
    assert signal_process(holder, confirm=lambda now: now.id != holder.process.id) is SignalResult.CHANGED
    assert not was_hit(pid)


def test_a_protected_process_is_not_signalled_whatever_was_judged() -> None:
    for pid in (os.getpid(), os.getppid()):
        process = processes.read_process(pid)
        assert process is not None
        # SIGURG does no harm, should this fail.
        assert signal_process(Holder(process, Role.ORPHAN, "", "", ()), signal.SIGURG) is SignalResult.CHANGED


def test_a_thread_of_another_process_is_not_a_process() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert thread.native_id is not None
    someone = Process(ProcessId(thread.native_id, 1), 1, 0, "root", "x", "S", "/")
    try:
        assert signal_process(Holder(someone, Role.ORPHAN, "", "", ()), signal.SIGURG) is SignalResult.GONE
        assert open_pidfd(someone.id) is None
    finally:
        release.set()
        thread.join()


def test_a_missing_permission_is_reported(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    holder = family.judged(family.bear())
    with pytest.raises(AccessDenied, match=r"cannot send SIGTERM to PID \d+ \(.+\): it belongs to user") as caught:
        signal_process(holder, signal.SIGTERM)
    assert caught.value.hint == "run it as root"


def test_without_a_free_descriptor_no_process_counts_as_gone(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    holder = family.judged(family.bear())
    with pytest.raises(HostError, match=r"cannot signal PID \d+ \(.+\): Too many open files"):
        signal_process(holder, signal.SIGTERM)
    with pytest.raises(HostError, match=r"cannot watch PID \d+: Too many open files"):
        open_pidfd(holder.process.id)


def test_no_descriptor_is_left_behind(family: Family) -> None:
    holder = family.judged(family.bear())
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    signal_process(holder, signal.SIGTERM)
    signal_process(dataclasses.replace(holder, sockets=(holder.sockets[0]._replace(inode=1),)), signal.SIGTERM)
    assert open_pidfd(ProcessId(holder.process.pid, 1)) is None
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_a_pidfd_becomes_readable_at_the_exit(family: Family) -> None:
    pid = family.bear()
    process = family.judged(pid).process.id
    fd = open_pidfd(process)
    assert fd is not None
    try:
        assert not select.select([fd], [], [], 0)[0]
        family.end(pid)
        assert select.select([fd], [], [], 0)[0]
    finally:
        os.close(fd)
    assert open_pidfd(process) is None


# Who must live --------------------------------------------------------------------------------------------------

ME = OwnProcess(ProcessId(500, 50), frozenset({ProcessId(400, 40), ProcessId(1, 0)}), 4026531836, 4026531837)
ORDINARY = Process(
    ProcessId(900, 90),
    ppid=1,
    uid=1000,
    user="agentops",
    name="node",
    state="S",
    cgroup="/user.slice/user-1000.slice/session-9.scope",
    command=("node", "gateway.js"),
    exe="/usr/bin/node",
    pid_namespace=ME.pid_namespace,
    user_namespace=ME.user_namespace,
)
USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    "ordinary",
    [
        pytest.param({}, id="in a login"),
        pytest.param({"name": "bash", "command": ("-bash",), "exe": "/usr/bin/bash"}, id="a shell"),
        pytest.param({"name": "ssh", "command": ("ssh", "-L", "80:x:80"), "exe": "/usr/bin/ssh"}, id="an ssh client"),
        pytest.param({"command": (), "exe": ""}, id="closed to us"),
        pytest.param({"cgroup": f"{USER}/app.slice/run-r1.scope"}, id="in a scope of a user's manager"),
        pytest.param(
            {"cgroup": "/system.slice/gw.service", "user_namespace": 7}, id="left over by a service with PrivateUsers="
        ),
        pytest.param({"uid": 1000, "command": ("@odd",)}, id="an @ that is not root's"),
        pytest.param({"command": ("node", "sshd")}, id="sshd as a mere argument"),
        pytest.param({"id": ProcessId(400, 41)}, id="the PID of a former ancestor"),
        pytest.param({"command": (" ", "x")}, id="an empty title"),
    ],
)
def test_an_ordinary_process_may_be_killed(ordinary: dict[str, Any]) -> None:
    assert find_protection(dataclasses.replace(ORDINARY, **ordinary), me=ME) == ""


@pytest.mark.parametrize(
    ("special", "why"),
    [
        ({"id": ProcessId(1, 0)}, "PID 1"),
        ({"kernel": True}, "thread of the kernel"),
        ({"id": ProcessId(500, 50)}, "this very program"),
        ({"id": ProcessId(400, 40)}, "started from it"),
        ({"pid_namespace": 5}, "a container (another PID namespace)"),
        ({"user_namespace": 5}, "a container (another user namespace)"),
        ({"pid_namespace": 0}, "cannot be read"),
        ({"cgroup": "/system.slice/gw.service", "pid_namespace": 5}, "a container (another PID namespace)"),
        ({"cgroup": f"/docker/{'0' * 64}"}, "the container 000000000000"),
        ({"cgroup": "/machine.slice/machine-web.scope"}, "the container web"),
        ({"cgroup": "/init.scope"}, "a systemd manager (init.scope)"),
        ({"cgroup": f"{USER}/init.scope"}, "a systemd manager (user@1000.service)"),
        ({"exe": "/usr/lib/systemd/systemd", "name": "systemd"}, "a systemd manager"),
        ({"exe": "", "name": "systemd", "command": ("/lib/systemd/systemd", "--user")}, "a systemd manager"),
        ({"exe": "", "name": "(sd-pam)", "command": ("(sd-pam)",)}, "a user's systemd"),
        ({"exe": "/usr/sbin/sshd", "name": "sshd", "command": ("sshd: root@pts/0",)}, "people's connections"),
        ({"exe": "/usr/sbin/sshd (deleted)", "name": "x", "command": ("x",)}, "people's connections"),
        ({"exe": "/usr/lib/openssh/sshd-session", "name": "sshd-session"}, "people's connections"),
        ({"exe": "", "name": "x", "command": ("sshd: agentops [priv]",)}, "people's connections"),
        ({"exe": "", "name": "x", "command": ("/usr/sbin/sshd", "-D")}, "people's connections"),
        ({"exe": "/usr/bin/tmux", "name": "tmux: server", "command": ("tmux", "new")}, "people's connections"),
        ({"exe": "/opt/tmux-3.5", "name": "tmux: server", "command": ("tmux",)}, "people's connections"),
        ({"exe": "/usr/bin/screen-4.9.1", "name": "screen", "command": ("SCREEN",)}, "people's connections"),
        ({"exe": "/usr/bin/zellij", "name": "zellij"}, "people's connections"),
        ({"exe": "/usr/bin/dbus-daemon", "name": "dbus-daemon"}, "message bus"),
        ({"exe": "", "name": "dbus-broker-lau", "command": ()}, "message bus"),
        ({"exe": "/usr/bin/conmon", "name": "conmon"}, "keeps a container"),
        ({"exe": "/usr/bin/pasta.avx2", "name": "pasta.avx2"}, "keeps a container"),
        ({"uid": 0, "command": ("@lvmstore",)}, "must run until the end"),
    ],
)
def test_the_reason_why_a_process_is_protected(special: dict[str, Any], why: str) -> None:
    assert why in find_protection(dataclasses.replace(ORDINARY, **special), me=ME)


def test_this_program_and_its_ancestors_are_protected() -> None:
    me = OwnProcess.read()
    pid = os.getpid()
    while pid:
        process = processes.read_process(pid)
        assert process is not None
        assert find_protection(process, me=me)
        pid = process.ppid


def test_a_child_of_this_program_may_be_killed() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        process = processes.read_process(child.pid)
        assert process is not None
        assert find_protection(process, me=OwnProcess.read()) == ""
    finally:
        child.kill()
        child.wait()


def test_a_proc_of_another_pid_namespace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "readlink", lambda path, *, dir_fd=None: b"" if dir_fd else "4711")
    with pytest.raises(HostError, match="cannot tell processes apart"):
        OwnProcess.read()
